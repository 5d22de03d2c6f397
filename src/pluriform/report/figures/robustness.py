"""Robust accuracy against eps: the strongest attack solid, further ones dashed, one colour and marker a form."""

from collections.abc import Mapping, Sequence
from typing import Any

from pluriform.report.digits import share
from pluriform.report.figures.section import (
    Album,
    Choice,
    Plot,
    Section,
    Table,
    View,
    axis,
    end_labels,
    label_room,
    layout,
    line,
    text,
)
from pluriform.report.headline import joined
from pluriform.report.ranking import ATTACKS, attack_name
from pluriform.report.row import Row, number

__all__ = ["robustness"]

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "sparse")
_PLOTLY = {"sparse": "2px,8px"}
_POINTS = ("point", "ring", "spot")  # Of attacks at a single eps.
_HEIGHT = 420

_Points = dict[float, tuple[float, Any, Any]]
_Ladders = dict[tuple[int, str, str], _Points]


def robustness(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row was attacked."""
    ladders = {
        (row.index, threat, attack): points for row in rows for (threat, attack), points in _ladders(row).items()
    }
    if not ladders:
        return None
    shown = [row for row in rows if any(index == row.index for index, _, _ in ladders)]
    threats = tuple(dict.fromkeys(threat for _, threat, _ in ladders))
    strokes = _strokes(ladders)
    return Section(
        "robustness",
        "Robustness",
        "How does it fare under attack?",
        _caption(shown, strokes),
        tuple(
            View((_plot(shown, ladders, strokes, threat),), (threat,) if len(threats) > 1 else ()) for threat in threats
        ),
        _table(shown, ladders),
        (Choice("Threat", threats),) if len(threats) > 1 else (),
        legend=tuple(shown),
        strokes=tuple((attack_name(attack), stroke) for attack, stroke in strokes.items()),
        direct=True,
        albums=tuple(album for row in shown if (album := _doubts(row)) is not None),
    )


def _strokes(ladders: _Ladders) -> dict[str, str]:
    """How each attack is drawn, the strongest first: by its own kind of line, or of point where it has a single eps."""
    known = [*ATTACKS]
    found = {attack for _, _, attack in ladders}
    ordered = sorted(found, key=lambda attack: (known.index(attack) if attack in known else len(known), attack))
    single = [a for a in ordered if all(len(points) == 1 for key, points in ladders.items() if key[2] == a)]
    lines = [attack for attack in ordered if attack not in single]
    kinds = {attack: _DASHES[place % len(_DASHES)] for place, attack in enumerate(lines)}
    kinds |= {attack: _POINTS[place % len(_POINTS)] for place, attack in enumerate(single)}
    return {attack: kinds[attack] for attack in ordered}


def _caption(rows: Sequence[Row], strokes: Mapping[str, str]) -> str:
    said = (
        "Accuracy when an adversary may change every input by at most eps. A line that stays up longer is a more "
        "robust form; the strongest attack counts, for every attack only shows what it found. Bars are 95 % intervals."
    )
    if "autoattack" in strokes:
        said += " AutoAttack is the worst case of several attacks: quote this figure."
    checked = {row.label: found for row in rows if (found := row.measure("masked")) is not None}
    masked = [label for label, found in checked.items() if found.value > 0]
    honest = [label for label in checked if label not in masked]
    if masked:
        said += f" The gradients of {joined(masked)} are masked: attacks are misled, and its figures are too high."
        said = said.replace("its figures", "their figures") if len(masked) > 1 else said
    if honest:
        who = joined(honest) if len(honest) <= 4 else f"{'the other ' if masked else ''}{len(honest)} forms"
        said += f" No sign of masked gradients was found in {who}."
    return said


def _doubts(row: Row) -> Album | None:
    """What speaks against the figures of a form."""
    told = row.result.protocol
    flags = [
        str(words)
        for key in ("robustness", "auto_attack")
        if isinstance(told.get(key), Mapping)
        for words in told[key].get("flags", ())
    ]
    found = row.measure("masked")
    if not flags and (found is None or found.value <= 0):
        return None
    facts = [_spelt(flag) for flag in flags]
    if found is not None and found.value > 0:
        seeds = found.count if found.interval else None
        when = f" for {round(found.value * seeds)} of {seeds} seeds" if seeds and found.value < 1 else ""
        facts = [f"Masked gradients{when}: its accuracy under attack is too high. What was seen:", *facts]
    else:
        facts = ["A reason to look closer, not a verdict:", *facts]
    return Album(row, tuple(facts), ())


def _spelt(flag: str) -> str:
    """`linf: what was seen` as a sentence."""
    norm, found, words = flag.partition(": ")
    said = f"against {text_of(norm)}: {words}" if found and norm in ("linf", "l2", "l1") else flag
    return f"{said[:1].upper()}{said[1:]}."


def _ladders(row: Row) -> dict[tuple[str, str], _Points]:
    """For each threat and attack: eps to accuracy with its interval, from the curves and, where given, the measures."""
    ladders: dict[tuple[str, str], _Points] = {}
    for curve in row.curves("robustness"):
        points = ladders.setdefault(
            (str(curve.condition.get("threat", "")), str(curve.condition.get("attack", ""))), {}
        )
        for eps, accuracy in zip(curve.columns.get("eps", ()), curve.columns.get("accuracy", ()), strict=False):
            if number(accuracy) is not None:
                points[float(eps)] = (float(accuracy), None, None)
    for measure in row.measures("robust_accuracy", "threat", "attack", "eps"):
        condition = measure.condition
        points = ladders.setdefault((str(condition["threat"]), str(condition["attack"])), {})
        points[float(condition["eps"])] = (measure.value, measure.low, measure.high)
    return {key: dict(sorted(points.items())) for key, points in ladders.items() if points}


def _plot(rows: Sequence[Row], ladders: _Ladders, strokes: Mapping[str, str], threat: str) -> Plot:
    traces, ends = [], []
    for row in rows:
        mine = {attack: ladders[key] for attack in strokes if (key := (row.index, threat, attack)) in ladders}
        traces += [_line(row, attack, points, strokes[attack]) for attack, points in mine.items()]
        if mine:
            strongest = next(iter(mine.values()))
            ends.append((row, 100 * list(strongest.values())[-1][0]))
    most = max((eps for key, points in ladders.items() if key[1] == threat for eps in points), default=1.0)
    x = axis(f"eps ({text_of(threat)}, input units)", range=[-0.02 * most, 1.03 * most])
    y = axis("accuracy, %", range=[-2, 102])
    names = ", ".join(row.label for row in rows)
    return Plot(
        traces,
        layout(x, y, _HEIGHT, label_room(rows), annotations=end_labels(ends, -2.0, 102.0, _HEIGHT)),
        f"Line plot of accuracy against eps, threat {threat}, for {names}. The table below has the numbers.",
        {"height": 340, "margin": {"l": 48, "r": 10, "t": 10, "b": 46}, "annotations": []},
    )


def text_of(threat: str) -> str:
    """The norm as it is written: `l∞` for `linf`, `l2` for `l2`."""
    return {"linf": "l∞", "l2": "l₂", "l1": "l₁"}.get(threat, threat[:20])


def _line(row: Row, attack: str, points: _Points, stroke: str) -> dict[str, Any]:
    values = [100 * accuracy for accuracy, _, _ in points.values()]
    dash = "solid" if stroke in _POINTS else _PLOTLY.get(stroke, stroke)
    hover = f"{text(attack_name(attack), 20)}, eps %{{x:g}}: %{{y:.1f}} %"
    trace = line(row, list(points), values, dash=dash, hover=hover)
    if stroke in _POINTS:
        mark = trace["marker"]
        size, symbol = 7 if stroke == "spot" else 13, mark["symbol"] + ("-open" if stroke == "ring" else "")
        outline = {"width": 2, "color": mark["color"] if stroke == "ring" else "@ink"}
        trace |= {"mode": "markers", "marker": {**mark, "size": size, "symbol": symbol, "line": outline}}
    ends = [(number(low), number(high)) for _, low, high in points.values()]
    if dash == "solid" and all(low is not None and high is not None for low, high in ends):
        bars = [(100 * (low or 0), 100 * (high or 0)) for low, high in ends]
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - value) for (_, high), value in zip(bars, values, strict=True)],
            "arrayminus": [max(0.0, value - low) for (low, _), value in zip(bars, values, strict=True)],
            "thickness": 1,
            "width": 0,
            "color": trace["line"]["color"],
        }
    return trace


def _table(rows: Sequence[Row], ladders: _Ladders) -> Table:
    rungs = sorted({eps for points in ladders.values() for eps in points})
    labels = {row.index: row.label for row in rows}
    lines = [
        (labels[index], f"{attack_name(attack)}, {threat}", *(_cell(points.get(eps)) for eps in rungs))
        for (index, threat, attack), points in ladders.items()
        if index in labels
    ]
    return Table(("Form", "Attack", *(f"eps {eps:g}" for eps in rungs)), tuple(lines))


def _cell(point: tuple[float, Any, Any] | None) -> str:
    if point is None:
        return "–"
    value, low, high = point
    ends = "" if number(low) is None or number(high) is None else f" ({share(low)}–{share(high)})"
    return f"{share(value)}{ends}"
