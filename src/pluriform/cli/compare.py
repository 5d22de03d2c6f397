"""`pluriform compare DATA`: the main job."""

from collections.abc import Sequence
from dataclasses import field, make_dataclass, replace
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from pluriform.cli.arguments import METHODS, load_data, load_network, method_class, parse_threat
from pluriform.comparison import compare
from pluriform.data.data import Data
from pluriform.data.describe import describe
from pluriform.nets.zoo import default_name
from pluriform.report.table import comparison_table

__all__ = ["run"]

DESCRIPTION = """Fit several forms of one network and judge them side by side: accuracy, calibration, outlier detection,
robustness, corruptions and cost. Prints the table and writes a page. Started again with the same flags it goes on where
it was stopped.

examples:
  pluriform compare digits
  pluriform compare fashion-mnist --net lenet --outliers mnist kmnist --deep-ensemble.members 10
  pluriform compare table.csv --target species --forms training infinite-width
"""


def options() -> type:
    """A dataclass of the flags of `compare`, with those of every method under the method's name."""
    names = tuple(METHODS)
    methods = [
        (name.replace("-", "_"), Annotated[method_class(name), tyro.conf.arg(help="")], field(default_factory=method_class(name)))
        for name in names
    ]
    return make_dataclass(
        "Compare",
        [
            ("data", Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="name, folder or file of the data set")]),
            ("net", Annotated[str | None, tyro.conf.arg(help="network by name, or package.module:build")], None),
            ("forms", Annotated[tuple[Literal[names], ...], tyro.conf.arg(help="which forms, in this order")], names),
            ("out", Annotated[str | None, tyro.conf.arg(help="run folder")], None),
            ("outliers", Annotated[tuple[str, ...], tyro.conf.arg(help="data sets to be told apart from it")], ()),
            ("threats", Annotated[tuple[str, ...] | None, tyro.conf.arg(help="NORM:EPS, default linf:0.1 for images")], None),
            ("target", Annotated[str | None, tyro.conf.arg(help="target column of a table")], None),
            ("seed", Annotated[int, tyro.conf.arg(help="source of every random draw")], 0),
            ("device", Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")], "auto"),
            *methods,
        ],
    )


def default_threats(data: Data) -> tuple[str, ...]:
    """A tenth of the input range in the maximum norm, where inputs have bounds."""
    return (f"linf:{(data.bounds[1] - data.bounds[0]) / 10:g}",) if data.bounds and data.task == "classification" else ()


def run(words: Sequence[str]) -> None:
    """Compare, print the table, say where the page is."""
    chosen: Any = tyro.cli(options(), args=list(words), prog="pluriform compare", description=DESCRIPTION)
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    data = load_data(chosen.data, target=chosen.target, seed=chosen.seed)
    name = chosen.net or default_name(data)
    folder = chosen.out or f"runs/compare-{data.name}-{name}-seed{chosen.seed}".replace(":", "-")
    progress.print(f"{describe(data)}; network {name}")
    results = compare(
        load_network(name, data, seed=chosen.seed),
        data,
        [getattr(chosen, form.replace("-", "_")) for form in chosen.forms],
        run=folder,
        network=name,
        outliers=[load_data(outlier) for outlier in chosen.outliers],
        threats=[parse_threat(text) for text in (default_threats(data) if chosen.threats is None else chosen.threats)],
        seed=chosen.seed,
        device=chosen.device,
        tell=progress.print,
    )
    console.print(comparison_table(results))
    console.print(f"page: {folder}/report.html")
