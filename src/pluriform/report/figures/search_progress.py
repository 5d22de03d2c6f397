"""How an architecture search went: the best score by trials and by time, predictions against scores, size and speed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pluriform.report.digits import plain, signed, tick
from pluriform.report.figures.pareto import front
from pluriform.report.figures.section import Plot, Section, Table, View, axis, colour, layout, text
from pluriform.report.figures.trials import SearchTrials, TrialFacts, kendall_tau, searches
from pluriform.report.row import Row

__all__ = ["search_progress"]

SPREADS = 4.0
"""Of the better half of the scores: what lies farther below stands on the edge of a plot."""
ANCHOR = {"type": "scatter", "cliponaxis": False}


def search_progress(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row tells of a search with two scores."""
    found = [search for search in searches(rows) if len(search.scored) > 1]
    if not found:
        return None
    plots: list[Plot] = []
    for search in found:
        drawn = [_against_trials(search), _against_time(search), _predictions(search)]
        drawn += [_front(search, "parameters", "Parameters", ""), _front(search, "latency", "Latency", "ms")]
        plots += [plot for plot in drawn if plot is not None]
    caption = (
        "Steps follow the best score so far; dots are trials, those far below the others lie on the lower edge. "
        "Predictions were made before the trial ran; on the dotted diagonal they came true. Their bars are one "
        "standard deviation, that of measuring on the held-out samples included. Dotted steps join the networks that "
        "none beats in both score and cost."
    )
    return Section(
        "search-progress",
        "Search progress",
        "How did the search go?",
        caption,
        (View(tuple(plots)),),
        _table(found),
        legend=tuple(search.row for search in found) if len(found) > 1 else (),
        small=True,
    )


def _range(search: SearchTrials) -> tuple[float, float]:
    """Ends of the axis of scores."""
    shown = sorted((search.shown(trial.score) for trial in search.scored if trial.score is not None), reverse=True)
    shown = shown if search.high else shown[::-1]
    best, middle, worst = shown[0], shown[len(shown) // 2], shown[-1]
    far = best + SPREADS * (middle - best)
    least = worst if abs(best - worst) <= abs(best - far) or far == best else far
    room = 0.08 * (abs(best - least) or 0.02 * abs(best) or 1.0)
    low, high = min(best, least) - room, max(best, least) + room
    return (low, min(high, 100.4) if search.objective == "accuracy" else high)


def _height(search: SearchTrials, trial: TrialFacts, span: tuple[float, float]) -> float:
    """Where a trial stands: within the range."""
    return min(span[1], max(span[0], search.shown(trial.score or 0.0)))


def _dots(search: SearchTrials, trials: Sequence[TrialFacts], x: Sequence[float | None]) -> dict[str, Any]:
    span = _range(search)
    ring = ["@ink" if trial.number == search.best else colour(search.row, 0.6) for trial in trials]
    sizes = [12 if trial.number == search.best else 7 for trial in trials]
    return ANCHOR | {
        "mode": "markers",
        "x": list(x),
        "y": [_height(search, trial, span) for trial in trials],
        "marker": {"size": sizes, "color": colour(search.row, 0.6), "line": {"width": 1.5, "color": ring}},
        "hovertext": [_said(search, trial) for trial in trials],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _said(search: SearchTrials, trial: TrialFacts) -> str:
    size = "" if trial.parameters is None else f"<br>{plain('parameters', 'parameters', trial.parameters)} parameters"
    made = text(trial.operation, 40)
    return f"<b>trial {trial.number}</b>: {text(search.said(trial.score))}<br>{made}{size}"


def _best_so_far(search: SearchTrials, place: Callable[[TrialFacts], float], title: str, unit: str) -> Plot:
    """Steps of the best score, and every trial where it ended."""
    trials = sorted(search.scored, key=place)
    span, better, best = _range(search), max if search.high else min, math.nan
    steps = []
    for trial in trials:
        height = search.shown(trial.score or 0.0)
        best = height if math.isnan(best) else better(best, height)
        steps.append(min(span[1], max(span[0], best)))
    line = {"color": colour(search.row), "width": 2.5, "shape": "hv"}
    x = [place(trial) for trial in trials]
    traces = [ANCHOR | {"mode": "lines", "x": x, "y": steps, "line": line, "hoverinfo": "skip"}]
    traces.append(_dots(search, trials, x))
    failed = [trial for trial in search.trials if trial.state == "failed" and (unit == "" or trial.clock is not None)]
    if failed:
        cross = {"symbol": "x", "size": 8, "color": "@form-1"}
        said = [f"<b>trial {t.number}</b> failed<br>{text(t.reason, 60)}" for t in failed]
        traces.append(ANCHOR | {"mode": "markers", "x": [place(t) for t in failed], "y": [span[0]] * len(failed)})
        traces[-1] |= {"marker": cross, "hovertext": said, "hovertemplate": "%{hovertext}<extra></extra>"}
    y = axis(search.axis, range=list(span), nticks=6)
    ticks = {"dtick": 1} if not unit and len(search.trials) <= 6 else {"nticks": 6}
    frame = layout(axis(unit or "trial", rangemode="tozero", **ticks), y, 270, 12)
    return _plot(search, traces, frame, title, f"best {search.said(max(t.score or -math.inf for t in trials))}")


def _plot(search: SearchTrials, traces: list[dict[str, Any]], frame: dict[str, Any], title: str, note: str) -> Plot:
    few = frame["xaxis"] | {"tickangle": 0, "nticks": 4}
    few |= {name: few[name][::2] for name in ("tickvals", "ticktext") if name in few}
    narrow = {"height": 220, "margin": {"l": 44, "r": 8, "t": 8, "b": 44}, "xaxis": few}
    index = search.row.index
    return Plot(traces, frame, f"{title}, {search.row.label}: {note}.", narrow, title, index, note)


def _against_trials(search: SearchTrials) -> Plot:
    return _best_so_far(search, lambda trial: float(trial.number), "By trials", "")


def _against_time(search: SearchTrials) -> Plot | None:
    last = max((trial.clock for trial in search.trials if trial.clock is not None), default=0.0)
    if not last or any(trial.clock is None for trial in search.scored):
        return None
    scale, unit = (1.0, "seconds") if last < 180 else (60.0, "minutes") if last < 10_800 else (3600.0, "hours")
    return _best_so_far(search, lambda trial: (trial.clock or 0.0) / scale, "By time", unit)


def _predictions(search: SearchTrials) -> Plot | None:
    """Scores against what was expected of them."""
    told = [trial for trial in search.scored if trial.predicted is not None]
    if len(told) < 2:
        return None
    x = [search.shown(trial.predicted or 0.0) for trial in told]
    y = [search.shown(trial.score or 0.0) for trial in told]
    bars = [search.spread(trial) for trial in told]
    within = sum(abs(a - b) <= s for a, b, s in zip(x, y, bars, strict=True))
    tau = kendall_tau(x, y)
    note = f"{within} of {len(told)} within 1 sd" + (f"; Kendall τ {signed(tau)}" if tau is not None else "")
    low, high = min(y), max(y)
    wide = (high - low) or 0.1 * abs(high) or 1.0
    x = [min(high + wide, max(low - wide, place)) for place in x]  # Beyond stands what was far from any score.
    room = 0.06 * (max(x + y) - min(x + y))
    span = [min(x + y) - room, max(x + y) + room]
    dots = _dots(search, told, x)
    spread = {"type": "data", "array": bars, "thickness": 1, "width": 0, "color": colour(search.row, 0.4)}
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": span, "y": span, "hoverinfo": "skip"}
        | {"line": {"color": "@axis", "width": 1.5, "dash": "dot"}},
        {**dots, "cliponaxis": True, "y": y, "error_x": spread},
    ]
    title = search.axis.replace("validation ", "")
    frame = layout(
        axis(f"predicted {title}", range=span, nticks=5), axis(f"observed {title}", range=span, nticks=5), 270
    )
    return _plot(search, traces, frame, "Predicted and observed", note)


def _front(search: SearchTrials, name: str, title: str, unit: str) -> Plot | None:
    """Scores against a cost, with the front of those that no other beats in both."""
    known = [trial for trial in search.scored if (getattr(trial, name) or 0) > 0]
    if len(known) < 2:
        return None
    costs = [float(getattr(trial, name)) for trial in known]
    points = [(cost, search.shown(trial.score or 0.0)) for cost, trial in zip(costs, known, strict=True)]
    best = [known[place] for place in front(points, high=search.high)]
    span = _range(search)
    steps = {"color": "@muted", "width": 2, "dash": "dot", "shape": "hv"}
    x, y = [float(getattr(trial, name)) for trial in best], [_height(search, trial, span) for trial in best]
    traces = [ANCHOR | {"mode": "lines", "x": x, "y": y, "line": steps, "hoverinfo": "skip"}]
    traces.append(_dots(search, known, costs))
    heading = f"{title.lower()}, {unit}" if unit else title.lower()
    x_axis = axis(heading, type="log", **_ticks(min(costs), max(costs)))
    frame = layout(x_axis, axis(search.axis, range=list(span), nticks=6), 270, 12)
    return _plot(search, traces, frame, title, f"{len(best)} on the front")


def _ticks(low: float, high: float) -> dict[str, Any]:
    """A few round ticks on a log axis, and its range."""
    wide = math.log10(high / low)
    pad = max(0.06 * wide, 0.05)
    steps = (1,) if wide > 2 else (1, 2, 5) if wide > 0.5 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    inside = [v for v in values if 10**-pad * low <= v <= 10**pad * high][:: max(1, len(values) // 60)]
    inside = inside[:: max(1, len(inside) // 4)]
    return {
        "range": [math.log10(low) - pad, math.log10(high) + pad],
        "tickvals": inside,
        "ticktext": [tick(round(value, 12)) for value in inside],
    }


def _table(found: Sequence[SearchTrials]) -> Table:
    lines = []
    for search in found:
        best = -math.inf
        for trial in sorted(search.scored, key=lambda trial: (trial.clock or 0.0, trial.number)):
            best = max(best, trial.score or -math.inf)
            spread = "" if trial.deviation is None else f"± {search.spread(trial):.2g}"
            clock = "–" if trial.clock is None else f"{trial.clock:.1f} s"
            predicted = "–" if trial.predicted is None else f"{search.said(trial.predicted)} {spread}"
            lines.append(
                (search.row.label, str(trial.number), clock, search.said(trial.score), search.said(best), predicted)
            )
    return Table(("Search", "Trial", "Ended after", "Score", "Best so far", "Predicted"), tuple(lines))
