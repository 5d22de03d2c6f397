"""How well clean and attacked inputs are told apart, against eps: one line a form."""

from collections.abc import Mapping, Sequence

from pluriform.report.digits import format_of, plain
from pluriform.report.figures.robustness import text_of
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
from pluriform.report.ranking import score_name
from pluriform.report.row import Row
from pluriform.result import Measure

__all__ = ["detection"]

Found = Mapping[tuple[int, str, str], Mapping[float, Measure]]
_HEIGHT = 380


def detection(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row was asked for attacked inputs."""
    found = {(row.index, threat, score): points for row in rows for (threat, score), points in _measures(row).items()}
    if not found:
        return None
    shown = [row for row in rows if any(index == row.index for index, _, _ in found)]
    threats = tuple(dict.fromkeys(threat for _, threat, _ in found))
    scores = tuple(dict.fromkeys(score for _, _, score in found))
    names = {score: score_name(score, _having(shown, found, score)) for score in scores}
    views = [
        View((_plot(shown, found, threat, score),), (names[score], threat)[: 1 + (len(threats) > 1)])
        for threat in threats
        for score in scores
        if any(key[1:] == (threat, score) for key in found)
    ]
    choices = (Choice("Score", tuple(names.values())), Choice("Threat", threats, 1))
    return Section(
        "detection",
        "Attacks noticed",
        "Does it notice that it is under attack?",
        "How well a form's own uncertainty tells attacked from clean inputs. An AUROC of 0.5 is a coin toss; below it, "
        "the form is surer of attacked inputs than of clean ones. Each form is attacked as a whole by PGD, up to the "
        "highest loss, by an attacker who does not know the score. Bars are 95 % intervals.",
        tuple(views),
        _table(shown, found),
        choices[: 1 + (len(threats) > 1)],
        legend=tuple(shown),
        direct=True,
    )


def _having(rows: Sequence[Row], found: Found, score: str) -> list[Row]:
    return [row for row in rows if any((row.index, score) == (index, other) for index, _, other in found)]


def _measures(row: Row) -> dict[tuple[str, str], dict[float, Measure]]:
    """For each threat and score: eps to AUROC, in ascending order."""
    found: dict[tuple[str, str], dict[float, Measure]] = {}
    for measure in row.measures("auroc", "adversarial", "threat", "eps", "score"):
        key = (str(measure.condition["threat"]), str(measure.condition["score"]))
        found.setdefault(key, {})[float(measure.condition["eps"])] = measure
    return {key: dict(sorted(points.items())) for key, points in found.items()}


def _plot(rows: Sequence[Row], found: Found, threat: str, score: str) -> Plot:
    lines = [(row, found[row.index, threat, score]) for row in rows if (row.index, threat, score) in found]
    low = min([0.45, *(m.value - 0.03 for _, points in lines for m in points.values())])
    ends = [(row, list(points.values())[-1].value) for row, points in lines]
    most = max(eps for _, points in lines for eps in points)
    toss = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5, "layer": "below"}
    frame = layout(
        axis(f"eps ({text_of(threat)}, input units)", range=[0, 1.03 * most]),
        axis("AUROC", range=[low, 1.02]),
        _HEIGHT,
        label_room(rows),
        annotations=end_labels(ends, low, 1.02, _HEIGHT),
        shapes=[toss | {"line": {"color": "@axis", "width": 1.5, "dash": "dot"}}],
    )
    names = ", ".join(row.label for row, _ in lines)
    said = score_name(score, [row for row, _ in lines])
    return Plot(
        [_line(row, points) for row, points in lines],
        frame,
        f"Line plot of the AUROC of {said} against eps, threat {threat}, for {names}. The table below has the numbers.",
        {"height": 320, "margin": {"l": 48, "r": 10, "t": 10, "b": 46}, "annotations": []},
    )


def _line(row: Row, points: Mapping[float, Measure]) -> dict[str, object]:
    trace = line(row, list(points), [m.value for m in points.values()], hover="eps %{x:g}: AUROC %{y:.3f}")
    ends = [(m.low, m.high, m.value) for m in points.values()]
    if all(low is not None and high is not None for low, high, _ in ends):
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, (high or 0.0) - value) for _, high, value in ends],
            "arrayminus": [max(0.0, value - (low or 0.0)) for low, _, value in ends],
            "thickness": 1,
            "width": 0,
            "color": trace["line"]["color"],
        }
    return trace


def _table(rows: Sequence[Row], found: Found) -> Table:
    rungs = sorted({eps for points in found.values() for eps in points})
    by_index = {row.index: row for row in rows}
    lines = tuple(
        (
            by_index[index].label,
            threat,
            score_name(score, [by_index[index]]),
            *(_cell(points.get(eps)) for eps in rungs),
        )
        for (index, threat, score), points in found.items()
    )
    return Table(("Form", "Threat", "Score", *(f"eps {eps:g}" for eps in rungs)), lines)


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return "–"
    ends = format_of("auroc", "", [measure.value]).interval(measure.low, measure.high)
    return plain("auroc", "", measure.value) + (f" ({ends})" if ends else "")
