"""`pluriform fit METHOD DATA`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from pluriform.cli.arguments import DATA_FLAGS, FIT_FLAGS, METHODS, described, load_data, load_network, method_class
from pluriform.data.describe import describe
from pluriform.method import Method
from pluriform.nets.zoo import default_name

__all__ = ["run"]

USAGE = """usage: pluriform fit METHOD DATA [--net NET] [--run FOLDER] [options of the method]

methods: {methods}

  pluriform fit deep-ensemble digits --members 5 --run runs/ensemble
  pluriform fit training fashion-mnist --net lenet --run runs/lenet
  pluriform fit METHOD --help for its options
"""


def options(name: str) -> type:
    """A dataclass of the flags of `fit` for one method."""
    cls = method_class(name)
    return make_dataclass(
        "Fit",
        [
            *DATA_FLAGS,
            ("run", described(str | None, "folder of the run"), None),
            *FIT_FLAGS,
            ("method", unprefixed(cls), field(default_factory=cls)),
        ],
    )


def unprefixed(cls: type[Method]) -> Any:
    """The type of a method whose flags are named as its fields, those of its recipe too (`--epochs`).

    Where two would be named alike, as with two recipes, nested ones keep their place (`--wide-training.epochs`).
    """
    names = list(_names(cls))
    if len(names) > len(set(names)):
        return Annotated[cls, tyro.conf.arg(name="")]
    return tyro.conf.OmitArgPrefixes[cls]


def _names(cls: Any) -> Iterator[str]:
    for item in fields(cls):
        yield from _names(item.type) if is_dataclass(item.type) else (item.name,)


def run(words: Sequence[str]) -> None:
    """Fit one form and say where it is."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE.format(methods=", ".join(METHODS)))
        return
    console = Console(stderr=True, highlight=False)
    chosen: Any = tyro.cli(options(words[0]), args=list(words[1:]), prog=f"pluriform fit {words[0]}")
    data = load_data(chosen.data, target=chosen.target, seed=chosen.seed)
    name = chosen.net or default_name(data)
    folder = chosen.run or f"runs/{words[0]}-{data.name}-{name}-seed{chosen.seed}".replace(":", "-")
    console.print(f"{describe(data)}; network {name}; {chosen.method.label}")
    module = load_network(name, data, seed=chosen.seed)
    chosen.method.fit(module, data, seed=chosen.seed, run=folder, device=chosen.device)
    console.print(f"fitted: {folder}")
