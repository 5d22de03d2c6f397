"""Translated images: held-out ones beside what they came from, styles, the training over time, best and worst."""

from collections.abc import Mapping, Sequence
from typing import Any

from pluriform.report.digits import plain, share, signed, tick
from pluriform.report.figures.section import Album, Gallery, Section, Table, Tile, View
from pluriform.report.row import Row, number
from pluriform.result import Pictures

__all__ = ["translations"]

_SHOWN = 2  # Further forms show their pictures when asked.
_ROWS, _MORE_ROWS = 4, 6  # Of test images, in grids of three columns and of four.
_BLANK = Tile("", "", "", "")
_WORDS = {"content": "Content", "style": "Style", "output": "Output", "truth": "Truth"}


def translations(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row shows translated images."""
    shown = [row for row in rows if _parts(row, "translation")]
    if not shown:
        return None
    albums = tuple(_album(row, place < _SHOWN) for place, row in enumerate(shown))
    caption = (
        "The first test images, not chosen, and what the form makes of them; no training looked at them. Below, the "
        "same contents in other styles where the form knows several, a few contents over the training, and the test "
        "images with the highest and the lowest score."
    )
    return Section("translations", "Images", "What does it make?", caption, (View(()),), _table(shown), albums=albums)


def _parts(row: Row, name: str) -> dict[str, Pictures]:
    """Pictures of one grid by their part."""
    found = [made for made in row.result.pictures if made.name == name and made.png]
    return {str(made.condition.get("part", "")): made for made in found}


def _told(row: Row) -> Mapping[str, Any]:
    found = row.result.protocol.get("translations")
    return found if isinstance(found, Mapping) else {}


def _album(row: Row, is_open: bool) -> Album:
    galleries = [*_held_out(row), *_styles(row), *_interpolation(row), *_training(row), *_ranked(row), *_classes(row)]
    return Album(row, tuple(_facts(row)), tuple(galleries), is_open)


def _facts(row: Row) -> list[str]:
    cost, told = row.result.protocol.get("cost") or {}, _told(row)
    seconds, updates = number(cost.get("training_seconds")), number(cost.get("updates"))
    said = []
    if seconds is not None and updates is not None:
        images = number(cost.get("images"))
        passed = "" if images is None else f", which saw {images:,.0f} images"
        time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        said.append(f"Trained for {time}: {updates:,.0f} updates of both players{passed}.")
    for event in told.get("events") or ():
        advice = str(event.get("advice", ""))
        said.append(f"At update {event.get('update')}: {event.get('what')}" + (f" ({advice})." if advice else "."))
    return said


def _tiles(found: Pictures, description: str) -> list[Tile]:
    return [Tile(png, "", "", f"{description} {place + 1}") for place, png in enumerate(found.png)]


def _held_out(row: Row) -> list[Gallery]:
    parts = _parts(row, "translation")
    columns = {part: _tiles(parts[part], f"{_WORDS[part]} of test image") for part in _WORDS if part in parts}
    count = min(len(tiles) for tiles in columns.values())
    each = _ROWS if len(columns) < len(_WORDS) else _MORE_ROWS
    galleries = []
    for begin in range(0, count, each):
        end = min(count, begin + each)
        tiles = tuple(tiles[place] for place in range(begin, end) for tiles in columns.values())
        title = f"Test images {begin + 1} to {end}" if end > begin + 1 else f"Test image {end}"
        galleries.append(Gallery(title, tiles, len(columns), tuple(_WORDS[part] for part in columns)))
    return galleries


def _styles(row: Row) -> list[Gallery]:
    """Contents down, styles across, the style images in the first row."""
    parts = _parts(row, "styles")
    if not {"content", "output"} <= set(parts):
        return []
    contents, outputs = _tiles(parts["content"], "Content"), _tiles(parts["output"], "Translation")
    across = len(outputs) // len(contents)
    tiles = [_BLANK, *_tiles(parts["style"], "Style")[:across]] if "style" in parts else []
    for place, content in enumerate(contents):
        tiles += [content, *outputs[place * across : (place + 1) * across]]
    title = "In the styles of the first row" if "style" in parts else "Several draws of each content"
    header = ("Content", *(f"{'Style' if 'style' in parts else 'Draw'} {place + 1}" for place in range(across)))
    return [Gallery(title, tuple(tiles), across + 1, header)]


def _interpolation(row: Row) -> list[Gallery]:
    parts = _parts(row, "interpolation")
    if not {"content", "style", "output"} <= set(parts) or len(parts["style"].png) != 2:
        return []
    contents, outputs = _tiles(parts["content"], "Content"), _tiles(parts["output"], "Translation")
    one, two = _tiles(parts["style"], "Style")
    across = len(outputs) // len(contents)
    shares = parts["output"].columns.get("share", [])[:across]
    tiles: list[Tile] = []
    for place, content in enumerate(contents):
        tiles += [content, one, *outputs[place * across : (place + 1) * across], two]
    header = ("Content", "One style", *(f"{share(value)[:-2]} %" for value in shares), "Another")
    return [Gallery("From one style to another", tuple(tiles), across + 3, header)]


def _training(row: Row) -> list[Gallery]:
    """Contents down, updates across; of results of earlier versions, which repeat an update, the last of each."""
    parts = _parts(row, "training")
    if not {"content", "output"} <= set(parts):
        return []
    contents, outputs = _tiles(parts["content"], "Content"), _tiles(parts["output"], "Translation over the training")
    across = len(outputs) // len(contents)
    updates = parts["output"].columns.get("update", [])[:across]
    last = [place for place, update in enumerate(updates) if update not in updates[place + 1 :]]
    after = _tiles(parts["truth"], "Truth")[: len(contents)] if "truth" in parts else []
    tiles: list[Tile] = []
    for place, content in enumerate(contents):
        tiles += [content, *(outputs[place * across + moment] for moment in last), *after[place : place + 1]]
    header = ("Content", *(tick(updates[moment]) for moment in last), *(["Truth"] if after else []))
    return [Gallery("After so many updates", tuple(tiles), len(header), tuple(header))]


def _ranked(row: Row) -> list[Gallery]:
    parts, told = _parts(row, "ranked"), _told(row).get("ranked") or {}
    if "output" not in parts:
        return []
    scores = parts["output"].columns.get("score", [])
    shown = [part for part in _WORDS if part in parts]
    half = len(scores) // 2
    galleries = []
    places = (("Highest", range(half)), ("Lowest", range(len(scores) - 1, len(scores) - 1 - half, -1)))
    for word, chosen in places:
        tiles = []
        for place in chosen:
            for part in shown:
                note = _score(scores[place], told.get("by")) if part == "output" else ""
                tiles.append(Tile(parts[part].png[place], "", note, f"{_WORDS[part]}, {word.lower()} {note}"))
        header = tuple(_WORDS[part] for part in shown)
        galleries.append(Gallery(f"{word} {told.get('by', 'score')}", tuple(tiles), len(shown), header))
    return galleries


def _score(value: Any, by: Any) -> str:
    found = number(value)
    if found is None:
        return "–"
    return f"{share(found)} %" if by == "label accuracy" else signed(found)


def _classes(row: Row) -> list[Gallery]:
    found = next((made for made in row.result.pictures if made.name == "classes"), None)
    names = [str(name) for name in row.result.data.get("classes") or ()]
    if found is None or len(found.png) != len(names):
        return []
    tiles = tuple(Tile(png, "", "", f"Colour of {name}") for png, name in zip(found.png, names, strict=True))
    return [Gallery("Colours of the classes", tiles, len(names), tuple(names))]


def _table(rows: Sequence[Row]) -> Table:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        told, parts = _told(row).get("ranked") or {}, _parts(row, "ranked")
        mean, by = number(told.get("mean")), str(told.get("by", ""))
        if mean is not None:
            lines.append((row.label, f"mean {by} of {told.get('images')} images", _score(mean, by)))
        columns = parts["output"].columns if "output" in parts else {}
        for sample, value in zip(columns.get("sample", []), columns.get("score", []), strict=False):
            lines.append((row.label, f"{by} of test image {int(sample) + 1}", _score(value, by)))
        seconds = number((row.result.protocol.get("cost") or {}).get("training_seconds"))
        if seconds is not None:
            lines.append((row.label, "training", plain("training_seconds", "s", seconds)))
    return Table(("Form", "Of", "Value"), tuple(lines))
