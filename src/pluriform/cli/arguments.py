"""What the commands share: data sets, networks, threats and methods given as words."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

from pluriform.attacks.threat import Threat
from pluriform.data.data import Data
from pluriform.data.load import load
from pluriform.errors import ConfigError, explain
from pluriform.method import Method
from pluriform.nets.zoo import build

__all__ = [
    "DATA_FLAGS",
    "DEFAULT_FORMS",
    "FIT_FLAGS",
    "METHODS",
    "described",
    "load_data",
    "load_network",
    "method_class",
    "parse_threat",
]

METHODS = {
    "training": "pluriform.ordinary:Training",
    "deep-ensemble": "pluriform.ensemble.deep_ensemble:DeepEnsemble",
    "hypergan": "pluriform.ensemble.hypergan.fit:HyperGAN",
    "infinite-width": "pluriform.infinite.fit:InfiniteWidth",
    "mc-dropout": "pluriform.ensemble.mc_dropout:MCDropout",
    "swag": "pluriform.ensemble.swag:SWAG",
    "last-layer-laplace": "pluriform.ensemble.last_layer_laplace:LastLayerLaplace",
    "mnf": "pluriform.ensemble.mnf.fit:MNF",
    "apd": "pluriform.ensemble.apd.fit:APD",
    "jem": "pluriform.energy.jem:JEM",
    "dat": "pluriform.energy.dat:DAT",
    "adversarial-training": "pluriform.robust.adversarial_training:AdversarialTraining",
    "transfer": "pluriform.robust.transfer:Transfer",
    "distillation": "pluriform.narrow.distillation:Distillation",
    "wide-then-narrow": "pluriform.narrow.wide_then_narrow:WideThenNarrow",
    "fitnets": "pluriform.narrow.fitnets:FitNets",
    "pruned-wide": "pluriform.narrow.pruned:PrunedWide",
    "morphism-search": "pluriform.search.fit:MorphismSearch",
}
DEFAULT_FORMS = ("training", "deep-ensemble", "hypergan", "infinite-width")


def described(kind: Any, text: str, *aliases: str) -> Any:
    """The type of a flag with its line of help, and other names that it goes by."""
    return Annotated[kind, tyro.conf.arg(help=text, aliases=aliases)]


DATA_FLAGS = (
    ("data", described(tyro.conf.Positional[str], "name, folder or file of the data set")),
    ("net", described(str | None, "network by name, or package.module:build"), None),
    ("target", described(str | None, "target column of a table"), None),
)
FIT_FLAGS = (
    ("seed", described(int, "source of every random draw"), 0),
    ("device", described(str, "auto, cpu or cuda"), "auto"),
)


def method_class(name: str) -> type[Method]:
    """The method class of a command-line name."""
    if name not in METHODS:
        raise ConfigError(explain(f"one of {', '.join(METHODS)}", repr(name), "method", "name one of them"))
    module, _, cls = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def load_data(source: str, *, target: str | None = None, seed: int = 0) -> Data:
    """A data set by name, folder or file."""
    return load(source, seed=seed) if target is None else load(source, seed=seed, target=target)


def load_network(name: str, data: Data, *, seed: int = 0) -> nn.Module:
    """A standard network by name, or the user's own as `package.module:build`.

    What stands behind the colon is a module, or is called with the data set, or without arguments.

    Raises:
        ConfigError: It cannot be imported, or gives no module.
    """
    if ":" not in name:
        return build(name, data, seed=seed)
    place, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # The last two of names like `:build`.
        raise ConfigError(
            explain("package.module:build that can be imported", f"{name!r} ({error})", "--net", "check the spelling")
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module) and callable(made):
        made = made(data) if inspect.signature(made).parameters else made()
    if not isinstance(made, nn.Module):
        raise ConfigError(explain("a torch.nn.Module", type(made).__name__, name, "return the network from it"))
    return made


def parse_threat(text: str) -> Threat:
    """`linf:0.1` or `l2:0.5` as a `Threat`.

    Raises:
        ConfigError: Another form.
    """
    norm, _, eps = text.partition(":")
    try:
        return Threat(norm, float(eps))  # type: ignore[arg-type]
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            explain("NORM:EPS such as linf:0.1 or l2:0.5", repr(text), "--threats", "eps is in input units")
        ) from None
