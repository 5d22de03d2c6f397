"""scikit-learn's 1,797 handwritten digits, 8x8: here without any download."""

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
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / np.float32(16)).reshape(-1, 1, 8, 8)
    train = Split(inputs, torch.from_numpy(np.asarray(labels, dtype=np.int64)))
    return Parts(request.name, "classification", train, classes=tuple("0123456789"), bounds=(0.0, 1.0))
