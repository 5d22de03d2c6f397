"""`pluriform search DATA --start NET --minutes 30`."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from pluriform.cli.arguments import FIT_FLAGS, described, load_data, load_network
from pluriform.cli.fit import unprefixed
from pluriform.data.describe import describe
from pluriform.nets.zoo import default_name
from pluriform.search.fit import MorphismSearch

__all__ = ["run"]

DESCRIPTION = """Grow a better network from yours, and write it as plain Python.

examples:
  pluriform search digits --minutes 5
  pluriform search fashion-mnist --start lenet --minutes 30 --workers processes
  pluriform search table.csv --target price --start my_package.nets:build --trials 50 --max-parameters 1000000

Stopped or killed, the same command goes on; with more minutes or trials it goes on with a finished search.
"""


def options() -> type:
    """A dataclass of the flags of `search`."""
    return make_dataclass(
        "Search",
        [
            ("data", described(tyro.conf.Positional[str], "name, folder or file of the data set")),
            ("start", described(str | None, "network to start from, by name or package.module:build"), None),
            ("target", described(str | None, "target column of a table"), None),
            ("run", described(str | None, "folder of the run"), None),
            ("out", described(str | None, "file for the network as Python, default network.py in the run"), None),
            *FIT_FLAGS,
            ("method", unprefixed(MorphismSearch), field(default_factory=MorphismSearch)),
        ],
    )


def run(words: Sequence[str]) -> None:
    """Search, saying what every trial brought, then say what was found and where it is."""
    chosen: Any = tyro.cli(options(), args=list(words), prog="pluriform search", description=DESCRIPTION)
    console = Console(stderr=True, highlight=False)
    data = load_data(chosen.data, target=chosen.target, seed=chosen.seed)
    name = chosen.start or default_name(data)
    folder = Path(chosen.run or f"runs/search-{data.name}-{name}-seed{chosen.seed}".replace(":", "-"))
    console.print(f"{describe(data)}; start {name}; {chosen.method.label}")
    module = load_network(name, data, seed=chosen.seed)
    with _told(console):
        form: Any = chosen.method.fit(module, data, seed=chosen.seed, run=folder, device=chosen.device)
    best = next(trial for trial in form.facts["trials"] if trial["number"] == form.facts["best"])
    failed = sum(trial["state"] == "failed" for trial in form.facts["trials"])
    console.print(
        f"best of {len(form.facts['trials'])} trials ({failed} failed): trial {best['number']}, validation score "
        f"{best['score']:.4f} on {form.facts['validation']} samples, {best['parameters']:,} parameters, "
        f"{best['latency']:.2g} ms"
    )
    out = Path(chosen.out) if chosen.out else folder / "network.py"
    out.write_text(form.to_python())
    console.print(f"found: {folder}; as Python: {out}")


@contextmanager
def _told(console: Console) -> Iterator[None]:
    """Lines of the search on the terminal while it runs."""
    logger = logging.getLogger("pluriform.search")
    handler = _Lines(console)
    before, logger.propagate = (logger.level, logger.propagate), False
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Lines(logging.Handler):
    """Prints records on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        self.console.print(record.getMessage(), markup=False)
        sys.stderr.flush()
