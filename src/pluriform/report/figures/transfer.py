"""Accuracy on the target against the radius that the source was trained with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pluriform.report.digits import share
from pluriform.report.figures.robustness import text_of
from pluriform.report.figures.section import Plot, Section, Table, View, axis, end_labels, label_room, layout, line
from pluriform.report.row import Row, number
from pluriform.result import Measure

__all__ = ["transfer"]

_HEIGHT = 380


@dataclass(frozen=True)
class _Rung:
    """A transferred form beside its source.

    Attributes:
        row: The form.
        eps: Radius of the source's training, 0 for a standard one.
        norm: Of the radius; empty for a standard source.
        accuracy: On the target.
    """

    row: Row
    eps: float
    norm: str
    accuracy: Measure


def transfer(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no way of transfer has sources of two radii."""
    ladders = {way: rungs for way, rungs in _ladders(rows).items() if len({rung.eps for rung in rungs}) > 1}
    if not ladders:
        return None
    rungs = [rung for found in ladders.values() for rung in found]
    norms = "/".join(dict.fromkeys(text_of(rung.norm) for rung in rungs if rung.norm))
    most = max(rung.eps for rung in rungs)
    low, high = _range(rungs)
    named = {way: Row(found[0].row.result, way, found[0].row.index) for way, found in ladders.items()}
    ends = [(named[way], 100 * found[-1].accuracy.value) for way, found in ladders.items()]
    frame = layout(
        axis(f"eps of the source ({norms}, input units)", range=[-0.03 * most, 1.03 * most]),
        axis("accuracy on the target, %", range=[low, high], nticks=6),
        _HEIGHT,
        label_room(list(named.values())),
        annotations=end_labels(ends, low, high, _HEIGHT),
    )
    return Section(
        "transfer",
        "Transfer",
        "Which source transfers best?",
        "Test accuracy on the target against the radius that the source was trained to withstand; eps 0 is standard "
        "training. Bars are 95 % intervals. Choose a source by validation accuracy, not by this figure.",
        (
            View(
                (
                    Plot(
                        [_line(named[way], found) for way, found in ladders.items()],
                        frame,
                        f"Line plot of accuracy against eps of the source for {', '.join(ladders)}.",
                        {"height": 320, "margin": {"l": 48, "r": 10, "t": 10, "b": 46}, "annotations": []},
                    ),
                )
            ),
        ),
        _table(ladders),
        legend=tuple(named.values()),
        direct=True,
    )


def _ladders(rows: Sequence[Row]) -> dict[str, list[_Rung]]:
    """Transferred forms by the way of their transfer and rising eps of their sources."""
    found: dict[str, list[_Rung]] = {}
    for row in rows:
        rung = _rung(row)
        if rung is not None:
            way = str(row.result.method.get("mode", row.name)).replace("-", " ")
            found.setdefault(way, []).append(rung)
    return {way: sorted(rungs, key=lambda rung: rung.eps) for way, rungs in found.items()}


def _rung(row: Row) -> _Rung | None:
    source, accuracy = row.result.protocol.get("source"), row.measure("accuracy")
    if accuracy is None or not isinstance(source, Mapping) or not isinstance(source.get("method"), Mapping):
        return None
    threat = source["method"].get("threat")
    if not isinstance(threat, Mapping):
        return _Rung(row, 0.0, "", accuracy)
    eps = number(threat.get("eps"))
    return None if eps is None else _Rung(row, eps, str(threat.get("norm", "")) if eps else "", accuracy)


def _range(rungs: Sequence[_Rung]) -> tuple[float, float]:
    """Ends of the axis of accuracies, intervals included, in percent."""
    ends = [100 * end for rung in rungs for end in _interval(rung.accuracy)]
    room = max(0.08 * (max(ends) - min(ends)), 0.5)
    return max(-2.0, min(ends) - room), min(102.0, max(ends) + room)


def _interval(accuracy: Measure) -> tuple[float, float]:
    low, high = number(accuracy.low), number(accuracy.high)
    return (accuracy.value, accuracy.value) if low is None or high is None else (low, high)


def _line(row: Row, rungs: Sequence[_Rung]) -> dict[str, Any]:
    values = [100 * rung.accuracy.value for rung in rungs]
    trace = line(row, [rung.eps for rung in rungs], values, hover="source eps %{x:g}: %{y:.1f} %")
    ends = [_interval(rung.accuracy) for rung in rungs]
    return trace | {
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [100 * high - value for (_, high), value in zip(ends, values, strict=True)],
            "arrayminus": [value - 100 * low for (low, _), value in zip(ends, values, strict=True)],
            "thickness": 1,
            "width": 0,
            "color": trace["line"]["color"],
        }
    }


def _table(ladders: Mapping[str, Sequence[_Rung]]) -> Table:
    lines = [
        (way, rung.row.label, f"{rung.eps:g}", f"{text_of(rung.norm)}" or "–", _cell(rung.accuracy))
        for way, rungs in ladders.items()
        for rung in rungs
    ]
    return Table(("Transfer", "Form", "eps of the source", "Norm", "Accuracy"), tuple(lines))


def _cell(accuracy: Measure) -> str:
    low, high = _interval(accuracy)
    ends = f" ({share(low)}–{share(high)})" if high > low else ""
    return f"{share(accuracy.value)}{ends}"
