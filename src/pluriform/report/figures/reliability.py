"""Reliability diagrams: accuracy against stated confidence, one small plot a form, before and after the temperature."""

import math
from collections.abc import Sequence
from typing import Any

from pluriform.report.digits import Format, format_of, plain
from pluriform.report.figures.section import Plot, Section, Table, View, axis, colour, layout, line
from pluriform.report.row import Row, number
from pluriform.result import Curve

__all__ = ["reliability"]

_Z = 1.96


def reliability(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row has a reliability curve."""
    shown = [row for row in rows if row.curves("reliability")]
    if not shown:
        return None
    scaled = any(curve.condition for row in shown for curve in row.curves("reliability"))
    form = format_of("ece", "", [m.value for row in shown for m in row.measures("ece")])
    strokes = (("as fitted", "solid"), ("after temperature scaling", "dash")) if scaled else ()
    return Section(
        "reliability",
        "Calibration",
        "Can its confidence be believed?",
        "Accuracy against stated confidence on the test set. On the dotted diagonal, 80 % confidence is right 80 % of "
        "the time; below it the form is overconfident, above it underconfident. Larger marks stand for more "
        "samples, bars are 95 % intervals of each bin.",
        (View(tuple(_plot(row, form) for row in shown)),),
        _table(shown),
        strokes=strokes,
        small=True,
    )


def _plot(row: Row, form: Format) -> Plot:
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 100],
        "y": [0, 100],
        "line": {"color": "@axis", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    curves = sorted(row.curves("reliability"), key=lambda curve: len(curve.condition))
    before, after = row.measure("ece"), next(iter(row.measures("ece", "temperature")), None)
    figures = " → ".join(form(m.value) for m in (before, after) if m)
    figures = f"ECE {figures}" if figures else ""
    frame = layout(
        axis("confidence, %", range=[-3, 104], tickvals=[0, 50, 100]),
        axis("accuracy, %", range=[-3, 104], tickvals=[0, 50, 100]),
        270,
        14,
    )
    narrow = {"height": 200, "margin": {"l": 40, "r": 10, "t": 12, "b": 44}}
    description = f"Reliability diagram of {row.label}. {figures}."
    return Plot(
        [diagonal, *(_line(row, curve) for curve in curves)], frame, description, narrow, row.label, row.index, figures
    )


def _line(row: Row, curve: Curve) -> dict[str, Any]:
    columns = curve.columns
    triples = zip(columns.get("confidence", ()), columns.get("accuracy", ()), columns.get("count", ()), strict=False)
    points = [
        (c, min(1.0, max(0.0, a)), n)
        for c, a, n in ([number(v) for v in triple] for triple in triples)
        if c is not None and a is not None and n and n > 0
    ]
    total = sum(n for _, _, n in points)
    sizes = [max(4.0, 22 * math.sqrt(n / total)) for _, _, n in points]
    trace = line(
        row,
        [100 * c for c, _, _ in points],
        [100 * a for _, a, _ in points],
        dash="dash" if curve.condition else "solid",
        hover="confidence %{x:.1f} %<br>accuracy %{y:.1f} %<br>%{customdata:.0f} samples",
        customdata=[n for _, _, n in points],
    )
    fill = colour(row, 0.55) if not curve.condition else "@clear"
    looks = {"size": sizes, "color": fill, "symbol": "circle"}
    trace |= {"marker": trace["marker"] | looks, "line": trace["line"] | {"width": 1.25, "color": colour(row, 0.7)}}
    if not curve.condition:
        trace["error_y"] = _bars(row, points)
    return trace


def _bars(row: Row, points: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """95 % Wilson intervals, so that bins of few samples are seen to say little."""
    above, below = [], []
    for _, accuracy, count in points:
        centre = (accuracy + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        half = _Z * math.sqrt(accuracy * (1 - accuracy) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
        above.append(max(0.0, 100 * (centre + half - accuracy)))
        below.append(max(0.0, 100 * (accuracy - centre + half)))
    style = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour(row, 0.4)}
    return style | {"array": above, "arrayminus": below}


def _table(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        after = next(iter(row.measures("ece", "temperature")), None)
        likelihood = next(iter(row.measures("nll", "temperature")), None)
        measured = [row.measure("ece"), after, row.measure("nll"), likelihood, row.measure("calibration_gap")]
        temperature = "–" if after is None else f"{after.condition['temperature']:.2f}"
        return (row.label, temperature, *("–" if m is None else plain(m.name, m.unit, m.value) for m in measured))

    header = ("Form", "Temperature", "ECE", "ECE scaled", "NLL", "NLL scaled", "Calibration gap")
    return Table(header, tuple(cells(row) for row in rows))
