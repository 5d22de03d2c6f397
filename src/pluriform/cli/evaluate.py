"""`pluriform evaluate RUN DATA`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from pluriform.cli.arguments import load_data, load_network, parse_threat
from pluriform.evaluation.evaluate import evaluate
from pluriform.forms import load_form
from pluriform.report.table import comparison_table

__all__ = ["run"]


DESCRIPTION = """Measure a fitted form and write its result as JSON.

examples:
  pluriform evaluate runs/ensemble digits
  pluriform evaluate runs/lenet fashion-mnist --outliers mnist --threats linf:0.1 l2:1.0 --out lenet.json
"""


@dataclass
class Evaluate:
    """The flags of `evaluate`."""

    form: tyro.conf.Positional[str]
    """run folder, or folder of a saved form"""
    data: tyro.conf.Positional[str]
    """name, folder or file of the data set"""
    out: Annotated[str | None, tyro.conf.arg(help="result file, default result.json beside the form")] = None
    outliers: tuple[str, ...] = ()
    """data sets to be told apart from it"""
    threats: tuple[str, ...] = ()
    """NORM:EPS such as linf:0.1"""
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    """whose figures are drawn against eps; also apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square"""
    auto_attack: bool = False
    """also run AutoAttack at the full eps of each threat, which is slow; it goes on beside the form if stopped"""
    net: str | None = None
    """package.module:build, where the form holds a class of your own"""
    target: str | None = None
    """target column of a table"""
    seed: int = 0
    """of bootstrap, attacks and corruptions"""


def run(words: Sequence[str]) -> None:
    """Evaluate, print the table, write the result."""
    chosen = tyro.cli(Evaluate, args=list(words), prog="pluriform evaluate", description=DESCRIPTION)
    console = Console(highlight=False)
    module = load_network(chosen.net, load_data(chosen.data, target=chosen.target)) if chosen.net else None
    form = load_form(chosen.form, module=module)
    seed = form.origin.get("seed", 0)  # Of its validation samples: all others it was trained on.
    data = load_data(chosen.data, target=chosen.target, seed=seed)
    result = evaluate(
        form,
        data,
        outliers=[load_data(name) for name in chosen.outliers],
        threats=[parse_threat(text) for text in chosen.threats],
        attacks=chosen.attacks,
        auto_attack=chosen.auto_attack,
        seed=chosen.seed,
        run=chosen.form if chosen.auto_attack else None,
    )
    console.print(comparison_table([result]))
    console.print(f"result: {result.save(chosen.out or Path(chosen.form) / 'result.json')}")
