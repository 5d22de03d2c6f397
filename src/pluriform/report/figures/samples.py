"""Inputs that a form draws, with log p(x) of each; chains over their steps; scores of data and samples compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from pluriform.report.digits import signed, tick
from pluriform.report.figures.histogram import outline, root_ticks, span
from pluriform.report.figures.section import (
    Album,
    Gallery,
    Plot,
    Section,
    Table,
    Tile,
    View,
    axis,
    colour,
    layout,
    text,
)
from pluriform.report.ranking import score_name
from pluriform.report.row import Row, number
from pluriform.result import Curve, Pictures

__all__ = ["samples"]

_SHOWN = 2  # Further forms show their pictures when asked.
_COLUMNS = 10
_EVENTS = 3  # Of roll-backs, told here; all of them stand with the protocol.
_DASHES = ("solid", "dash", "dot")
_NARROW = {"height": 200, "margin": {"l": 44, "r": 6, "t": 6, "b": 44}}


def samples(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row draws inputs."""
    shown = [row for row in rows if row.curves("log_density") or _pictures(row, "samples") is not None]
    if not shown:
        return None
    albums = tuple(_album(row, place < _SHOWN) for place, row in enumerate(shown))
    name = score_name("score", shown)
    name = "score" if name == "own score" else name
    caption = (
        f"The form draws inputs by climbing its {name} in small steps, from random starts or from chains of its "
        "training. Samples should look like the data and score like them; since chains come close to a peak, they "
        "often score a bit higher. What scores like the data and looks like nothing shows where the form errs."
    )
    caption += f" The number below each picture is its {name}." if any(album.galleries for album in albums) else ""
    caption += f" Only differences of {name} count." if name == "log p(x)" else ""
    plots = tuple(plot for row in shown for plot in (_compared(row), _over_steps(row)) if plot is not None)
    return Section(
        "samples",
        "Samples",
        "What does it take for data?",
        caption,
        (View(plots),),
        _table(shown),
        strokes=(("test set", "filled"), ("samples", "dash")),
        small=True,
        albums=albums,
    )


def _pictures(row: Row, name: str) -> Pictures | None:
    return next((found for found in row.result.pictures if found.name == name and found.png), None)


def _facts(row: Row, key: str) -> Mapping[str, Any]:
    found = row.result.protocol.get(key)
    return found if isinstance(found, Mapping) else {}


def _album(row: Row, is_open: bool) -> Album:
    told, galleries = _facts(row, "samples"), []
    drawn, chain = _pictures(row, "samples"), _pictures(row, "chain")
    if drawn is not None:
        galleries.append(_grid(row, drawn))
    if chain is not None and len(set(chain.columns.get("step", ()))) > 1:
        galleries.append(_strips(row, chain))
    return Album(row, (*_made(told), *_roll_backs(row)), tuple(galleries), is_open)


def _made(told: Mapping[str, Any]) -> list[str]:
    count, steps = number(told.get("count")), number(told.get("steps_per_sample"))
    if count is None or steps is None:
        return []
    held = number(told.get("buffer"))
    who = f"{count:,.0f} new chains made {_many(steps, 'step') if steps else 'no steps'}"
    if held is not None:
        more = "no further steps" if not steps else _many(steps, "more step")
        who = f"{count:,.0f} of the {held:,.0f} chains of the training made {more}"
    shown, each = number(told.get("shown")), number(told.get("shown_of_each_class"))
    said = (
        f"; the first {shown:g} are shown" if shown else f"; the first {each:g} of each class are shown" if each else ""
    )
    said += ", without any selection" if said else ""
    return [f"{who}{said} (seed {told.get('seed', 0)})."]


def _roll_backs(row: Row) -> list[str]:
    told = _facts(row, "roll_backs")
    count = int(number(told.get("count")) or 0)
    if not told:
        return []
    trainings = int(number(told.get("trainings")) or 1)
    who, all_told = ("Its training", "") if trainings == 1 else (f"Its {trainings} trainings", " in all")
    if not count:
        return [f"{who} never ran away, so nothing had to be rolled back."]
    events = [str(event).replace("_", " ") for event in told.get("events", ())]
    times = "once" if count == 1 else "twice" if count == 2 else f"{count} times"
    said = f"{who} ran away {times}{all_told}, and the last good state was restored: {'; '.join(events[:_EVENTS])}"
    return [said + (f"; and {count - _EVENTS} more below." if count > _EVENTS else ".")]


def _many(count: Any, word: str) -> str:
    value = number(count) or 0
    return f"{value:,.0f} {word}{'' if value == 1 else 's'}"


def _grid(row: Row, found: Pictures) -> Gallery:
    scores, seen = found.columns.get("log_density", []), found.columns.get("predicted", [])
    asked = found.columns.get("label", [])
    tiles = []
    for place, png in enumerate(found.png):
        score, name = _at(scores, place), _class(row, _at(seen, place))
        wanted = _class(row, _at(asked, place))
        title = name if not wanted or wanted == name else f"{wanted} → {name}"
        description = f"A sample{f' of {wanted}' if wanted else ''}, seen as {name}, at {_said(score)}"
        tiles.append(Tile(png, title, _said(score), description))
    classes = len(dict.fromkeys(asked))
    columns = classes * (_COLUMNS // classes) if 0 < classes <= _COLUMNS else _COLUMNS
    title = (
        "Samples of each class (→ what it is seen as, where that differs)"
        if asked
        else "Samples, and what they are seen as"
    )
    return Gallery(title, tuple(tiles), columns)


def _strips(row: Row, found: Pictures) -> Gallery:
    steps = list(dict.fromkeys(found.columns.get("step", [])))
    chains, scores = found.columns.get("chain", []), found.columns.get("log_density", [])
    tiles = []
    for place, png in enumerate(found.png):
        step, chain = _at(found.columns.get("step", []), place), _at(chains, place)
        wanted = _class(row, _at(found.columns.get("label", []), place))
        score = _said(_at(scores, place))
        after = _many(step, "step")
        description = f"Chain {int(chain or 0) + 1}{f' of {wanted}' if wanted else ''} after {after}, at {score}"
        tiles.append(Tile(png, "", score, description))
    header = tuple(f"{number(step) or 0:,.0f}" for step in steps)
    wanted = [_class(row, number(label)) for label in dict.fromkeys(found.columns.get("label", []))]
    title = f"New chains{' of ' + ', '.join(wanted) if all(wanted) and wanted else ''} after so many steps"
    return Gallery(title, tuple(tiles), max(1, len(steps)), header)


def _at(values: Sequence[Any], place: int) -> float | None:
    return number(values[place]) if place < len(values) else None


def _class(row: Row, place: float | None) -> str:
    names = row.result.data.get("classes") or ()
    if place is None:
        return ""
    return str(names[int(place)]) if 0 <= int(place) < len(names) else str(int(place))


def _said(score: float | None) -> str:
    return "–" if score is None else signed(score)


def _curve(row: Row, name: str) -> Curve | None:
    return next(iter(row.curves(name)), None)


def _quantile(row: Row, of: str, level: float) -> float | None:
    found = _curve(row, "log_density_quantiles")
    if found is None or level not in found.columns.get("quantile", []):
        return None
    return _at(found.columns.get(of, []), list(found.columns["quantile"]).index(level))


def _compared(row: Row) -> Plot | None:
    curve = _curve(row, "log_density")
    if curve is None:
        return None
    centres = [number(value) for value in curve.columns.get("centers", ())]
    inside = outline(centres, curve.columns.get("test", ()), "test set", colour(row))
    inside.update(fill="tozeroy", fillcolor=colour(row, 0.3))
    drawn = outline(centres, curve.columns.get("samples", ()), "samples", "@ink", "dash")
    top = max([0.0, *inside["y"], *drawn["y"]])
    name = score_name("score", [row])
    frame = layout(
        axis(text(name), nticks=5, range=span(inside["x"])),
        axis("share, %", range=[0, 1.06 * top or 1], **root_ticks(top)),
        230,
        10,
    )
    middle = {of: _said(_quantile(row, of, 0.5)) for of in ("test", "samples")}
    note = f"median {middle['test']} on the test set, {middle['samples']} of samples"
    description = f"Distribution of {name} of {row.label} on the test set and on samples: {note}."
    return Plot([inside, drawn], frame, description, _NARROW, row.label, row.index, note)


def _over_steps(row: Row) -> Plot | None:
    curve = _curve(row, "chain_log_density")
    steps = [] if curve is None else [number(value) for value in curve.columns.get("step", ())]
    if curve is None or len(steps) < 2:
        return None
    places = list(range(len(steps)))
    ways = {name: values for name, values in curve.columns.items() if name != "step"}
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": places,
            "y": [number(value) for value in values],
            "line": {"color": colour(row), "width": 2, "dash": _DASHES[place % len(_DASHES)]},
            "customdata": steps,
            "hovertemplate": f"chain {place + 1}, step %{{customdata}}: %{{y:.3g}}<extra></extra>",
        }
        for place, values in enumerate(ways.values())
    ]
    name = score_name("score", [row])
    low, high = _quantile(row, "test", 0.05), _quantile(row, "test", 0.95)
    band = []
    if low is not None and high is not None:
        band = [
            {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below"}
            | {"fillcolor": colour(row, 0.15), "line": {"width": 0}}
        ]
    ticks = {"tickvals": places, "ticktext": [tick(step or 0.0) for step in steps], "tickangle": 0}
    ticks["range"] = [-0.2, places[-1] + 0.2]
    frame = layout(axis("steps", **ticks), axis(text(name), nticks=5), 230, 18, shapes=band)
    note = "new chains; band: 90 % of the test set"
    description = f"{name} of new chains of {row.label} over their steps, beside the range of the test set."
    return Plot(traces, frame, description, _NARROW, row.label, row.index, note)


def _table(rows: Sequence[Row]) -> Table:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        quantiles, chains = _curve(row, "log_density_quantiles"), _curve(row, "chain_log_density")
        for of, title in (("test", "test set"), ("samples", "samples")):
            columns = {} if quantiles is None else quantiles.columns
            for level, value in zip(columns.get("quantile", ()), columns.get(of, ()), strict=False):
                lines.append((row.label, title, f"quantile {100 * level:g} %", _said(number(value))))
        columns = {} if chains is None else chains.columns
        for name in (name for name in columns if name != "step"):
            for step, value in zip(columns.get("step", ()), columns[name], strict=False):
                lines.append((row.label, name.replace("_", " "), f"step {step:g}", _said(number(value))))
    name = score_name("score", rows)
    return Table(("Form", "Of", "Where", "score" if name == "own score" else name), tuple(lines))
