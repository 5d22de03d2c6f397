"""scikit-learn's 1,797 handwritten digits, 8x8: here without any download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.request import Request

__all__ = ["digits"]


def digits(request: Request) -> Parts:
    """The optical recognition of handwritten digits set (its test part), pixels 0..16 scaled to [0, 1].

    The test part is a stratified fifth that is the same for every seed.

    References:
        Alpaydin, Kaynak 1998. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository.
    """
    pixels, labels = _rows()
    inputs = torch.from_numpy(pixels.astype(np.float32) / np.float32(16)).reshape(-1, 1, 8, 8)
    train = Split(inputs, torch.from_numpy(labels.astype(np.int64)))
    return Parts(request.name, "classification", train, classes=tuple("0123456789"), bounds=(0.0, 1.0))


def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels from scikit-learn's own file: importing its data sets takes a second, reading it does not."""
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if file is not None and file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.asarray(bunch["data"]), np.asarray(bunch["target"])
