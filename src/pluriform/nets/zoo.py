"""`build`: a standard network by name, for a data set."""

import difflib
import re
from collections.abc import Callable

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.data.signature import Signature
from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.nets.convnet import ConvNet
from pluriform.nets.lenet import LeNet
from pluriform.nets.mlp import MLP
from pluriform.nets.myrtle import Myrtle
from pluriform.nets.resnet import ResNet, WideResNet

__all__ = ["NAMES", "build", "default_name"]

PLAIN: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "convnet": ConvNet,
    "myrtle5": lambda *args, norm: Myrtle(*args, depth=5, norm=norm),
    "myrtle7": lambda *args, norm: Myrtle(*args, depth=7, norm=norm),
    "myrtle10": lambda *args, norm: Myrtle(*args, depth=10, norm=norm),
}
NAMES = (*PLAIN, *(f"{name}-bn" for name in PLAIN), "resnet20", "resnet20-nonorm", "wrn-16-4", "wrn-16-4-nonorm")


def build(name: str, data: Data | Signature, *, seed: int = 0) -> nn.Module:
    """A standard network, initialised from `seed`.

    Args:
        name: `mlp`, `lenet`, `convnet`, `myrtle5`, `myrtle7`, `myrtle10`, each also as `-bn` with BatchNorm;
            `resnetD` (D = 6n + 2) and `wrn-D-K` (D = 6n + 4), each also as `-nonorm` without it.
        data: Gives input shape and output width.
        seed: Of the initial weights.

    Returns:
        A module that maps `(batch, *input_shape)` to `(batch, outputs)`.

    Raises:
        ConfigError: There is no network of that name.
        ShapeError: The network takes images of at least 8x8 pixels and the data are not.
    """
    make = _constructor(name)
    signature = data.signature if isinstance(data, Data) else data
    shape = signature.input_shape
    if not name.startswith("mlp") and (len(shape) != 3 or min(shape[1:]) < 8):
        raise ShapeError(
            explain("inputs (channels, height, width) of at least 8x8", f"{shape}", f"nets.build({name!r})", "use mlp")
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(shape, signature.outputs)


def default_name(data: Data | Signature) -> str:
    """`lenet` for images of 16 pixels or more, else `mlp`."""
    shape = (data.signature if isinstance(data, Data) else data).input_shape
    return "lenet" if len(shape) == 3 and min(shape[1:]) >= 16 else "mlp"


def _constructor(name: str) -> Callable[..., nn.Module]:
    base = name.removesuffix("-bn")
    if base in PLAIN:
        return lambda *args: PLAIN[base](*args, norm=base != name)
    norm, base = not name.endswith("-nonorm"), name.removesuffix("-nonorm")
    if (match := re.fullmatch(r"resnet(\d+)", base)) and int(match[1]) % 6 == 2 and int(match[1]) > 2:
        return lambda *args: ResNet(*args, depth=int(match[1]), norm=norm)
    if (match := re.fullmatch(r"wrn-(\d+)-(\d+)", base)) and int(match[1]) % 6 == 4 and int(match[1]) > 4:
        return lambda *args: WideResNet(*args, depth=int(match[1]), widen=int(match[2]), norm=norm)
    close = difflib.get_close_matches(name, NAMES, 1)
    raise ConfigError(
        explain(
            f"one of {', '.join(NAMES)} (resnetD with D = 6n + 2, wrn-D-K with D = 6n + 4)",
            repr(name),
            "nets.build",
            f"did you mean {close[0]!r}? A network of your own goes in as a module"
            if close
            else "pass a module of your own",
        )
    )
