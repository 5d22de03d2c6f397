"""Data sets in the idx files of MNIST, and those that follow it."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.locate import Download, Files, locate
from pluriform.data.sources.request import Request
from pluriform.errors import CorruptFileError, explain

__all__ = ["fashion_mnist", "mnist", "notmnist", "read_idx"]

NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
MNIST_SUMS = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
FASHION_SUMS = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist(request: Request) -> Parts:
    """MNIST: 60,000 and 10,000 handwritten digits, 28x28, in [0, 1]; the published test part.

    References:
        LeCun, Bottou, Bengio, Haffner 1998. Gradient-based learning applied to document recognition. Proc. IEEE 86(11).
    """
    files = _files(
        "mnist", "https://ossci-datasets.s3.amazonaws.com/mnist/", MNIST_SUMS, "http://yann.lecun.com/exdb/mnist/"
    )
    return _four_files(request, files, tuple("0123456789"))


def fashion_mnist(request: Request) -> Parts:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes, 28x28, in [0, 1]; the published test part.

    References:
        Xiao, Rasul, Vollgraf 2017. Fashion-MNIST. arXiv:1708.07747.
    """
    address = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    files = _files("fashion_mnist", address, FASHION_SUMS, "https://github.com/zalandoresearch/fashion-mnist")
    return _four_files(request, files, FASHION_CLASSES)


def notmnist(request: Request) -> Parts:
    """notMNIST: 10,000 letters A to J in many typefaces, 28x28, in [0, 1].

    These are the 10,000 of the idx edition's small file. There is no published split of them: a stratified fifth
    (200 a class, the same for every seed) is the test part.

    References:
        Bulatov 2011. notMNIST dataset. yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html.
    """
    files = Files("notmnist", NAMES[2:], home="https://github.com/davidflanagan/notMNIST-to-MNIST")
    train = _split(locate(files, request.path), *NAMES[2:])
    return Parts(request.name, "classification", train, classes=tuple("ABCDEFGHIJ"), bounds=(0.0, 1.0))


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in one idx file, gzipped or not.

    Raises:
        CorruptFileError: Not an idx file of bytes, truncated, or of another length than its header says.
    """
    raw = path.read_bytes()
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(path, f"a gzip stream that breaks off or is damaged: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise _corrupt(path, f"a file that begins with {raw[:4].hex() or 'nothing'} instead of 000008")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise _corrupt(path, "a header that breaks off")
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) != start + math.prod(shape):
        raise _corrupt(path, f"{len(raw) - start} bytes for the shape {shape}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def _files(folder: str, address: str, sums: tuple[str, ...], home: str) -> Files:
    downloads = {name: Download(address + name, f"md5:{md5}") for name, md5 in zip(NAMES, sums, strict=True)}
    return Files(folder, NAMES, downloads, home)


def _four_files(request: Request, files: Files, classes: tuple[str, ...]) -> Parts:
    folder = locate(files, request.path)
    train, test = _split(folder, *NAMES[:2]), _split(folder, *NAMES[2:])
    return Parts(request.name, "classification", train, test, classes=classes, bounds=(0.0, 1.0))


def _split(folder: Path, images: str, labels: str) -> Split:
    pixels, targets = read_idx(folder / images), read_idx(folder / labels)
    if pixels.ndim != 3 or targets.ndim != 1 or len(pixels) != len(targets):
        raise _corrupt(folder / images, f"images of shape {pixels.shape} beside labels of shape {targets.shape}")
    # Copied: bytes from a file are read-only, which torch tensors cannot be.
    return Split(torch.from_numpy(pixels[:, None].copy()), torch.from_numpy(targets.astype(np.int64)))


def _corrupt(path: Path, got: str) -> CorruptFileError:
    return CorruptFileError(explain("an idx file of bytes", got, str(path), "delete it and fetch it again"))
