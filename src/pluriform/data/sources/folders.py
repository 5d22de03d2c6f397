"""Folders of pictures with one sub-folder a class."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.pictures import SUFFIXES, Size, read_pictures
from pluriform.errors import DataNotFoundError, LabelError, explain

__all__ = ["class_folder", "class_parts", "part_of", "picture_names"]

PARTS = {"train": r"train(ing)?", "validation": r"val(id(ation)?)?", "test": r"test(ing)?"}


def class_folder(folder: Path, name: str, size: Size) -> Parts:
    """A folder of class folders, alone or below `train`, `val` and `test`.

    Classes are the folder names in alphabetical order. Hidden files and files that are no pictures are passed over.

    Raises:
        DataNotFoundError: No pictures in it.
        LabelError: A picture lies in no class folder, or a class has no training pictures.
        CorruptFileError: A picture cannot be read.
        ShapeError: The pictures differ in size and `size` is not given.
    """
    return class_parts(name, picture_names(folder), lambda picture: (folder / picture).read_bytes(), size, str(folder))


def class_parts(name: str, pictures: Sequence[str], read: Callable[[str], bytes], size: Size, where: str = "") -> Parts:
    """Splits from picture paths of the form `[part/]class/...`."""
    groups: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    parted = any(part_of(PurePosixPath(picture).parts[0]) == "train" for picture in pictures)
    for picture in pictures:
        parts = PurePosixPath(picture).parts
        part = part_of(parts[0]) if parted else "train"
        inner = parts[1:] if parted else parts
        if part is None or len(inner) < 2:
            raise LabelError(
                explain("pictures in class folders", picture, where or name, "move it into the folder of its class")
            )
        groups[part].append((inner[0], picture))
    classes = tuple(sorted({label for label, _ in groups["train"]}))
    known = {label: at for at, label in enumerate(classes)}
    for label, picture in groups["validation"] + groups["test"]:
        if label not in known:
            raise LabelError(
                explain(
                    f"one of the classes of train: {', '.join(classes)}", label, picture, "add it to train or remove it"
                )
            )
    # Decoded together, so that one coloured picture makes all of them coloured.
    stacked = [pair for group in groups.values() for pair in group]
    pixels = read_pictures([picture for _, picture in stacked], read, size)
    labels = torch.tensor([known[label] for label, _ in stacked], dtype=torch.int64)
    sizes = [len(group) for group in groups.values()]
    train, validation, test = (Split(*pair) for pair in zip(pixels.split(sizes), labels.split(sizes), strict=True))
    return Parts(
        name,
        "classification",
        train,
        test if len(test) else None,
        validation if len(validation) else None,
        classes,
        (0.0, 1.0),
    )


def part_of(folder: str) -> str | None:
    """`train`, `validation` or `test` where a folder name says so."""
    return next((part for part, words in PARTS.items() if re.fullmatch(words, folder.lower())), None)


def picture_names(folder: Path, further: Sequence[str] = ()) -> list[str]:
    """Paths of all pictures (and files of `further` suffixes) below a folder, relative to it, sorted.

    Raises:
        DataNotFoundError: There are none.
    """
    paths = (
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in (*SUFFIXES, *further) and path.is_file()
    )
    names = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise DataNotFoundError(
            explain(
                f"pictures ({' '.join((*SUFFIXES, *further))})",
                "none",
                str(folder),
                "check the folder, or give a file instead",
            )
        )
    return names
