"""The tree of an architecture search: every trial beside its parent, with what was done to it and what it scored."""

from collections.abc import Sequence
from typing import Any

from pluriform.report.digits import plain, prefixed
from pluriform.report.figures.section import Choice, Plot, Section, Table, View, axis, layout, text
from pluriform.report.figures.trials import SearchTrials, TrialFacts, searches
from pluriform.report.row import Row

__all__ = ["search_tree"]

FEW, LEADING = 24, 10
ALL, BEST = "all trials", f"the {LEADING} best and their ancestors"
ROW, EDGES = 24, 24
WIDE, WIDE_LABEL, WIDE_STEP = 1100, 420, 90
NARROW, NARROW_LABEL, NARROW_STEP = 330, 200, 30
"""Pixels: of a plot, of them for the label of the last generation, and the most between two generations."""


def search_tree(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row tells of a search."""
    found = searches(rows)
    if not found:
        return None
    several, many = len(found) > 1, any(len(search.trials) > FEW for search in found)
    views = []
    for search in found:
        for kind in (BEST, ALL) if many else (ALL,):
            chosen = (search.row.label,) * several + (kind,) * many
            views.append(View((_plot(search, kind),), chosen))
    choices = [Choice("Search", tuple(search.row.label for search in found), 0)] if several else []
    choices += [Choice("Show", (BEST, ALL), int(several))] if many else []
    return Section(
        "search-tree",
        "Search tree",
        "How was the network found?",
        "Each mark is a network that was trained. It inherited the weights of the one that its line comes from, after "
        "the operations that stand beside it. Colour and number are its score on held-out samples, which the search "
        "chose by: among many trials the best is also the luckiest. A cross failed, a ring is not finished; the "
        "thick line leads to the network that came out.",
        tuple(views),
        _table(found),
        tuple(choices),
    )


def _plot(search: SearchTrials, kind: str) -> Plot:
    trials = _leading(search) if kind == BEST else list(search.trials)
    places = _places(search, trials)
    depth, lines = max(x for x, _ in places.values()), len(places)
    blank = {"showticklabels": False, "showgrid": False, "showline": False, "ticks": ""}
    frame = layout(
        axis(range=_span(depth, WIDE, WIDE_LABEL, WIDE_STEP), **blank),
        axis(range=[lines - 0.3, -0.7], **blank),
        EDGES + ROW * max(lines, 9),
        coloraxis=_colours(search),
        margin={"l": 4, "r": 4, "t": 8, "b": 8},
    )
    if lines < 9:  # The scale beside it needs its height.
        frame["yaxis"]["range"] = [8.7, -0.7]
    traces = [*_lines(search, trials, places), *_marks(search, trials, places), _labels(search, trials, places)]
    said = "; ".join(
        f"{t.number}{'' if t.parent is None else f' from {t.parent} by {t.operation}'}: {_outcome(search, t)}"
        for t in trials
    )
    narrow = {
        "xaxis": frame["xaxis"] | {"range": _span(depth, NARROW, NARROW_LABEL, NARROW_STEP)},
        "coloraxis": _colours(search) | {"showscale": False},
    }
    return Plot(traces, frame, f"Tree of trials. {said}.", narrow)


def _span(depth: int, width: int, label: int, step: int) -> list[float]:
    """Range of the axis of generations that leaves room for the labels of the last one."""
    unit = min(float(step), (width - label) / (depth + 1))
    return [-14.0 / unit, (width - 14) / unit]


def _leading(search: SearchTrials) -> list[TrialFacts]:
    """The best trials with all their ancestors, and what is under way."""
    ranked = sorted(search.scored, key=lambda trial: (-(trial.score or 0.0), trial.number))[:LEADING]
    wanted = [trial.number for trial in ranked] + [t.number for t in search.trials if t.state == "running"]
    kept = {trial.number for number in [*wanted, search.best] for trial in search.lineage(number)}
    return [trial for trial in search.trials if trial.number in kept]


def _places(search: SearchTrials, trials: Sequence[TrialFacts]) -> dict[int, tuple[int, int]]:
    """Generation and line of each trial: every one has its own line, the way to the best stands first."""
    known, way = {trial.number for trial in trials}, {trial.number for trial in search.lineage(search.best)}
    children: dict[int | None, list[int]] = {}
    for trial in sorted(trials, key=lambda trial: (trial.number not in way, trial.number)):
        parent = trial.parent if trial.parent in known else None
        children.setdefault(parent, []).append(trial.number)
    places: dict[int, tuple[int, int]] = {}
    waiting = [(number, 0) for number in reversed(children.get(None, []))]
    while waiting:
        number, generation = waiting.pop()
        places[number] = (generation, len(places))
        waiting += [(child, generation + 1) for child in reversed(children.get(number, []))]
    return places


def _colours(search: SearchTrials) -> dict[str, Any]:
    """The scale of scores; it begins where the worst sixth ends, so that a few failures do not take all colours."""
    shown = sorted(search.shown(trial.score) for trial in search.scored if trial.score is not None) or [0.0, 1.0]
    low, high = shown[len(shown) // 6 if search.high else 0], shown[-1 if search.high else -1 - len(shown) // 6]
    bar = {"title": {"text": search.axis, "side": "right", "font": {"color": "@muted", "size": 12}}, "thickness": 10}
    bar |= {"tickfont": {"color": "@muted", "size": 12}, "outlinewidth": 0, "len": 200, "lenmode": "pixels", "y": 1}
    bar |= {"yanchor": "top", "nticks": 5}
    scale = {"colorscale": "Viridis", "reversescale": not search.high, "colorbar": bar}
    return scale | {"cmin": low if high > low else high - 0.01 * (abs(high) or 1.0), "cmax": high}


def _lines(
    search: SearchTrials, trials: Sequence[TrialFacts], places: dict[int, tuple[int, int]]
) -> list[dict[str, Any]]:
    """From parents to children: one trace for the way to the best, one for all others."""
    way = {trial.number for trial in search.lineage(search.best)}
    found = []
    for best in (False, True):
        x: list[float | None] = []
        y: list[float | None] = []
        for trial in trials:
            if trial.parent in places and (trial.number in way) is best:
                (x0, y0), (x1, y1) = places[trial.parent], places[trial.number]
                x += [x0, x0, x1, None]
                y += [y0, y1, y1, None]
        style = {"color": "@ink", "width": 3} if best else {"color": "@axis", "width": 1.25}
        found.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "line": style, "hoverinfo": "skip"})
    return found


def _marks(
    search: SearchTrials, trials: Sequence[TrialFacts], places: dict[int, tuple[int, int]]
) -> list[dict[str, Any]]:
    scored = [trial for trial in trials if trial.score is not None]
    sizes = [16 if trial.number == search.best else 12 for trial in scored]
    borders = [2.5 if trial.number == search.best else 1 for trial in scored]
    shown = [search.shown(trial.score) for trial in scored if trial.score is not None]
    outline = {"color": "@ink", "width": borders}
    traces = [_mark(search, scored, places, color=shown, coloraxis="coloraxis", size=sizes, line=outline)]
    for states, symbol, width in ((("failed",), "x", 0), (("running", "unfinished"), "circle-open", 2.5)):
        those = [trial for trial in trials if trial.state in states]
        if those:
            border = {"color": "@form-1", "width": width}
            traces.append(_mark(search, those, places, color="@form-1", symbol=symbol, size=12, line=border))
    return traces


def _mark(
    search: SearchTrials, trials: Sequence[TrialFacts], places: dict[int, tuple[int, int]], **looks: Any
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [places[trial.number][0] for trial in trials],
        "y": [places[trial.number][1] for trial in trials],
        "marker": {"opacity": 1, **looks},
        "cliponaxis": False,
        "hovertext": [_hover(search, trial) for trial in trials],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _hover(search: SearchTrials, trial: TrialFacts) -> str:
    parent = "" if trial.parent is None else f" of trial {trial.parent}"
    lines = [f"<b>trial {trial.number}{parent}</b>", *(text(move, 60) for move in trial.moves or (trial.operation,))]
    lines.append(text(_outcome(search, trial), 80))
    if trial.predicted is not None:
        spread = search.spread(trial)
        lines.append(f"predicted {search.shown(trial.predicted):.4g} ± {spread:.2g}")
    if trial.parameters is not None:
        lines.append(f"{prefixed(trial.parameters)} parameters")
    if trial.seconds is not None:
        lines.append(f"{trial.seconds:.1f} s")
    return "<br>".join(lines)


def _outcome(search: SearchTrials, trial: TrialFacts) -> str:
    if trial.score is not None:
        return search.said(trial.score)
    return f"failed: {trial.reason}" if trial.state == "failed" else trial.state


def _labels(search: SearchTrials, trials: Sequence[TrialFacts], places: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """Number, score and operations to the right of each mark."""
    said = [_label(search, trial) for trial in trials]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [places[trial.number][0] for trial in trials],
        "y": [places[trial.number][1] for trial in trials],
        "text": [f"   {label}" for label in said],
        "textposition": "middle right",
        "textfont": {"color": "@ink", "size": 12},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _label(search: SearchTrials, trial: TrialFacts) -> str:
    said = search.said(trial.score) if trial.score is not None else trial.state
    said = f"<b>{trial.number}: {said}</b>" if trial.number == search.best else f"{trial.number}: {said}"
    reason = f": {text(trial.reason, 48)}" if trial.state == "failed" and trial.reason else ""
    return f"{said}{reason}  {text(trial.operation, 36)}" if trial.parent is not None else f"{said}  start"


def _table(found: Sequence[SearchTrials]) -> Table:
    lines = []
    for search in found:
        for trial in search.trials:
            predicted = "–" if trial.predicted is None else search.said(trial.predicted)
            lines.append(
                (
                    f"{search.row.label} {trial.number}" if len(found) > 1 else str(trial.number),
                    "–" if trial.parent is None else str(trial.parent),
                    "; ".join(trial.moves) or trial.operation,
                    _outcome(search, trial),
                    predicted,
                    "–" if trial.parameters is None else plain("parameters", "parameters", trial.parameters),
                    "–" if trial.latency is None else plain("latency", "ms", trial.latency),
                    "–" if trial.seconds is None else plain("training_seconds", "s", trial.seconds),
                )
            )
    header = ("Trial", "Parent", "Moves", "Score", "Predicted", "Parameters", "Latency", "Training")
    return Table(header, tuple(lines))
