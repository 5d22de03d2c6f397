"""Test samples under attack: as they are, attacked, the change magnified, and the gradient of the loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from pluriform.report.digits import significant
from pluriform.report.figures.robustness import text_of
from pluriform.report.figures.section import Album, Gallery, Section, Table, Tile, View
from pluriform.report.ranking import attack_name
from pluriform.report.row import Row, number
from pluriform.result import Pictures

__all__ = ["adversarial"]

_SHOWN = 2  # Further forms show their pictures when asked.
_KINDS = ("clean", "attacked", "perturbation", "input_gradient")


def adversarial(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row has pictures of attacked samples."""
    shown = [row for row in rows if _found(row)]
    if not shown:
        return None
    albums = tuple(_album(row, place < _SHOWN) for place, row in enumerate(shown))
    caption = (
        "Each row is a test sample that the form gets right: as it is and under attack, with the class that the form "
        "sees and its probability; then what the attack changed, and the gradient of the loss at the sample as it is, "
        "which says where a small change hurts most. In these two grey is zero, white is brighter, black is darker; "
        "changes are magnified as the heading says, each gradient fills its own range. What to look for: whether the "
        "attacked sample is still what it was to you, and whether changes and gradients look like noise, as those of "
        "ordinary networks do, or follow the shape, as those of robust ones do."
    )
    return Section(
        "adversarial",
        "Attacked samples",
        "What do attacks look like?",
        caption,
        (View(()),),
        _table(shown),
        albums=albums,
    )


def _found(row: Row) -> dict[str, Pictures]:
    """The four kinds of pictures, or nothing where one is missing or falls short of the others."""
    found = {name: next((p for p in row.result.pictures if p.name == name and p.png), None) for name in _KINDS}
    whole = {name: pictures for name, pictures in found.items() if pictures is not None}
    lengths = {len(pictures.png) for pictures in whole.values()}
    return whole if len(whole) == len(_KINDS) and len(lengths) == 1 else {}


def _album(row: Row, is_open: bool) -> Album:
    found = _found(row)
    header = ("as it is", "attacked", f"change\u00a0×\u00a0{_factor(found)}", "gradient")
    count = len(found["clean"].png)
    half = (count + 1) // 2
    parts = [range(half), range(half, count)]
    galleries = tuple(_gallery(row, found, part, header) for part in parts if len(part))
    return Album(row, (_how(row, found),), galleries, is_open)


def _gallery(row: Row, found: Mapping[str, Pictures], part: range, header: tuple[str, ...]) -> Gallery:
    title = f"Samples {part[0] + 1} to {part[-1] + 1}" if len(part) > 1 else f"Sample {part[0] + 1}"
    tiles = [tile for place in part for tile in _tiles(row, found, place)]
    return Gallery(title, tuple(tiles), len(_KINDS), header)


def _tiles(row: Row, found: Mapping[str, Pictures], place: int) -> list[Tile]:
    """One sample: four pictures."""
    clean, attacked, change, gradient = (found[name] for name in _KINDS)
    label = _class(row, _at(clean, "label", place))
    before, after = (_class(row, _at(pictures, "predicted", place)) for pictures in (clean, attacked))
    sure = [_percent(_at(pictures, "confidence", place)) for pictures in (clean, attacked)]
    which = f"test sample {_at(clean, 'sample', place) or 0:.0f}, {label}"
    return [
        Tile(clean.png[place], before, sure[0], f"{which}, as it is: seen as {before}, {sure[0]}"),
        Tile(
            attacked.png[place],
            f"→ {after}" if after != label else after,
            sure[1],
            f"{which}, attacked: seen as {after}, {sure[1]}",
        ),
        Tile(change.png[place], "", "", f"What the attack changed in {which}, times {_factor(found)}"),
        Tile(gradient.png[place], "", "", f"Gradient of the loss at {which}, as it is"),
    ]


def _how(row: Row, found: Mapping[str, Pictures]) -> str:
    condition = found["clean"].condition
    told = row.result.protocol.get("adversarial")
    told = told if isinstance(told, Mapping) else {}
    fooled = sum(
        _at(found["attacked"], "predicted", place) != _at(found["clean"], "label", place)
        for place in range(len(found["clean"].png))
    )
    eps = number(condition.get("eps"))
    radius = "" if eps is None else f" within {text_of(str(condition.get('threat', '')))} eps {eps:.4g}"
    steps = f" ({told['pgd']})" if isinstance(told.get("pgd"), str) else ""
    seed = f" (seed {told['seed']})" if "seed" in told else ""
    chosen = f"; these are {told['selection']}{seed}" if "selection" in told else ""
    attack = attack_name(condition.get("attack", ""))
    return f"{attack}{radius}{steps} turns {fooled} of {len(found['clean'].png)} to another class{chosen}."


def _factor(found: Mapping[str, Pictures]) -> str:
    value = _at(found["perturbation"], "factor", 0)
    return "?" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _at(pictures: Pictures, column: str, place: int) -> float | None:
    values: Sequence[Any] = pictures.columns.get(column, ())
    return number(values[place]) if place < len(values) else None


def _class(row: Row, place: float | None) -> str:
    names = row.result.data.get("classes") or ()
    if place is None:
        return "–"
    return str(names[int(place)]) if 0 <= int(place) < len(names) else str(int(place))


def _percent(value: float | None) -> str:
    """Without decimals, and never 100."""
    if value is None:
        return "–"
    return "> 99\u202f%" if value >= 0.995 else f"{100 * value:.0f}\u202f%"


def _table(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        found = _found(row)
        for place in range(len(found["clean"].png)):
            sample = _at(found["clean"], "sample", place)
            cells = [
                part
                for name in ("clean", "attacked")
                for part in (
                    _class(row, _at(found[name], "predicted", place)),
                    _percent(_at(found[name], "confidence", place)),
                )
            ]
            white = _at(found["input_gradient"], "at_white", place)
            lines.append(
                (
                    row.label,
                    "–" if sample is None else f"{sample:.0f}",
                    _class(row, _at(found["clean"], "label", place)),
                    *cells,
                    "–" if white is None else significant(white),
                )
            )
    header = ("Form", "Test sample", "Class", "Seen as", "Probability", "Attacked, seen as", "Probability")
    return Table((*header, "Gradient at white, nats per unit"), tuple(lines))
