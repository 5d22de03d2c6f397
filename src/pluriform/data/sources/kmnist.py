"""Kuzushiji-MNIST, test part only: outliers, and a target of transfer."""

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.locate import Download, Files, locate
from pluriform.data.sources.npz import read_npz
from pluriform.data.sources.request import Request

__all__ = ["kmnist"]

ADDRESS = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
SUMS = {
    "kmnist-test-imgs.npz": "sha256:692d824896bec8f3c357ebf7a0fe904ed67ac632ce953d0b58f7fbef7bb27d87",
    "kmnist-test-labels.npz": "sha256:660f13a4705431ea2a6391c41ecbe384cd0d932c595a101ec4f3b8989e785046",
}


def kmnist(request: Request) -> Parts:
    """KMNIST: 10,000 test images of cursive hiragana, 28x28, in [0, 1]; train and validation are empty.

    References:
        Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto, Ha 2018. Deep Learning for Classical Japanese Literature.
        arXiv:1812.01718. "KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset", doi:10.20676/00000341.
    """
    downloads = {name: Download(ADDRESS + name, checksum) for name, checksum in SUMS.items()}
    folder = locate(Files("kmnist", tuple(SUMS), downloads, "https://github.com/rois-codh/kmnist"), request.path)
    pixels, labels = (read_npz(folder / name)["arr_0"] for name in SUMS)
    test = Split(torch.from_numpy(pixels[:, None]), torch.from_numpy(labels.astype(np.int64)))
    none = Split(test.inputs[:0], test.targets[:0])
    classes = tuple("おきすつなはまやれを")
    return Parts(request.name, "classification", none, test, none, classes=classes, bounds=(0.0, 1.0))
