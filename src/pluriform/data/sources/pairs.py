"""Folders of pictures of two domains, for translation: pairs, label maps and pictures, or unpaired sides."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.folders import part_of, picture_names
from pluriform.data.sources.label_files import is_label_folder, read_label_maps, read_table
from pluriform.data.sources.locate import Files, locate
from pluriform.data.sources.pictures import Size, read_pictures
from pluriform.data.sources.request import Request
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError, explain

__all__ = ["facades", "paired_folder"]

COLOURS = 3
NAMED = 3  # Pictures without a partner that an error names.
SUFFIXED = r"_?(leftImg8bit|gtFine_labelIds|gtFine_color|gtFine_labelTrainIds)$"  # Cityscapes ends its names so.


@dataclass(frozen=True)
class Place:
    """Where one picture belongs: its split, its domain, the style in it and the name that its partner shares."""

    part: str
    side: str
    style: str
    stem: str


@dataclass(frozen=True)
class Folder:
    """Pictures of two domains and how to read them.

    Attributes:
        path: Of the folder.
        places: By name, all pictures.
        sides: Names of the domains, the input first; one empty name where pairs lie side by side.
        size: As in `load`.
        maps: The inputs by name, where they are label maps.
        classes: Their classes.
        paired: Whether names match.
        styles: Sub-folders of the second domain, where there are several.
    """

    path: Path
    places: dict[str, Place]
    sides: tuple[str, ...]
    size: Size
    maps: dict[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    paired: bool = True
    styles: tuple[str, ...] = ()

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return (self.path / name).read_bytes()

    def of(self, part: str, side: str) -> dict[str, str]:
        """File names of a side in one split, by style and the name that partners share, sorted."""
        found = {(p.style, p.stem): name for name, p in self.places.items() if (p.part, p.side) == (part, side)}
        return {"/".join(filter(None, key)): found[key] for key in sorted(found)}


def facades(request: Request) -> Parts:
    """CMP facades: 400 training and 100 test pairs, label map of 12 classes to photograph, 128x128, in [0, 1].

    Own split and size: figures compare with each other only, not with published ones.

    References:
        Tylecek, Sara 2013. Spatial Pattern Templates for Recognition of Objects with Regular Structure. GCPR.
        Isola, Zhu, Zhou, Efros 2017. Image-to-Image Translation with Conditional Adversarial Networks.
        arXiv:1611.07004.
    """
    folder = locate(Files("facades_128px", ["classes.json"]), request.path)
    whole = paired_folder(folder, request.name, request.size)
    inputs, targets = whole.train.batch(torch.arange(len(whole.train)))
    train, test = (Split(inputs[part], targets[part]) for part in (slice(400), slice(400, None)))
    return replace(whole, train=train, test=test)


def paired_folder(folder: Path, name: str, size: Size, classes: Sequence[str] | None = None) -> Parts:
    """Pictures of two domains in one of three layouts; the first domain in alphabetical order is the input.

    - `trainA`, `trainB` (and `testA`, `testB`, `valA`, `valB`): pairs where the file names match; otherwise unpaired.
      Sub-folders of `trainB` are styles.
    - two folders such as `label` and `photo` with matching file names, alone, or below or above `train`, `val`, `test`,
      or as `train_label`, `train_photo`.
    - pictures with both domains side by side, left the input, alone or below `train`, `val`, `test`.

    A folder whose name speaks of labels, masks, annotations or segments holds label maps and is the input, as is the
    first domain where `classes` are given. `read_table` and `read_label_maps` say how classes are found.

    Raises:
        DataNotFoundError: No pictures, or pictures without their partner; names them.
        ConfigError: The folders are in none of these layouts.
        ShapeError: Pictures of different sizes and no `size`, or side by side with an odd width.
        LabelError: An id of no class; names file and value.
        CorruptFileError: A picture or table cannot be read.
    """
    names = picture_names(folder, (".npy",))
    places = {picture: _place(picture) for picture in names}
    domains = sorted({place.side for place in places.values()})
    if len(domains) > 2 or (len(domains) == 2 and "" in domains):
        named = ", ".join(domain or "none" for domain in domains)
        expected = "two folders of pictures, or pairs side by side"
        raise ConfigError(explain(expected, f"folders {named}", str(folder), "see load"))
    if domains in (["A"], ["B"]):
        missing = "B" if domains == ["A"] else "A"
        where = next(iter(places))
        raise DataNotFoundError(
            explain(f"pictures of both sides, train{missing} too", f"only those of {where}", str(folder), "add them")
        )
    described = _described(folder, places, domains, size, classes)
    splits = {part: _split(described, part) for part in ("train", "validation", "test")}
    splits = _alike({part: found for part, found in splits.items() if found is not None})
    if "train" not in splits:
        raise DataNotFoundError(explain("training pictures", "none", str(folder), "name their folder train or trainA"))
    if len(splits["train"].inputs) == 1 or len(splits["train"].targets) == 1:
        logging.getLogger("pluriform").warning(
            "%s: one picture only on a side; a network can do no more than learn it by heart", folder
        )
    return _parts(name, described, splits)


def _described(
    folder: Path, places: dict[str, Place], domains: Sequence[str], size: Size, classes: Sequence[str] | None
) -> Folder:
    named = [domain for domain in domains if is_label_folder(domain)]
    if len(domains) == 2 and (len(named) == 1 or classes is not None):
        first, second = sorted(domains, key=lambda domain: domain not in named)
        names = [name for name, place in places.items() if place.side == first]
        read = Folder(folder, places, (first, second), size)
        # All splits together, so that they have the same classes.
        found = read_label_maps(names, read.read, read_table(folder, classes), size)
        maps = dict(zip(names, found.ids, strict=True))
        described = replace(read, maps=maps, classes=found.classes)
    else:
        described = Folder(folder, places, tuple(domains), size)
    if tuple(domains) != ("A", "B"):
        return described
    matching = not _alone(described, "train")
    styles = tuple(sorted({place.style for place in places.values() if place.side == "B"}))
    return replace(described, paired=matching, styles=styles if len(styles) > 1 and not matching else ())


def _parts(name: str, folder: Folder, splits: dict[str, Split]) -> Parts:
    return Parts(
        name,
        "translation",
        splits["train"],
        splits.get("test"),
        splits.get("validation"),
        folder.classes,
        (0.0, 1.0),
        paired=folder.paired,
        styles=folder.styles,
    )


def _place(picture: str) -> Place:
    path = PurePosixPath(picture)
    stem = re.sub(SUFFIXED, "", path.stem)
    folders = list(path.parts[:-1])
    lettered = re.fullmatch(r"([a-zA-Z]+?)_?([AB])", folders[0]) if folders else None
    if lettered and part_of(lettered[1]):
        return Place(part_of(lettered[1]) or "train", lettered[2], "/".join(folders[1:]), stem)
    spelt = re.fullmatch(r"([a-zA-Z]+)_(\w+)", folders[0]) if folders else None
    if spelt and part_of(spelt[1]):
        return Place(part_of(spelt[1]) or "train", spelt[2], "", stem)
    part = next((part_of(name) for name in folders if part_of(name)), None)
    rest = [name for name in folders if not part_of(name)]
    return Place(part or "train", rest[0] if rest else "", "/".join(rest[1:]), stem)


def _alone(folder: Folder, part: str) -> list[str]:
    """Pictures without a partner."""
    first, second = (folder.of(part, side) for side in folder.sides)
    return [(first | second)[key] for key in sorted(first.keys() ^ second.keys())]


def _split(folder: Folder, part: str) -> Split | None:
    chosen = [picture for picture, place in folder.places.items() if place.part == part]
    if not chosen:
        return None
    if len(folder.sides) == 1:
        return _halves(chosen, folder)
    first, second = (folder.of(part, side) for side in folder.sides)
    if not first or not second:
        side = folder.sides[0] if not first else folder.sides[1]
        expected, got = f"pictures of both sides in {part}", f"none of {side}"
        raise DataNotFoundError(explain(expected, got, str(folder.path), "add them, or remove the other side"))
    alone = _alone(folder, part) if folder.paired else []
    if alone:
        more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
        raise DataNotFoundError(
            explain(
                f"each picture in both {' and '.join(sorted(folder.sides))}",
                f"{', '.join(alone[:NAMED])}{more} in one only",
                str(folder.path),
                "add the partner under the same name, or remove the picture",
            )
        )
    return _two_sides(folder, first, second)


def _alike(splits: dict[str, Split]) -> dict[str, Split]:
    """One coloured picture makes all of its side coloured, in whatever split it stands."""
    first, second = (
        max((side.shape[1] for side in sides if side.shape[1] <= COLOURS), default=1)
        for sides in zip(*((split.inputs, split.targets) for split in splits.values()), strict=True)
    )
    return {
        part: replace(split, inputs=_coloured(split.inputs, first), targets=_coloured(split.targets, second))
        for part, split in splits.items()
    }


def _coloured(side: Tensor, channels: int) -> Tensor:
    return side.repeat(1, channels, 1, 1) if side.shape[1] == 1 < channels else side


def _two_sides(folder: Folder, first: dict[str, str], second: dict[str, str]) -> Split:
    maps, names = folder.maps, list(first.values())
    inputs = _pictures(folder, names) if maps is None else torch.stack([maps[name] for name in names])
    targets = _pictures(folder, list(second.values()))
    if folder.paired and inputs.shape[2:] != targets.shape[2:]:
        sizes = ("x".join(map(str, side.shape[2:])) for side in (inputs, targets))
        place = f"{next(iter(first.values()))} and {next(iter(second.values()))}"
        raise ShapeError(explain("pairs of one size", " and ".join(sizes), place, "give size=, for instance 64"))
    styles = None
    if folder.styles:
        styles = torch.tensor([folder.styles.index(folder.places[name].style) for name in second.values()])
    return Split(inputs, targets, styles)


def _pictures(folder: Folder, names: Sequence[str]) -> Tensor:
    return read_pictures(names, folder.read, folder.size, deep=True)


def _halves(names: Sequence[str], folder: Folder) -> Split:
    left = read_pictures(names, folder.read, folder.size, deep=True, half="left")
    return Split(left, read_pictures(names, folder.read, folder.size, deep=True, half="right"))
