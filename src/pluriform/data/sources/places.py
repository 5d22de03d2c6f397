"""Where each picture of a folder of two domains belongs, by its path."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pluriform.data.sources.folders import part_of
from pluriform.errors import ConfigError, explain

__all__ = ["Place", "check_twins", "place_of", "without_other_kinds"]

# Cityscapes ends its names so.
SUFFIXED = r"_?(leftImg8bit|gt(Fine|Coarse)_(labelIds|labelTrainIds|color))$"
KIND = r"_?gt(?:Fine|Coarse)_(labelIds|labelTrainIds|color|instanceIds|instanceTrainIds)$"
KINDS = ("labelIds", "labelTrainIds", "color")  # Label maps, those of the published settings first.


@dataclass(frozen=True)
class Place:
    """Where one picture belongs: its split, its domain, the style in it and the name that its partner shares."""

    part: str
    side: str
    style: str
    stem: str


def place_of(picture: str) -> Place:
    """The place of a picture, from its path below the folder.

    Example:
        >>> place_of("trainB/night/a.png")
        Place(part='train', side='B', style='night', stem='a')
        >>> place_of("gtFine/val/bonn/x_gtFine_labelIds.png")
        Place(part='validation', side='gtFine', style='bonn', stem='x')
    """
    path = PurePosixPath(picture)
    stem = re.sub(SUFFIXED, "", path.stem)
    folders = list(path.parts[:-1])
    lettered = re.fullmatch(r"([a-zA-Z]+?)_?([AB])", folders[0]) if folders else None
    spelt = re.fullmatch(r"([a-zA-Z]+)_(\w+)", folders[0]) if folders else None
    for found in (lettered, spelt):
        if found and part_of(found[1]):
            return Place(part_of(found[1]) or "train", found[2], "/".join(folders[1:]), stem)
    part = next((part_of(name) for name in folders if part_of(name)), None)
    rest = [name for name in folders if not part_of(name)]
    return Place(part or "train", rest[0] if rest else "", "/".join(rest[1:]), stem)


def without_other_kinds(names: Sequence[str]) -> list[str]:
    """Cityscapes has each label map as `labelIds`, in colours and by instances: one kind alone stays.

    `labelIds`, which published translators read, stays where it occurs, else `labelTrainIds`, else `color`.
    """
    kinds = {name: found[1] for name in names if (found := re.search(KIND, PurePosixPath(name).stem))}
    kept = next((kind for kind in KINDS if kind in kinds.values()), None)
    others = sorted({kind for kind in kinds.values() if kind != kept})
    if kept is None or not others:
        return list(names)
    logging.getLogger("pluriform").info("label maps: %s; left out: %s", kept, ", ".join(others))
    return [name for name in names if kinds.get(name, kept) == kept]


def check_twins(folder: Path, places: Mapping[str, Place]) -> None:
    """Raise where two pictures of one domain have the same name but for the suffix.

    Raises:
        ConfigError: Names both.
    """
    known: dict[Place, str] = {}
    for name, place in places.items():
        other = known.setdefault(place, name)
        if other != name:
            remedy = "remove one of them, or rename it: partners have the same name without the suffix"
            raise ConfigError(explain("pictures of different names", f"{other} and {name}", str(folder), remedy))
