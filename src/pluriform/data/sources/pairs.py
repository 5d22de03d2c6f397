"""Folders of pictures of two domains, for translation: pairs, label maps and pictures, or unpaired sides."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.folders import picture_names
from pluriform.data.sources.label_files import is_label_folder, read_label_maps, read_table
from pluriform.data.sources.locate import Files, locate
from pluriform.data.sources.pictures import Half, Size, read_pictures
from pluriform.data.sources.places import Place, check_twins, place_of, without_other_kinds
from pluriform.data.sources.request import Request
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError, explain

__all__ = ["Direction", "facades", "paired_folder"]

COLOURS = 3
NAMED = 3  # Pictures without a partner that are named.

Direction = Literal["AtoB", "BtoA"]


@dataclass(frozen=True)
class Folder:
    """Pictures of two domains and how to read them.

    Attributes:
        path: Of the folder.
        places: By name, all pictures.
        sides: Names of the domains, the input first; one empty name where pairs lie side by side.
        halves: Of pictures with both domains side by side, the input first.
        size: As in `load`.
        maps: The inputs by name, where they are label maps.
        classes: Their classes.
        paired: Whether names match.
        styles: Sub-folders of the target domain, where there are several.
    """

    path: Path
    places: dict[str, Place]
    sides: tuple[str, ...]
    size: Size
    halves: tuple[Half, Half] = ("left", "right")
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

    def called(self, side: str) -> str:
        """A domain as users call it."""
        lettered = side in ("A", "B") and not (self.path / side).is_dir()
        return f"train{side}" if lettered else side

    @property
    def layout(self) -> str:
        """What was found, in words."""
        if len(self.sides) == 1:
            return f"pairs side by side, the {self.halves[0]} half is the input"
        first, second = (self.called(side) for side in self.sides)
        matched = "paired by name" if self.paired else "unpaired"
        styles = f" in {len(self.styles)} styles" if self.styles else ""
        maps = ", whose files are label maps," if self.maps is not None else ""
        return f"folders {' and '.join(sorted((first, second)))}, {matched}; {first}{maps} is the input{styles}"


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


def paired_folder(
    folder: Path,
    name: str,
    size: Size,
    classes: Sequence[str] | None = None,
    direction: Direction = "AtoB",
    paired: bool | None = None,
) -> Parts:
    """Pictures of two domains in one of three layouts; the first domain in alphabetical order is the input.

    - `trainA`, `trainB` (and `testA`, `testB`, `valA`, `valB`): pairs where the file names match; unpaired where none
      or few do, with a warning in the latter case. Sub-folders of the target side (`trainB`) are styles.
    - two folders such as `label` and `photo` with matching file names, alone, or below or above `train`, `val`, `test`,
      or as `train_label`, `train_photo`. Of Cityscapes as downloaded (`gtFine`, `leftImg8bit`) `labelIds` are read.
    - pictures with both domains side by side, left the input, alone or below `train`, `val`, `test`.

    A folder whose name speaks of labels, masks, annotations or segments holds label maps and is the input, as is the
    first domain where `classes` are given. `read_table` and `read_label_maps` say how classes are found. The layout
    found is told in the log (level info).

    Args:
        folder: Of the pictures.
        name: Name of the data set.
        size: As in `load`.
        classes: As in `load`.
        direction: `BtoA` makes the second domain, or the right half, the input.
        paired: Whether names must match; `None` to go by the names, `False` for two unpaired sides whatever the names.

    Raises:
        DataNotFoundError: No pictures, or pictures without their partner where most have one; names them.
        ConfigError: The folders are in none of these layouts, or the options do not suit the one they are in. Or two
            pictures of a domain that have one name but for the suffix.
        ShapeError: Pictures of different sizes and no `size`, or side by side with an odd width.
        LabelError: An id of no class; names file and value.
        CorruptFileError: A picture or table cannot be read.
    """
    names = without_other_kinds(picture_names(folder, (".npy",)))
    places = {picture: place_of(picture) for picture in names}
    domains = sorted({place.side for place in places.values()})
    _check_domains(folder, places, domains)
    described = _described(Folder(folder, places, tuple(domains), size), classes, direction, paired)
    logging.getLogger("pluriform").info("%s: %s", folder, described.layout)
    splits = {part: _split(described, part) for part in ("train", "validation", "test")}
    splits = _alike({part: found for part, found in splits.items() if found is not None})
    if "train" not in splits:
        raise DataNotFoundError(explain("training pictures", "none", str(folder), "name their folder train or trainA"))
    if len(splits["train"].inputs) == 1 or len(splits["train"].targets) == 1:
        logging.getLogger("pluriform").warning(
            "%s: one picture only on a side; a network can do no more than learn it by heart", folder
        )
    return _parts(name, described, splits)


def _check_domains(folder: Path, places: dict[str, Place], domains: Sequence[str]) -> None:
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
    if len(domains) == 1 and domains != [""]:
        expected = "pictures of two folders, or side by side directly in it or in train, val and test"
        got, remedy = (
            f"only those of {domains[0]}",
            "add the other folder, or name this one where they lie side by side",
        )
        raise DataNotFoundError(explain(expected, got, str(folder), remedy))
    if len(domains) == 2:
        check_twins(folder, places)


def _described(folder: Folder, classes: Sequence[str] | None, direction: Direction, paired: bool | None) -> Folder:
    """Which domain is the input, what it holds, and whether names match."""
    if len(folder.sides) == 1:
        return _side_by_side(folder, classes, direction, paired)
    lettered = folder.sides == ("A", "B")
    named = [side for side in folder.sides if is_label_folder(side)]
    folder = _ordered(folder, named[0] if len(named) == 1 else None, direction)
    if len(named) == 1 or classes is not None:
        folder = _with_maps(folder, classes)
    if paired is None:
        paired = _matching(folder) if lettered else True
    if not lettered or paired:
        return replace(folder, paired=paired)
    styles = tuple(sorted({place.style for place in folder.places.values() if place.side == folder.sides[1]}))
    return replace(folder, paired=False, styles=styles if len(styles) > 1 else ())


def _side_by_side(folder: Folder, classes: Sequence[str] | None, direction: Direction, paired: bool | None) -> Folder:
    given = "classes are" if classes is not None else "paired=False is" if paired is False else ""
    if given:
        expected, remedy = f"two folders where {given} given", "leave that out, or cut the pictures into two folders"
        raise ConfigError(explain(expected, "pairs side by side", str(folder.path), remedy))
    return folder if direction == "AtoB" else replace(folder, halves=("right", "left"))


def _ordered(folder: Folder, maps: str | None, direction: Direction) -> Folder:
    """The input first: the folder of label maps, or the first as the direction has it."""
    if maps is None:
        return folder if direction == "AtoB" else replace(folder, sides=folder.sides[::-1])
    if direction == "BtoA":
        where, remedy = str(folder.path / maps), "leave it out; under another name its files are read as pictures"
        raise ConfigError(explain("direction AtoB where a folder holds label maps", "BtoA", where, remedy))
    return replace(folder, sides=tuple(sorted(folder.sides, key=lambda side: side != maps)))


def _with_maps(folder: Folder, classes: Sequence[str] | None) -> Folder:
    """The first domain read as label maps; all splits together, so that they have the same classes."""
    names = [name for name, place in folder.places.items() if place.side == folder.sides[0]]
    found = read_label_maps(names, folder.read, read_table(folder.path, classes), folder.size)
    return replace(folder, maps=dict(zip(names, found.ids, strict=True)), classes=found.classes)


def _matching(folder: Folder) -> bool:
    """Whether names of lettered sides say that they are pairs; raises where most and not all do."""
    first, second = (folder.of("train", side) for side in folder.sides)
    both, either = len(first.keys() & second.keys()), len(first.keys() | second.keys())
    if both == either or not both:
        return both == either
    alone = _alone(folder, "train")
    if 2 * both >= either:
        raise _lone(folder, alone)
    logging.getLogger("pluriform").warning(
        "%s: %d of %d names are on both sides, which are taken as unpaired; without a partner: %s",
        folder.path,
        both,
        either,
        _first(alone),
    )
    return False


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


def _alone(folder: Folder, part: str) -> list[str]:
    """Pictures without a partner."""
    first, second = (folder.of(part, side) for side in folder.sides)
    return [(first | second)[key] for key in sorted(first.keys() ^ second.keys())]


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _lone(folder: Folder, alone: Sequence[str]) -> DataNotFoundError:
    expected = f"each picture in both {' and '.join(sorted(folder.sides))}"
    remedy = "add the partner under the same name, or remove the picture"
    if folder.maps is None:
        remedy = "add the partner under the same name, remove the picture, or give paired=False (--unpaired)"
    return DataNotFoundError(explain(expected, f"{_first(alone)} in one only", str(folder.path), remedy))


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
        raise _lone(folder, alone)
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
    inputs, targets = (read_pictures(names, folder.read, folder.size, deep=True, half=half) for half in folder.halves)
    return Split(inputs, targets)
