"""`load`: a data set by name, from a folder or file, from arrays, or through a torch `Dataset`."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pluriform.data.data import Data
from pluriform.data.parts import Parts, assemble
from pluriform.data.sources.cifar import cifar10, cifar100, cifar100_part
from pluriform.data.sources.digits import digits
from pluriform.data.sources.idx import fashion_mnist, mnist, notmnist
from pluriform.data.sources.kmnist import kmnist
from pluriform.data.sources.request import Request
from pluriform.errors import ConfigError, explain

__all__ = ["NAMES", "load"]

NAMES: dict[str, Callable[[Request], Parts]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100-part": cifar100_part,
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "kmnist": kmnist,
    "mnist": mnist,
    "notmnist": notmnist,
}


def load(
    source: Any,
    targets: Any = None,
    *,
    validation: float | int = 0.1,
    seed: int = 0,
    name: str | None = None,
    path: str | Path | None = None,
    size: int | None = None,
    split: int = 0,
) -> Data:
    """Load a data set."""
    request = Request(str(source), None if path is None else Path(path), size, split)
    key = request.name.partition(":")[0]
    if key not in NAMES:
        close = difflib.get_close_matches(key, NAMES, 1)
        raise ConfigError(
            explain(
                f"one of {', '.join(sorted(NAMES))}, or a folder or file",
                repr(source),
                "source",
                f"write {close[0]!r}" if close else "check the spelling or the path",
            )
        )
    parts = NAMES[key](request)
    return assemble(replace(parts, name=name or parts.name), validation, seed)
