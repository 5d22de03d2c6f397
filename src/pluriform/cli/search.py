"""`pluriform search DATA --start NET --minutes 30`."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from pluriform.cli.arguments import FIT_FLAGS, described, load_data, load_network
from pluriform.cli.fit import unprefixed
from pluriform.data.describe import describe
from pluriform.errors import UnsupportedOpError
from pluriform.evaluation.evaluate import describe as facts_of
from pluriform.evaluation.evaluate import evaluate
from pluriform.nets.zoo import default_name
from pluriform.report.live import LivePage
from pluriform.report.page import write_report
from pluriform.report.table import comparison_table
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
            ("start", described(str | None, "network to start from, by name or package.module:build", "--net"), None),
            ("target", described(str | None, "target column of a table"), None),
            ("metric", described(str | None, "what is maximised, package.module:function(outputs, targets)"), None),
            ("zero_cost", described(str, "prior mean beside size: macs, synflow, or a function"), "parameters"),
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
    module = load_network(name, data, seed=chosen.seed)
    page, method = folder / "report.html", replace(chosen.method, objective=chosen.metric, prior=chosen.zero_cost)
    console.print(f"{describe(data)}; start {name}; {method.label}")
    live = LivePage(page, method.label, name, facts_of(data), method.to_json(), chosen.seed)
    console.print(f"page: {page}")
    with _own_modules(), _told(_Lines(console), live):
        form: Any = method.fit(module, data, seed=chosen.seed, run=folder, device=chosen.device)
    found = evaluate(form, data, seed=chosen.seed, network=name, corruptions=(), run=folder)
    write_report(found, page)
    best = next(trial for trial in form.facts["trials"] if trial["number"] == form.facts["best"])
    failed = sum(trial["state"] == "failed" for trial in form.facts["trials"])
    console.print(
        f"best of {len(form.facts['trials'])} trials ({failed} failed): trial {best['number']}, validation score "
        f"{best['score']:.4f} on {form.facts['validation']} samples, {best['parameters']:,} parameters, "
        f"{best['latency']:.2g} ms"
    )
    console.print(comparison_table([found]))
    console.print(f"found: {folder}; {_written(form, Path(chosen.out) if chosen.out else folder / 'network.py')}")


def _written(form: Any, out: Path) -> str:
    """Write the network as Python; says where it is, or why it could not be written."""
    try:
        source = form.to_python()
    except UnsupportedOpError as error:
        return f"not as Python: {error}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(source)
    return f"as Python: {out}"


@contextmanager
def _own_modules() -> Iterator[None]:
    """Modules of the working folder can be imported, here and in the processes of the search."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


@contextmanager
def _told(lines: logging.Handler, live: LivePage) -> Iterator[None]:
    """Lines of the search on the terminal and its page while it runs."""
    logger = logging.getLogger("pluriform.search")
    before, logger.propagate = (logger.level, logger.propagate), False
    for handler in (lines, live):
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException as error:
        live.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    finally:
        for handler in (lines, live):
            logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Lines(logging.Handler):
    """Prints records on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        self.console.print(record.getMessage(), markup=False)
        sys.stderr.flush()
