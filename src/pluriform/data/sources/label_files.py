"""Files of label maps: ids, colours of a palette, or arrays."""

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.data.label_maps import check_ids
from pluriform.data.sources.pictures import Size, sides
from pluriform.errors import ConfigError, CorruptFileError, LabelError, ShapeError, explain

__all__ = ["LabelMaps", "Table", "is_label_folder", "read_label_maps", "read_table"]

UNKNOWN = 255
MOST_COLOURS = 256
SHOWN = 12  # Ids that a line of the log tells.
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Table:
    """The classes of label maps.

    Attributes:
        classes: Names in id order.
        colours: Red, green, blue of each; `None` where files hold ids.
    """

    classes: tuple[str, ...]
    colours: tuple[Colour, ...] | None = None

    @property
    def grey(self) -> bool:
        """Whether colours are levels of grey, so that grey files hold them and not ids."""
        return self.colours is not None and all(red == green == blue for red, green, blue in self.colours)


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Label maps of a folder.

    Attributes:
        ids: Float32, shape `(N, 1, height, width)`.
        classes: Names in id order.
    """

    ids: Tensor
    classes: tuple[str, ...]


def read_table(folder: Path, classes: Sequence[str] | None = None) -> Table | None:
    """The classes of a folder: as given, or from one of three files in it; `None` where nobody says.

    `classes.json` holds a list of names in id order, or a mapping of names to `[red, green, blue]`; `class_dict.csv`
    has the columns name, r, g, b; `label_colors.txt` has lines `r g b name`. Classes that are all called `#rrggbb`, as
    those of coloured maps without a table, are colours.

    Raises:
        CorruptFileError: The file is there and not like that.
        ConfigError: More or fewer names are given than there are colours.
    """
    found = next((folder / name for name in _READERS if (folder / name).is_file()), None)
    if found is None:
        return None if classes is None else _of_names(classes)
    try:
        table = _READERS[found.name](found.read_text())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        remedy = "write a list of names, or names with red, green and blue"
        raise CorruptFileError(explain("a table of classes", f"{error!r}", str(found), remedy)) from error
    if classes is None or table.colours is None:
        return table if classes is None else Table(tuple(classes))
    if len(classes) != len(table.classes):
        expected = f"{len(table.classes)} classes, one a colour of {found.name}"
        raise ConfigError(explain(expected, f"{len(classes)}", str(found), "give as many, or none"))
    return Table(tuple(classes), table.colours)


def _of_names(classes: Sequence[str]) -> Table:
    if not all(re.fullmatch(r"#[0-9a-f]{6}", name) for name in classes):
        return Table(tuple(classes))
    codes = [int(name[1:], 16) for name in classes]
    return Table(tuple(classes), tuple((code >> 16, code >> 8 & 255, code & 255) for code in codes))


def _json_table(text: str) -> Table:
    content = json.loads(text)
    if isinstance(content, list):
        return Table(tuple(str(name) for name in content))
    return _coloured([(name, *colour) for name, colour in content.items()])


def _csv_table(text: str) -> Table:
    rows = [{name.strip().lower(): value for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    return _coloured([(row["name"].strip(), row["r"], row["g"], row["b"]) for row in rows])


def _text_table(text: str) -> Table:
    rows = [line.split(None, 3) for line in text.splitlines() if line.strip()]
    return _coloured([(name.strip(), red, green, blue) for red, green, blue, name in rows])


def _coloured(rows: Sequence[Sequence[Any]]) -> Table:
    colours = tuple((int(red), int(green), int(blue)) for _, red, green, blue in rows)
    if not colours or len(set(colours)) < len(colours) or not all(0 <= part <= 255 for c in colours for part in c):
        raise ValueError("colours must differ and lie in 0..255")
    return Table(tuple(str(row[0]) for row in rows), colours)


_READERS: dict[str, Callable[[str], Table]] = {
    "classes.json": _json_table,
    "class_dict.csv": _csv_table,
    "label_colors.txt": _text_table,
}


def read_label_maps(
    names: Sequence[str], read: Callable[[str], bytes], table: Table | None = None, size: Size = None
) -> LabelMaps:
    """Decode label maps; resizing takes the nearest pixel.

    Grey pictures of 8 or 16 bits, palette pictures (by index) and integer `.npy` arrays `(height, width)` hold ids;
    coloured pictures are looked up in the colours of `table`, or in all the colours that occur, and so are grey ones
    of 8 bits where all its colours are grey. Without a table the classes are `0` to the largest id; 255 is then taken
    as unlabelled and becomes a last class `unknown`. With one whose last class is called `unknown`, 255 is that one.

    A mask knows 0 and 255 alone: 255 is its foreground, not something unlabelled. Without a table the classes are then
    `0` and `255`, with ids 0 and 1; with one of two names, the last of them not `unknown`, 255 is the second.

    Without a table the log tells the classes found and their shares of the pixels (level info), and warns where most
    ids below the largest never occur, as where grey levels stand for classes.

    Args:
        names: Which files.
        read: Gives the content of the file of a name.
        table: The classes.
        size: As in `read_pictures`.

    Raises:
        LabelError: An id or colour of no class; names file, value and how often each occurs. Or more than 256 colours.
        CorruptFileError: A file is not such a picture or array; JPEG, which changes colours, among them.
        ShapeError: The maps differ in size and no `size` is given.
    """
    told = table is None
    maps = [_decoded(name, read(name), table) for name in names]
    if table is None and any(values.ndim == 3 for values in maps):
        table = _own_colours(names, maps)
    maps = [_looked_up(name, values, table) for name, values in zip(names, maps, strict=True)]
    maps = [_nearest(values, size) for values in maps]
    odd = next((at for at, values in enumerate(maps) if values.shape != maps[0].shape), None)
    if odd is not None:
        first, other = ("x".join(map(str, maps[at].shape)) for at in (0, odd))
        place = f"{names[odd]} beside {names[0]}"
        raise ShapeError(explain(f"label maps of {first} pixels", other, place, "give size=, for instance 64"))
    ids = torch.from_numpy(np.stack(maps).astype(np.int64))
    classes = _named(ids) if table is None else table.classes
    if classes[-1] == "unknown" or (not (table and table.colours) and _is_mask(ids, classes)):
        ids = torch.where(ids == UNKNOWN, len(classes) - 1, ids)
    for name, own in zip(names, ids, strict=True):
        check_ids(own, classes, name)
    if told:
        _tell(names, ids, classes)
    return LabelMaps(ids[:, None].float(), classes)


def _is_mask(ids: Tensor, classes: Sequence[str]) -> bool:
    """Whether 255 is the foreground, which is all there is beside 0."""
    return len(classes) == 2 and bool(((ids == 0) | (ids == UNKNOWN)).all())


def _tell(names: Sequence[str], ids: Tensor, classes: Sequence[str]) -> None:
    """The classes found, and how many ids below the largest there are for nothing."""
    counts = torch.bincount(ids.flatten(), minlength=len(classes))
    found = [(name, 100 * count / ids.numel()) for name, count in zip(classes, counts.tolist(), strict=True) if count]
    shares = ", ".join(f"{name}: {share:.3g} %" for name, share in found[:SHOWN])
    shares += f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    place = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    numbered = len(classes) - (classes[-1] == "unknown")
    absent = int((counts[:numbered] == 0).sum())
    logger = logging.getLogger("pluriform")
    if 2 * absent <= numbered - 1:
        logger.info("label maps (%s): no table names the classes, found are %s", place, shares)
        return
    logger.warning(
        "label maps (%s): no table names the classes, found are %s; %d of the classes 0..%d never occur. Where these "
        'are grey levels and no ids, write {"name": [127, 127, 127], ...} into classes.json, a level three times for '
        "each class",
        *(place, shares, absent, numbered - 1),
    )


def _named(ids: Tensor) -> tuple[str, ...]:
    if _is_mask(ids, ("0", "255")) and 0 < int((ids == 0).sum()) < ids.numel():
        return ("0", "255")
    known = ids[ids != UNKNOWN]
    largest = int(known.max()) if known.numel() else -1
    if largest > UNKNOWN:  # As many classes that 255 is one of them.
        return tuple(str(label) for label in range(largest + 1))
    unknown = ("unknown",) if known.numel() < ids.numel() else ()
    return (*(str(label) for label in range(largest + 1)), *unknown)


def _decoded(name: str, content: bytes, table: Table | None) -> np.ndarray:
    """Ids `(height, width)`, or colours `(height, width, 3)`."""
    from PIL import Image

    if name.lower().endswith((".jpg", ".jpeg")):
        remedy = "save label maps as PNG: JPEG mixes the ids of neighbouring pixels"
        raise CorruptFileError(explain("a label map in a lossless format", "JPEG", name, remedy))
    try:
        if name.endswith(".npy"):
            return _integers(name, np.load(io.BytesIO(content), allow_pickle=False))
        with Image.open(io.BytesIO(content)) as file:
            if file.mode == "P" and not (table and table.colours):
                return np.asarray(file)
            ids = file.mode.startswith("I") or (file.mode in ("1", "L") and not (table and table.grey))
            return np.asarray(file if ids else file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptFileError(explain("a label map", f"{error}", name, "remove the file or replace it")) from error


def _integers(name: str, values: np.ndarray) -> np.ndarray:
    values = values.squeeze()
    if values.ndim != 2 or values.dtype.kind not in "iub":
        got = f"{values.dtype} of shape {values.shape}"
        raise CorruptFileError(explain("integer ids (height, width)", got, name, "save ids, for instance as uint8"))
    return values


def _packed(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def _own_colours(names: Sequence[str], maps: Sequence[np.ndarray]) -> Table:
    """All the colours that occur, sorted, as classes."""
    found: set[int] = set()
    for name, values in zip(names, maps, strict=True):
        if values.ndim == 2:
            expected, remedy = "label maps that all hold colours, or all ids", "convert them to one kind"
            raise LabelError(explain(expected, "ids among colours", name, remedy))
        found |= set(np.unique(_packed(values)).tolist())
        if len(found) > MOST_COLOURS:
            remedy = "write the colours of the classes into classes.json, or save label maps without loss"
            raise LabelError(explain(f"at most {MOST_COLOURS} colours", f"{len(found)} up to this file", name, remedy))
    return _of_names([f"#{code:06x}" for code in sorted(found)])


def _looked_up(name: str, values: np.ndarray, table: Table | None) -> np.ndarray:
    if values.ndim == 2:
        return values
    colours = table.colours if table else None
    if colours is None:
        remedy = 'write {"name": [red, green, blue], ...} into classes.json'
        raise LabelError(explain("ids, as the classes have no colours", "a coloured picture", name, remedy))
    codes, packed = _packed(np.array(colours)), _packed(values)
    order = np.argsort(codes)
    place = np.searchsorted(codes, packed, sorter=order).clip(max=len(codes) - 1)
    ids = order[place]
    wrong = codes[ids] != packed
    if wrong.any():
        code, count = int(packed[wrong][0]), int(wrong.sum())
        share = f"{count} of {wrong.size} pixels have colours of no class"
        got = f"red, green, blue {code >> 16}, {code >> 8 & 255}, {code & 255}"
        raise LabelError(explain(f"one of {len(codes)} colours", got, f"{name}; {share}", "add it to the table"))
    return ids


def _nearest(values: np.ndarray, size: Size) -> np.ndarray:
    wanted = sides(size)
    if wanted is None or values.shape == wanted:
        return values
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(wanted, values.shape, strict=True)
    )
    return values[rows[:, None], columns]


def is_label_folder(name: str) -> bool:
    """Whether a folder's name says that it holds label maps."""
    return re.search(r"label|mask|annotation|segment|gtfine|^seg$|^gt$|^ids$", name.lower()) is not None
