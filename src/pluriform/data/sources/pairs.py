"""Folders of paired pictures, one domain to another, for translation."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.folders import part_of, picture_names
from pluriform.data.sources.locate import Files, locate
from pluriform.data.sources.pictures import read_pictures
from pluriform.data.sources.request import Request
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError, explain

__all__ = ["facades", "paired_folder"]


@dataclass(frozen=True)
class Place:
    """Where one picture belongs: its split, its domain and the name that its partner shares."""

    part: str
    side: str
    stem: str


def facades(request: Request) -> Parts:
    """CMP facades: 400 training and 100 test pairs, label map (in colours) to photograph, 3x128x128, in [0, 1].

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
    return Parts(request.name, "translation", train, test, bounds=(0.0, 1.0))


def paired_folder(folder: Path, name: str, size: int | None) -> Parts:
    """Pairs of pictures in one of three layouts; the first domain in alphabetical order is the input.

    - `trainA`, `trainB` (and `testA`, `testB`, `valA`, `valB`): pairs where the file names match; otherwise unpaired,
      then the shorter side is repeated from its start so that every picture is used, and rows mean nothing.
    - two folders such as `label` and `photo` with matching file names, alone or below `train`, `val`, `test`.
    - pictures with both domains side by side, left the input, alone or below `train`, `val`, `test`.

    Raises:
        DataNotFoundError: No pictures, or a picture without its partner; names it.
        ConfigError: The folders are in none of these layouts.
        ShapeError: Pictures of different sizes and no `size`, or side by side with an odd width.
        CorruptFileError: A picture cannot be read.
    """
    names = picture_names(folder)
    read = partial(_read, folder)
    places = {picture: _place(picture) for picture in names}
    sides = sorted({place.side for place in places.values()})
    if len(sides) not in (1, 2) or (len(sides) == 1 and sides[0]):
        raise ConfigError(
            explain(
                "two folders of pictures, or pairs side by side", f"folders {', '.join(sides)}", str(folder), "see load"
            )
        )
    splits = {}
    for part in ("train", "validation", "test"):
        chosen = [picture for picture in names if places[picture].part == part]
        if chosen and len(sides) == 2:
            splits[part] = _two_folders(chosen, places, sides, read, size, folder)
        elif chosen:
            splits[part] = _halves(chosen, read, size)
    if "train" not in splits:
        raise DataNotFoundError(explain("training pictures", "none", str(folder), "name their folder train or trainA"))
    return Parts(name, "translation", splits["train"], splits.get("test"), splits.get("validation"), bounds=(0.0, 1.0))


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _place(picture: str) -> Place:
    path = PurePosixPath(picture)
    folders = list(path.parts[:-1])
    lettered = re.fullmatch(r"(\w+?)_?([AB])", folders[0]) if folders else None
    if lettered and part_of(lettered[1]):
        return Place(part_of(lettered[1]) or "train", lettered[2], path.stem)
    part = next((part_of(name) for name in folders if part_of(name)), None)
    sides = [name for name in folders if not part_of(name)]
    return Place(part or "train", sides[0] if sides else "", path.stem)


def _two_folders(
    names: Sequence[str],
    places: dict[str, Place],
    sides: Sequence[str],
    read: Callable[[str], bytes],
    size: int | None,
    folder: Path,
) -> Split:
    first, second = ({places[name].stem: name for name in names if places[name].side == side} for side in sides)
    alone = sorted(set(first) ^ set(second))
    unpaired = tuple(sides) == ("A", "B") and first and second
    if alone and not unpaired:
        raise DataNotFoundError(
            explain(
                f"each picture in both {sides[0]} and {sides[1]}",
                f"{alone[0]} in one only ({len(alone)} such)",
                str(folder),
                "add its partner or remove it",
            )
        )
    inputs, targets = (read_pictures([side[stem] for stem in sorted(side)], read, size) for side in (first, second))
    length = max(len(inputs), len(targets))
    return Split(*(side[torch.arange(length) % len(side)] for side in (inputs, targets)))


def _halves(names: Sequence[str], read: Callable[[str], bytes], size: int | None) -> Split:
    pixels = read_pictures(names, read)
    width = pixels.shape[-1]
    if width % 2:
        raise ShapeError(explain("two pictures side by side", f"an odd width of {width}", names[0], "use two folders"))
    return Split(*(_resize(half.contiguous(), size) for half in pixels.split(width // 2, dim=-1)))


def _resize(pixels: Tensor, size: int | None) -> Tensor:
    if size is None or tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    resized = torch.nn.functional.interpolate(pixels.float(), (size, size), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
