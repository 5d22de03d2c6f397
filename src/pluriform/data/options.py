"""Which options of `load` each kind of source takes; what it does not take is refused, not ignored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch.utils.data import Dataset

from pluriform.data.signature import Task
from pluriform.data.sources.pairs import Direction
from pluriform.data.sources.tables import SUFFIXES
from pluriform.errors import ConfigError, explain

__all__ = ["check_options", "check_task"]

ABSENT: dict[str, Any] = {
    "target": None,
    "path": None,
    "size": None,
    "split": 0,
    "classes": None,
    "bounds": None,
    "standardise": False,
    "direction": "AtoB",
    "paired": None,
}
"""The options that not every source takes, as they are where nobody asks for them."""
PICTURES = ("facades", "omniglot-small", "sign-digits")
SPLITS = ("uci", "uci-regression")
ARRAYS = ("classes", "bounds", "standardise")


def check_options(source: Any, task: Task | None, named: bool, options: Mapping[str, Any]) -> None:
    """Refuse options that have no value, and those that the source would ignore.

    Args:
        source: As `load` was given it.
        task: Asked for.
        named: Whether the source is the name of a data set.
        options: All of `ABSENT`.

    Raises:
        ConfigError: Of the first option that is wrong.
    """
    if task is not None and task not in get_args(Task):
        raise ConfigError(explain(f"one of {', '.join(get_args(Task))}", repr(task), "task", "choose one of them"))
    size = options["size"]
    pair = size if isinstance(size, tuple) else (1, 1) if size is None else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        remedy = "give size=64 or size=(64, 96)"
        raise ConfigError(explain("a side in pixels, or height and width", f"{size!r}", "size", remedy))
    if options["direction"] not in get_args(Direction):
        expected = " or ".join(get_args(Direction))
        raise ConfigError(explain(expected, repr(options["direction"]), "direction", "choose one of them"))
    kind, taken = _kind(source, task, named)
    ignored = [name for name, value in options.items() if name not in taken and value != ABSENT[name]]
    if ignored:
        expected = f"options of {kind}: {', '.join(taken)}" if taken else f"no options of {kind}"
        label = str(source) if isinstance(source, str | Path) else type(source).__name__
        remedy = f"leave out {', '.join(ignored)}"
        if {"direction", "paired"} & set(ignored):
            remedy += '; these are of folders of two domains, loaded with task="translation"'
        raise ConfigError(explain(expected, ", ".join(ignored), label, remedy))


def check_task(task: Task | None, found: Task, name: str) -> None:
    """Refuse a task that is not that of a named data set.

    Args:
        task: Asked for.
        found: Of the data set.
        name: Of the data set.

    Raises:
        ConfigError: It is another.
    """
    if task is not None and task != found:
        raise ConfigError(explain(found, repr(task), f"task of {name}", "leave task out, or load arrays or a file"))


def _kind(source: Any, task: Task | None, named: bool) -> tuple[str, tuple[str, ...]]:
    """What the source is called, and the options that it takes."""
    if isinstance(source, Dataset):
        return "a Dataset", ("classes", "bounds")
    if not isinstance(source, str | Path):
        return ("pictures", ("classes", "bounds", "paired")) if task == "translation" else ("arrays", ARRAYS)
    if named:
        key = str(source).partition(":")[0]
        return str(source), ("path", *["size"] * (key in PICTURES), *["split"] * (key in SPLITS))
    path = Path(source).expanduser()
    if path.is_dir() and task == "translation":
        return "a folder of two domains", ("size", "classes", "direction", "paired")
    if path.is_dir():
        return "a folder of class folders", ("size",)
    table = path.name.lower().endswith(SUFFIXES)
    return ("a table", ("target", *ARRAYS)) if table else ("a file of arrays", ARRAYS)
