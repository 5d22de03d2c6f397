"""Robust accuracy against eps: PGD solid, FGSM dashed, one colour and marker a form."""

from collections.abc import Sequence
from typing import Any

from pluriform.report.digits import share
from pluriform.report.figures.section import (
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
)
from pluriform.report.row import Row, number

__all__ = ["robustness"]

_DASHES = {"autoattack": "solid", "pgd": "solid", "fgsm": "dash"}
_HEIGHT = 420


def robustness(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row was attacked."""
    ladders = {
        (row.index, threat, attack): points for row in rows for (threat, attack), points in _ladders(row).items()
    }
    if not ladders:
        return None
    shown = [row for row in rows if any(index == row.index for index, _, _ in ladders)]
    threats = tuple(dict.fromkeys(threat for _, threat, _ in ladders))
    found = dict.fromkeys(attack for _, _, attack in ladders)
    attacks = tuple(sorted(found, key=lambda attack: [*_DASHES, attack].index(attack)))
    return Section(
        "robustness",
        "Robustness",
        "How does it fare under attack?",
        "Accuracy when an adversary may change every input by at most eps. A line that stays up longer is a more "
        "robust form; the strongest attack counts. Bars are 95 % intervals.",
        tuple(View((_plot(shown, ladders, threat),), (threat,) if len(threats) > 1 else ()) for threat in threats),
        _table(shown, ladders),
        (Choice("Threat", threats),) if len(threats) > 1 else (),
        legend=tuple(shown),
        strokes=tuple((attack.upper(), _DASHES.get(attack, "dot")) for attack in attacks),
        direct=True,
    )


def _ladders(row: Row) -> dict[tuple[str, str], dict[float, tuple[float, Any, Any]]]:
    """For each threat and attack: eps to accuracy with its interval, from the curves and, where given, the measures."""
    ladders: dict[tuple[str, str], dict[float, tuple[float, Any, Any]]] = {}
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


def _plot(rows: Sequence[Row], ladders: dict[Any, dict[float, tuple[float, Any, Any]]], threat: str) -> Plot:
    traces, ends = [], []
    for row in rows:
        mine = {attack: points for (index, t, attack), points in ladders.items() if (index, t) == (row.index, threat)}
        for attack, points in mine.items():
            traces.append(_line(row, attack, points))
        if mine:
            strongest = next((mine[a] for a in _DASHES if a in mine), next(iter(mine.values())))
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


def _line(row: Row, attack: str, points: dict[float, tuple[float, Any, Any]]) -> dict[str, Any]:
    values = [100 * accuracy for accuracy, _, _ in points.values()]
    dash = _DASHES.get(attack, "dot")
    name = attack.upper() if attack.isalnum() else ""
    trace = line(row, list(points), values, dash=dash, hover=f"{name} eps %{{x:g}}: %{{y:.1f}} %")
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


def _table(rows: Sequence[Row], ladders: dict[Any, dict[float, tuple[float, Any, Any]]]) -> Table:
    rungs = sorted({eps for points in ladders.values() for eps in points})
    labels = {row.index: row.label for row in rows}
    lines = [
        (labels[index], f"{attack.upper()}, {threat}", *(_cell(points.get(eps)) for eps in rungs))
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
