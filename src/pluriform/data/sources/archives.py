"""Zip archives of pictures: sign language digits and Omniglot."""

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.folders import class_parts
from pluriform.data.sources.locate import Files, locate
from pluriform.data.sources.pictures import SUFFIXES, read_pictures
from pluriform.data.sources.request import Request
from pluriform.errors import CorruptFileError, explain

__all__ = ["omniglot_small", "sign_digits"]

OMNIGLOT = ("images_background_small1.zip", "images_background_small2.zip")


def sign_digits(request: Request) -> Parts:
    """2,062 photographs of hands that sign the digits, 3x64x64, in [0, 1]; test part of 50 a class as packed.

    The same hand may be in both parts, which flatters test figures.

    References:
        Mavi, Dikle 2020. Sign Language Digits Dataset. arXiv:2011.08927.
    """
    path = locate(Files("sign_digits_64px", ["sign_digits_64px.zip"]), request.path) / "sign_digits_64px.zip"
    with _open(path) as archive:
        return class_parts(request.name, _picture_names(archive), archive.read, request.size)


def omniglot_small(request: Request) -> Parts:
    """4,840 drawings of 242 characters of 8 alphabets, 1x105x105, strokes 1 on 0 as in MNIST.

    The union of the two small background sets (Greek and Latin, which are in both, once). There is no published split
    for plain classification: a stratified fifth (4 of 20 drawings a character, the same for every seed) is the test
    part.

    References:
        Lake, Salakhutdinov, Tenenbaum 2015. Human-level concept learning through probabilistic program induction.
        Science 350.
    """
    folder = locate(Files("omniglot_small", OMNIGLOT), request.path)
    inputs, characters = [], []
    for file in OMNIGLOT:
        with _open(folder / file) as archive:
            names = [name for name in _picture_names(archive) if _character(name) not in set(characters)]
            inputs.append(255 - read_pictures(names, archive.read, request.size))
        characters += [_character(name) for name in names]
    classes = tuple(sorted(set(characters)))
    label = {character: at for at, character in enumerate(classes)}
    train = Split(torch.cat(inputs), torch.tensor([label[character] for character in characters]))
    return Parts(request.name, "classification", train, classes=classes, bounds=(0.0, 1.0))


def _character(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[1:3])


def _picture_names(archive: zipfile.ZipFile) -> Sequence[str]:
    return sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CorruptFileError(
            explain("a zip archive", f"{error}", str(path), "delete it and fetch it again")
        ) from error
