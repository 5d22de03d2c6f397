"""CIFAR-10 and CIFAR-100: from mosaics where a folder of data sets has them, else from the official binary files."""

import csv
import hashlib
import os
import tarfile
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.locate import Download, Files, cache_folder, find, locate
from pluriform.data.sources.mosaic import read_mosaic
from pluriform.data.sources.request import Request
from pluriform.errors import CorruptFileError, explain

__all__ = ["cifar10", "cifar100", "cifar100_part"]

HOME = "https://www.cs.toronto.edu/~kriz/"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MOSAICS = {"train": 100, "test": 20}
PIXELS = 3 * 32 * 32


def cifar10(request: Request) -> Parts:
    """CIFAR-10: 50,000 and 10,000 photographs of ten classes, 3x32x32, in [0, 1]; the published test part.

    Mosaics are decoded once and kept as `.npy` in the user's cache.

    References:
        Krizhevsky 2009. Learning Multiple Layers of Features from Tiny Images.
    """
    names = [f"{part}_{number:03d}.webp" for part, count in MOSAICS.items() for number in range(count)]
    mosaics = find(Files("cifar10", [*names, "train_labels.npy", "test_labels.npy"]), request.path)
    if mosaics is not None:
        train, test = (_mosaic_split(mosaics, part) for part in MOSAICS)
    else:
        archive = _archive("cifar10", "cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530", request)
        batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
        train, test = (_binary_split(archive, wanted, 1) for wanted in (batches, ["test_batch.bin"]))
    return Parts(request.name, "classification", train, test, classes=CLASSES, bounds=(0.0, 1.0))


def cifar100(request: Request) -> Parts:
    """CIFAR-100 with its fine labels: 50,000 and 10,000 photographs, 3x32x32, in [0, 1]; the published test part.

    References:
        Krizhevsky 2009. Learning Multiple Layers of Features from Tiny Images.
    """
    archive = _archive("cifar100", "cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8", request)
    train, test = (_binary_split(archive, [name], 2) for name in ("train.bin", "test.bin"))
    classes = tuple(_members(archive, ["fine_label_names.txt"])[0].decode().split())
    return Parts(request.name, "classification", train, test, classes=classes, bounds=(0.0, 1.0))


def cifar100_part(request: Request) -> Parts:
    """A part of CIFAR-100: 4,920 and 2,160 photographs of all 100 classes, apple and orange complete.

    Figures on it compare with no published figure on CIFAR-100.

    References:
        Krizhevsky 2009. Learning Multiple Layers of Features from Tiny Images.
    """
    folder = locate(Files("cifar100_part", ("train.csv", "test.csv")), request.path)
    classes: dict[int, str] = {}
    splits = []
    for name in ("train.csv", "test.csv"):
        with open(folder / name, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        classes |= {int(row["label"]): row["class"] for row in rows}
        tiles = {mosaic: read_mosaic(folder / mosaic) for mosaic in sorted({row["mosaic"] for row in rows})}
        pixels = np.stack([tiles[row["mosaic"]][int(row["position"])] for row in rows])
        splits.append(Split(torch.from_numpy(pixels), torch.tensor([int(row["label"]) for row in rows])))
    names = tuple(classes[label] for label in sorted(classes))
    return Parts(request.name, "classification", splits[0], splits[1], classes=names, bounds=(0.0, 1.0))


def _mosaic_split(folder: Path, part: str) -> Split:
    files = [folder / f"{part}_{number:03d}.webp" for number in range(MOSAICS[part])]
    labels = np.load(folder / f"{part}_labels.npy", allow_pickle=False).astype(np.int64)
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    kept = cache_folder() / "decoded" / f"cifar10-{part}-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}.npy"
    pixels = None
    with suppress(OSError, ValueError, EOFError):  # Not decoded yet, or a damaged copy: decode again.
        pixels = np.load(kept, allow_pickle=False)
    if pixels is None or pixels.shape != (len(labels), 3, 32, 32):
        pixels = np.concatenate([read_mosaic(file) for file in files])[: len(labels)]
        _keep(kept, pixels)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))


def _keep(path: Path, pixels: np.ndarray) -> None:
    """Write whole or not at all; a cache that cannot be written only costs the next call its time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, pixels)
            os.replace(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)


def _archive(folder: str, name: str, checksum: str, request: Request) -> Path:
    files = Files(folder, [name], {name: Download(HOME + name, checksum)}, HOME + "cifar.html")
    return locate(files, request.path) / name


def _binary_split(archive: Path, names: list[str], labels: int) -> Split:
    """Records of `labels` label bytes (the last one counts) and 3,072 pixels, planes in the order red, green, blue."""
    raw = np.frombuffer(b"".join(_members(archive, names)), dtype=np.uint8)
    if len(raw) == 0 or len(raw) % (labels + PIXELS):
        raise _corrupt(archive, f"{len(raw)} bytes, not whole records of {labels + PIXELS}")
    records = raw.reshape(-1, labels + PIXELS)
    pixels = records[:, labels:].reshape(-1, 3, 32, 32).copy()
    return Split(torch.from_numpy(pixels), torch.from_numpy(records[:, labels - 1].astype(np.int64)))


def _members(archive: Path, names: list[str]) -> list[bytes]:
    """Contents of the named files, in that order, wherever in the archive they lie."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                content = tar.extractfile(member) if name in names else None
                if content is not None:
                    found[name] = content.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _corrupt(archive, str(error)) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise _corrupt(archive, f"no {missing[0]} in it")
    return [found[name] for name in names]


def _corrupt(path: Path, got: str) -> CorruptFileError:
    return CorruptFileError(explain("the official binary archive", got, str(path), "delete it and fetch it again"))
