"""`pluriform compare DATA`: the main job."""

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, make_dataclass, replace
from typing import Any, Literal

import tyro
from rich.console import Console

from pluriform.cli.arguments import (
    DATA_FLAGS,
    DEFAULT_FORMS,
    FIT_FLAGS,
    METHODS,
    described,
    load_data,
    load_network,
    method_class,
    parse_threat,
)
from pluriform.comparison import compare
from pluriform.data.data import Data
from pluriform.data.describe import describe
from pluriform.method import Method
from pluriform.nets.zoo import default_name
from pluriform.report.table import comparison_table
from pluriform.training.recipe import Recipe

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
    attacks = "whose figures are drawn against eps; also apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square"
    threats = "NORM:EPS in input units; a tenth of the input range in the maximum norm for images"
    methods = [
        (name.replace("-", "_"), method_class(name), field(default_factory=method_class(name))) for name in names
    ]
    return make_dataclass(
        "Compare",
        [
            *DATA_FLAGS,
            ("forms", described(tuple[Literal[names], ...], "which forms, in this order"), DEFAULT_FORMS),
            ("run", described(str | None, "folder of the run", "--out"), None),
            ("outliers", described(tuple[str, ...], "data sets to be told apart from it"), ()),
            ("threats", described(tuple[str, ...] | None, threats), None),
            ("attacks", described(tuple[str, ...], attacks), ("fgsm", "pgd")),
            ("auto_attack", described(bool, "also run AutoAttack at the eps of each threat, which is slow"), False),
            *FIT_FLAGS,
            *methods,
        ],
    )


def default_threats(data: Data) -> tuple[str, ...]:
    """A tenth of the input range in the maximum norm, where inputs have bounds."""
    if data.bounds is None or data.task != "classification":
        return ()
    return (f"linf:{(data.bounds[1] - data.bounds[0]) / 10:g}",)


def chosen_methods(chosen: Any) -> list[Method]:
    """The methods of the flags; what `--training` changes holds for every method that trains networks itself.

    A method that was given a training of its own keeps it.
    """
    methods = [getattr(chosen, form.replace("-", "_")) for form in chosen.forms]
    given = {item.name: getattr(chosen.training, item.name) for item in fields(Recipe)}
    changed = {name: value for name, value in given.items() if value != getattr(Recipe(), name)}
    return [_with_training(method, changed) for method in methods]


def _with_training(method: Method, changed: Mapping[str, Any]) -> Method:
    own = getattr(method, "training", None)
    if not changed or own is None or own != type(method)().training:  # type: ignore[attr-defined]
        return method
    return replace(method, training=replace(own, **changed))


def run(words: Sequence[str]) -> None:
    """Compare, print the table, say where the page is."""
    chosen: Any = tyro.cli(options(), args=list(words), prog="pluriform compare", description=DESCRIPTION)
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    data = load_data(chosen.data, target=chosen.target, seed=chosen.seed)
    name = chosen.net or default_name(data)
    folder = chosen.run or f"runs/compare-{data.name}-{name}-seed{chosen.seed}".replace(":", "-")
    progress.print(f"{describe(data)}; network {name}")
    results = compare(
        load_network(name, data, seed=chosen.seed),
        data,
        chosen_methods(chosen),
        run=folder,
        network=name,
        outliers=[load_data(outlier) for outlier in chosen.outliers],
        threats=[parse_threat(text) for text in (default_threats(data) if chosen.threats is None else chosen.threats)],
        attacks=chosen.attacks,
        auto_attack=chosen.auto_attack,
        seed=chosen.seed,
        device=chosen.device,
        tell=progress.print,
    )
    console.print(comparison_table(results))
    console.print(f"page: {folder}/report.html")
