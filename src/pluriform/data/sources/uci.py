"""The UCI classification collection of Fernandez-Delgado et al.: `uci:<set>`."""

import difflib
import io
from pathlib import Path

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.locate import Files, locate
from pluriform.data.sources.request import Request
from pluriform.data.sources.tar_member import read_member_folder
from pluriform.errors import ConfigError, CorruptFileError, explain

__all__ = ["read_set", "uci"]

ARCHIVES = ("uci_small.tar.xz", "uci_large.tar.xz")
FOLDS = 4


def uci(request: Request) -> Parts:
    """One of 116 small classification tables, features standardised over the whole table by the collection itself.

    The test part is that of the collection: its separate test file where it has one, otherwise the test rows of fold
    `request.split` (0 to 3) of `conxuntos_kfold.dat`, four independent draws of 75/25. The collection's split for
    tuning (`conxuntos.dat`) overlaps those folds and is not used: validation is drawn from the training rows.

    Raises:
        ConfigError: No such set or fold.

    References:
        Fernandez-Delgado, Cernadas, Barro, Amorim 2014. Do we need hundreds of classifiers to solve real world
        classification problems? JMLR 15.
        Arora, Du, Li, Salakhutdinov, Wang, Yu 2020. Harnessing the Power of Infinitely Wide Deep Nets on Small-data
        Tasks. arXiv:1910.01663.
    """
    folder = locate(Files("uci_classification", ARCHIVES), request.path)
    texts = read_set(folder, ARCHIVES, request.member)
    facts = dict(line.split("=", 1) for line in texts[f"{request.member}.txt"].splitlines() if "=" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    train = _rows(folder, texts, facts["fich1"])
    if "fich2" in facts:
        _check_split(request, 1)
        test = _rows(folder, texts, facts["fich2"])
    else:
        _check_split(request, FOLDS)
        lines = texts["conxuntos_kfold.dat"].splitlines()[2 * request.split :][:2]
        stay, out = (torch.tensor([int(word) for word in line.split()]) for line in lines)
        train, test = (Split(train.inputs[rows], train.targets[rows]) for rows in (stay, out))
    classes = tuple(str(label) for label in range(int(facts["n_clases"])))
    return Parts(request.name, "classification", train, test, classes=classes)


def read_set(folder: Path, archives: tuple[str, ...], name: str) -> dict[str, str]:
    """Texts of one set's files, from the first archive that has it.

    Raises:
        ConfigError: No archive has it; suggests near names.
    """
    seen: set[str] = set()
    for archive in archives:
        texts = read_member_folder(folder / archive, name, seen)
        if texts:
            return texts
    near = difflib.get_close_matches(name, seen, 3) or sorted(seen)
    raise ConfigError(
        explain(
            f"a set of {folder.name}", repr(name), "after the colon of the name", f"choose one of {', '.join(near)}"
        )
    )


def _rows(folder: Path, texts: dict[str, str], file: str) -> Split:
    """One header line, then row number, features, class."""
    try:
        table = np.loadtxt(io.StringIO(texts[file]), skiprows=1, ndmin=2)
    except (KeyError, ValueError) as error:
        raise CorruptFileError(
            explain("rows of numbers", f"{error}", f"{file} of {folder}", "fetch the archive again")
        ) from error
    return Split(torch.from_numpy(table[:, 1:-1].astype(np.float32)), torch.from_numpy(table[:, -1].astype(np.int64)))


def _check_split(request: Request, count: int) -> None:
    if not 0 <= request.split < count:
        raise ConfigError(
            explain(f"a split in 0..{count - 1}", f"{request.split}", request.name, "choose one that is published")
        )
