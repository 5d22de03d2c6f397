"""Risk against coverage: the error that remains when the least certain samples are left to somebody else."""

import math
from collections.abc import Sequence
from typing import Any

from pluriform.report.digits import plain
from pluriform.report.figures.section import Plot, Section, Table, View, axis, end_labels, label_room, layout, line
from pluriform.report.row import Row, number
from pluriform.result import Curve

__all__ = ["risk_coverage"]

_HEIGHT, _POINTS = 380, 150


def risk_coverage(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row has a risk-coverage curve."""
    whole = {row.index: points for row in rows for c in row.curves("risk_coverage")[:1] if (points := _points(c))}
    shown = [row for row in rows if row.index in whole]
    if not shown:
        return None
    start = _start(list(whole.values()))
    curves = {index: [point for point in points if point[0] >= start] for index, points in whole.items()}
    top = max(1.08 * 100 * max(risk for points in curves.values() for _, risk in points), 1e-3)
    ends = [(row, 100 * curves[row.index][-1][1]) for row in shown]
    names = ", ".join(row.label for row in shown)
    frame = layout(
        axis("coverage: samples kept, most certain first, %", range=[100 * start, 100 + (1 - start)]),
        axis("risk: errors among them, %", range=[0, top], nticks=6),
        _HEIGHT,
        label_room(shown),
        annotations=end_labels(ends, 0.0, top, _HEIGHT),
    )
    narrow = {
        "height": 320,
        "margin": {"l": 48, "r": 10, "t": 10, "b": 48},
        "annotations": [],
        "xaxis": frame["xaxis"] | {"title": frame["xaxis"]["title"] | {"text": "coverage, %"}},
        "yaxis": frame["yaxis"] | {"title": frame["yaxis"]["title"] | {"text": "risk, %"}},
    }
    description = f"Line plot of risk against coverage for {names}. The table below has the numbers."
    return Section(
        "risk-coverage",
        "Abstaining",
        "Does it know when to abstain?",
        "The error that remains when only the most certain samples are answered. Low for longer is better; the right "
        "end is the plain error. AURC is the area under the line.",
        (View((Plot([_line(row, curves[row.index]) for row in shown], frame, description, narrow),)),),
        _table(shown, whole),
        legend=tuple(shown),
        direct=True,
    )


def _start(curves: Sequence[Sequence[tuple[float, float]]]) -> float:
    """The coverage at which the axis begins: a round one before any risk to speak of, zero unless that is far."""
    top = max(risk for points in curves for _, risk in points)
    first = min((c for points in curves for c, risk in points if risk > 0.02 * top), default=0.0)
    round_down = math.floor(10 * first) / 10 - 0.1
    return round_down if round_down >= 0.4 else 0.0


def _points(curve: Curve) -> list[tuple[float, float]]:
    """At most `_POINTS` of the points, ends included."""
    pairs = zip(curve.columns.get("coverage", ()), curve.columns.get("risk", ()), strict=False)
    points = sorted((c, r) for c, r in ((number(c), number(r)) for c, r in pairs) if c is not None and r is not None)
    if len(points) <= _POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (_POINTS - 1))] for i in range(_POINTS)]


def _line(row: Row, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    hover = "risk %{y:.2f} % at coverage %{x:.0f} %"
    trace = line(row, [100 * c for c, _ in points], [100 * r for _, r in points], hover=hover)
    return trace | {"marker": trace["marker"] | {"maxdisplayed": 8}}


def _table(rows: Sequence[Row], curves: dict[int, list[tuple[float, float]]]) -> Table:
    rungs = (0.5, 0.8, 0.9, 0.95, 1.0)
    lines = []
    for row in rows:
        area = row.measure("aurc")
        risks = [next((risk for c, risk in curves[row.index] if c >= rung - 1e-9), None) for rung in rungs]
        cells = ["–" if risk is None else f"{100 * risk:.2f}" for risk in risks]
        lines.append((row.label, "–" if area is None else plain("aurc", "", area.value), *cells))
    return Table(("Form", "AURC", *(f"risk at {100 * rung:g} %, %" for rung in rungs)), tuple(lines))
