"""The UCI regression benchmark of Bayesian neural networks: `uci-regression:<set>`."""

import io

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.locate import Files, locate
from pluriform.data.sources.request import Request
from pluriform.data.sources.uci import read_set
from pluriform.errors import ConfigError, CorruptFileError, explain

__all__ = ["uci_regression"]

ARCHIVES = ("uci_regression.tar.xz",)


def uci_regression(request: Request) -> Parts:
    """One of nine regression tables with its published splits, about 10 % test each.

    `request.split` chooses among the 20 published splits (5 for protein), 0 by default. Inputs are shifted and scaled
    to mean 0 and deviation 1 over the published training rows; targets stay in their own units, so that errors are in
    these units too.

    Raises:
        ConfigError: No such set or split.

    References:
        Hernandez-Lobato, Adams 2015. Probabilistic Backpropagation. arXiv:1502.05336.
        Gal, Ghahramani 2016. Dropout as a Bayesian Approximation. arXiv:1506.02142.
    """
    folder = locate(Files("uci_regression", ARCHIVES), request.path)
    texts = read_set(folder, ARCHIVES, request.member)
    try:
        count = int(_numbers(texts, "n_splits")[0])
        if not 0 <= request.split < count:
            raise ConfigError(
                explain(f"a split in 0..{count - 1}", f"{request.split}", request.name, "choose one that is published")
            )
        table = np.loadtxt(io.StringIO(texts["data/data.txt"]), ndmin=2)
        inputs = torch.from_numpy(table[:, _numbers(texts, "index_features")].astype(np.float32))
        targets = torch.from_numpy(table[:, _numbers(texts, "index_target")].astype(np.float32))
        rows = [torch.from_numpy(_numbers(texts, f"index_{part}_{request.split}")) for part in ("train", "test")]
    except (KeyError, IndexError) as error:
        raise CorruptFileError(
            explain(
                "a set with its splits", f"{error!r}", f"{request.member} of {folder / ARCHIVES[0]}", "fetch it again"
            )
        ) from error
    train, test = (Split(inputs[part], targets[part]) for part in rows)
    return Parts(request.name, "regression", train, test, standardise=True)


def _numbers(texts: dict[str, str], name: str) -> np.ndarray:
    return np.loadtxt(io.StringIO(texts[f"data/{name}.txt"]), ndmin=1).astype(np.int64)
