"""Predictive bands of 1-D regression, one plot a form."""

from collections.abc import Sequence
from typing import Any

from pluriform.report.digits import plain, share
from pluriform.report.figures.section import Plot, Section, Table, View, axis, colour, layout
from pluriform.report.row import Row, number
from pluriform.result import Curve

__all__ = ["bands"]


def bands(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row has a predictive band."""
    shown = [row for row in rows if row.curves("predictive_band")]
    if not shown:
        return None
    observations = next((c for row in shown for c in row.curves("observations")), None)
    span = _span(shown, observations)
    return Section(
        "bands",
        "Predictions",
        "What does it predict, and how sure is it?",
        "Mean (line) and 95 % band over the input, with the observations (dots). A good band is narrow where there are "
        "observations and opens where there are none.",
        (View(tuple(_plot(row, observations, span) for row in shown)),),
        _table(shown),
        strokes=(("mean", "solid"), ("band", "filled"), ("observation", "dots")),
        small=True,
    )


def _span(rows: Sequence[Row], observations: Curve | None) -> list[float]:
    """One y range for all, so that the bands can be compared; set by the bulk of the values."""
    values = [
        number(v)
        for row in rows
        for c in row.curves("predictive_band")
        for k in ("low", "high")
        for v in c.columns.get(k, ())
    ]
    known = sorted(v for v in values if v is not None)
    seen = [v for v in map(number, observations.columns.get("y", ()) if observations else ()) if v is not None]
    low, high = (known[len(known) // 100], known[-1 - len(known) // 100]) if known else (0.0, 1.0)
    low, high = min([low, *seen]), max([high, *seen])
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)]


def _plot(row: Row, observations: Curve | None, span: list[float]) -> Plot:
    curve = row.curves("predictive_band")[0]
    columns = {key: [number(v) for v in curve.columns.get(key, ())] for key in ("x", "mean", "low", "high")}
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": columns["x"],
        "hoverinfo": "skip",
        "line": {"color": colour(row, 0.5), "width": 1},
    }
    traces: list[dict[str, Any]] = [
        edge | {"y": columns["low"]},
        edge | {"y": columns["high"], "fill": "tonexty", "fillcolor": colour(row, 0.22)},
    ]
    own = next(iter(row.curves("observations")), observations)
    if own is not None:
        dots = {"color": "@ink/0.7", "size": 4}
        points = {"x": list(own.columns.get("x", ())), "y": list(own.columns.get("y", ()))}
        traces.append({"type": "scatter", "mode": "markers", "marker": dots, "hoverinfo": "skip"} | points)
    mean = {"color": colour(row), "width": 2.5}
    hover = "x %{x:.3g}: mean %{y:.3g}<extra></extra>"
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": columns["x"],
            "y": columns["mean"],
            "line": mean,
            "hovertemplate": hover,
        }
    )
    frame = layout(axis("x"), axis("y", range=span, nticks=6), 280, 8)
    narrow = {"height": 240, "margin": {"l": 40, "r": 6, "t": 6, "b": 44}}
    return Plot(traces, frame, f"Predictive mean and band of {row.label} over x.", narrow, row.label, row.index)


def _table(rows: Sequence[Row]) -> Table:
    def cells(row: Row) -> tuple[str, ...]:
        plainly = [row.measure("rmse"), row.measure("nll")]
        covered = ", ".join(
            f"{share(m.value)} % of {100 * m.condition['level']:g} %" for m in row.measures("coverage", "level")
        )
        return (row.label, *("–" if m is None else plain(m.name, m.unit, m.value) for m in plainly), covered or "–")

    return Table(("Form", "RMSE", "NLL", "Coverage"), tuple(cells(row) for row in rows))
