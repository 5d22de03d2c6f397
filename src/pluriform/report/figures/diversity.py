"""What members do alone and how they differ: on the test set one small plot a figure, and through training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pluriform.report.digits import plain
from pluriform.report.figures.section import Choice, Plot, Section, Table, View, axis, colour, layout, line, text
from pluriform.report.row import Row, number
from pluriform.result import Curve

__all__ = ["diversity", "verdict"]


@dataclass(frozen=True)
class _Panel:
    """One small plot.

    Attributes:
        title: Above it.
        name: The measure, or the column of the history.
        other: What stands beside it: the ensemble's figure where `name` is the members'.
        factor: 100 for shares in per cent.
        unit: Of the axis.
    """

    title: str
    name: str
    other: str = ""
    factor: float | int = 1
    unit: str = ""


_TEST = (
    _Panel("Negative log-likelihood", "member_nll", "nll", unit="nats"),
    _Panel("RMSE", "member_rmse", "rmse"),
    _Panel("Accuracy", "member_accuracy", "accuracy", 100, "%"),
    _Panel("Disagreement", "disagreement", factor=100, unit="% of pairs"),
    _Panel("Mutual information", "mutual_information", unit="nats"),
    _Panel("Spread of the members", "member_spread"),
    _Panel("Error correlation", "error_correlation"),
    _Panel("Distance of the weights", "weight_distance", factor=100, unit="% of their norm"),
)
_TRAINING = (
    _Panel("Validation NLL", "member_nll", "validation_nll", unit="nats"),
    _Panel("Disagreement", "disagreement", factor=100, unit="% of pairs"),
    _Panel("Mutual information", "mutual_information", unit="nats"),
    _Panel("Spread of weight norms", "weight_spread", factor=100, unit="% of the norm"),
    _Panel("Distance of the weights", "weight_distance", factor=100, unit="% of their norm"),
)
_ON_TEST, _WHILE_TRAINING = "on the test set", "through training"


def diversity(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row has members."""
    shown = [row for row in rows if row.measure("collapsed") or row.measure("disagreement") or _history(row)]
    kinds = {_ON_TEST: _test_plots(shown), _WHILE_TRAINING: _training_plots(shown)}
    kinds = {kind: plots for kind, plots in kinds.items() if plots}
    if not kinds:
        return None
    several = len(kinds) > 1
    caption = (
        "The gap between the mean member (open) and the ensemble (filled) is what the members gain by being different; "
        "where there is none, one of them would do."
    )
    if _WHILE_TRAINING in kinds:
        caption += (
            " Through training, a ring marks the epoch that was kept; a curve that falls without end is a collapse."
        )
    return Section(
        "diversity",
        "Diversity",
        "How different are the members?",
        " ".join([caption, *(f"{row.label} {said}." for row in shown if (said := _warning(row)))]),
        tuple(View(plots, (kind,) if several else ()) for kind, plots in kinds.items()),
        _table(shown),
        (Choice("Show", tuple(kinds)),) if several else (),
        legend=tuple(shown),
        strokes=(("ensemble, filled", "solid"), ("mean member, open", "dash")),
        small=True,
    )


def verdict(row: Row) -> str:
    """What the evaluation said of the members, without its figures: empty where it said nothing."""
    protocol = row.result.protocol.get("diversity")
    said = protocol.get("verdict", "") if isinstance(protocol, Mapping) else ""
    return str(said).split(" (")[0]


def _warning(row: Row) -> str:
    said = verdict(row)
    return f"has {said}" if said.startswith("collapsed") else f"is {said}" if said.startswith("narrow") else ""


def _history(row: Row) -> Curve | None:
    return next((curve for curve in row.curves("diversity_history") if curve.columns.get("epoch")), None)


def _test_plots(rows: Sequence[Row]) -> tuple[Plot, ...]:
    panels = [(panel, [row for row in rows if _value(row, panel.name) is not None]) for panel in _TEST]
    return tuple(_test_plot(panel, measured) for panel, measured in panels if measured)


def _value(row: Row, name: str) -> float | None:
    found = row.measure(name)
    return None if found is None else found.value


def _test_plot(panel: _Panel, rows: Sequence[Row]) -> Plot:
    traces: list[dict[str, Any]] = []
    for place, row in enumerate(rows):
        traces += _dumbbell(panel, row, -float(place))
    frame = layout(
        axis(panel.unit, nticks=5, rangemode="tozero" if not panel.other else "normal"),
        axis(range=[0.6 - len(rows), 0.6], showticklabels=False, showgrid=False, ticks=""),
        96 + 22 * len(rows),
        10,
        margin={"l": 14, "r": 14, "t": 6, "b": 48},
    )
    values = "; ".join(f"{row.label} {_said(row, panel)}" for row in rows)
    return Plot(
        traces, frame, f"{panel.title}: {values}.", {"margin": {"l": 10, "r": 10, "t": 6, "b": 46}}, panel.title
    )


def _said(row: Row, panel: _Panel) -> str:
    own, other = _value(row, panel.name), _value(row, panel.other) if panel.other else None
    told = plain(panel.name, "", own)
    return told if other is None else f"{told} for the mean member, {plain(panel.other, '', other)} for the ensemble"


def _dumbbell(panel: _Panel, row: Row, place: float) -> list[dict[str, Any]]:
    """The member's figure, and that of the ensemble joined to it; a single figure has its interval."""
    found, other = row.measure(panel.name), row.measure(panel.other) if panel.other else None
    value = panel.factor * (found.value if found else 0.0)
    hover = f"{'mean member: ' if panel.other else ''}%{{x:.4g}}"
    dash = "dash" if panel.other else "solid"
    point = line(row, [value], [place], dash=dash, hover=hover, mode="markers")
    if other is not None:
        both = [value, panel.factor * other.value]
        joined = line(row, both, [place, place], hover="", mode="lines", hoverinfo="skip", hovertemplate=None)
        return [joined, point, line(row, both[1:], [place], hover="ensemble: %{x:.4g}", mode="markers")]
    low, high = (number(end) for end in (found.low, found.high)) if found else (None, None)
    if low is not None and high is not None:
        array, minus = [panel.factor * high - value], [value - panel.factor * low]
        bar = {"type": "data", "symmetric": False, "array": array, "arrayminus": minus, "thickness": 1.5, "width": 0}
        point["error_x"] = bar | {"color": colour(row)}
    return [point]


def _training_plots(rows: Sequence[Row]) -> tuple[Plot, ...]:
    told = [(row, curve) for row in rows if (curve := _history(row)) is not None]
    panels = []
    for panel in _TRAINING:
        names = {panel.name, panel.other} - {""}
        drawn = [(row, curve) for row, curve in told if names & set(curve.columns)]
        if drawn:
            panels.append(_training_plot(panel, drawn))
    return tuple(panels)


def _training_plot(panel: _Panel, told: Sequence[tuple[Row, Curve]]) -> Plot:
    traces: list[dict[str, Any]] = []
    for row, curve in told:
        for name, dash in ((panel.other, "solid"), (panel.name, "dash" if panel.other else "solid")):
            if name in curve.columns:
                traces += _course(panel, row, curve, name, dash)
    heights = [y for trace in traces for y in trace["y"] if y is not None]
    frame = layout(axis("epoch", nticks=6), axis(panel.unit, nticks=5, **_scale(heights)), 240, 10)
    names = ", ".join(row.label for row, _ in told)
    narrow = {"height": 200, "margin": {"l": 44, "r": 8, "t": 6, "b": 44}}
    return Plot(traces, frame, f"{panel.title} by epoch, for {names}.", narrow, panel.title)


def _course(panel: _Panel, row: Row, curve: Curve, name: str, dash: str) -> list[dict[str, Any]]:
    epochs = [number(epoch) for epoch in curve.columns["epoch"]]
    values = [None if (v := number(value)) is None else panel.factor * v for value in curve.columns[name]]
    what = "" if not panel.other else "ensemble, " if name == panel.other else "mean member, "
    hover = f"{what}epoch %{{x}}: %{{y:.4g}}"
    trace = line(row, epochs, values, dash=dash, hover=hover)
    trace["marker"] = trace["marker"] | {"size": 6, "maxdisplayed": 6}
    kept = number(curve.condition.get("kept"))
    beside = bool(panel.other) and name == panel.name and panel.other in curve.columns
    if beside or kept not in epochs or kept is None or values[epochs.index(kept)] is None:
        return [trace]
    ring = {
        "type": "scatter",
        "mode": "markers",
        "name": text(row.label),
        "x": [kept],
        "y": [values[epochs.index(kept)]],
        "cliponaxis": False,
        "marker": {"symbol": "circle-open", "size": 14, "color": "@ink", "line": {"width": 1.5, "color": "@ink"}},
        "hovertemplate": f"<b>{text(row.label)}</b><br>kept, {hover}<extra></extra>",
    }
    return [trace, ring]


def _scale(heights: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where the figures span more than a factor of 10, else from 0."""
    least, most = min(heights, default=0.0), max(heights, default=1.0)
    if least > 0 and most > 10 * least:
        ticks = _log_ticks(least, most)
        return {"type": "log", "tickvals": ticks, "ticktext": [_power(tick) for tick in ticks]}
    return {"rangemode": "tozero"}


def _log_ticks(least: float, most: float) -> list[float]:
    """A few round numbers between the two: powers of ten, with 2 and 5 times them over less than two decades."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    wide = most >= 100 * least
    step = max(1, round((last - first) / 4)) if wide else 1
    ticks = [10.0**power * m for power in range(first, last + 1, step) for m in ((1,) if wide else (1, 2, 5))]
    return [tick for tick in ticks if 0.999 * least <= tick <= 1.001 * most]


def _power(tick: float) -> str:
    """A round number without an SI prefix."""
    if tick >= 0.001:
        return f"{tick:g}"
    return "10" + str(round(math.log10(tick))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


_CELLS: Mapping[str, Callable[[Row], str]] = {
    "Members": lambda row: _of_protocol(row, "members"),
    "Member accuracy": lambda row: _cell(row, "member_accuracy"),
    "Member NLL": lambda row: _cell(row, "member_nll"),
    "Member RMSE": lambda row: _cell(row, "member_rmse"),
    "Ensemble gain": lambda row: _cell(row, "ensemble_gain"),
    "Disagreement": lambda row: _cell(row, "disagreement"),
    "Mutual information": lambda row: _cell(row, "mutual_information"),
    "Error correlation": lambda row: _cell(row, "error_correlation"),
    "Effective rank": lambda row: _rank(row),
    "Weight distance": lambda row: _cell(row, "weight_distance"),
    "Spread of weight norms": lambda row: _cell(row, "weight_spread"),
    "Kept epoch": lambda row: _kept(row),
    "Verdict": lambda row: verdict(row).split(":")[0] or "–",
}


def _table(rows: Sequence[Row]) -> Table:
    cells = {name: [cell(row) for row in rows] for name, cell in _CELLS.items()}
    cells = {name: column for name, column in cells.items() if any(entry != "–" for entry in column)}
    return Table(("Form", *cells), tuple((row.label, *(cells[n][i] for n in cells)) for i, row in enumerate(rows)))


def _cell(row: Row, name: str) -> str:
    value = _value(row, name)
    return "–" if value is None else plain(name, "", value)


def _rank(row: Row) -> str:
    found = row.measure("effective_rank", of="probabilities") or row.measure("effective_rank", of="means")
    return "–" if found is None else f"{found.value:.1f}"


def _kept(row: Row) -> str:
    curve = _history(row)
    kept = None if curve is None else number(curve.condition.get("kept"))
    return "–" if kept is None else f"{kept:g}"


def _of_protocol(row: Row, key: str) -> str:
    protocol = row.result.protocol.get("diversity")
    return str(protocol.get(key, "–")) if isinstance(protocol, Mapping) else "–"
