"""What a generator of networks generates: the trainable tensors of a module, layer by layer."""

import math
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter

from pluriform.errors import ConfigError, GraphError, ShapeError, explain
from pluriform.graph.head import find_head
from pluriform.graph.trace import trace

__all__ = ["Entry", "Layer", "layers_of"]

Kind = Literal["weight", "bias", "scale", "shift", "embedding", "other"]

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        name: As in `named_parameters`.
        shape: Its shape.
        kind: What it does in its layer; `scale` and `shift` are those of a normalisation, `other` is a bare parameter
            of a class that is not torch's.
        fan_in: Inputs that meet in one output: kernel area included, per group, averaged over the positions of a
            strided transposed convolution; of a bias, those of its layer. 1 for an embedding.
        fan_out: Outputs that one input reaches, counted alike.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    fan_in: int
    fan_out: int

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layer:
    """The tensors that one submodule owns directly.

    Attributes:
        name: Dotted path of the submodule; empty for the module itself.
        entries: In the order of `named_parameters`.
    """

    name: str
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Numbers in all its tensors."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True)
class _Fans:
    inside: int
    outside: int


def layers_of(module: nn.Module, which: str = "all", *, example: Tensor | None = None) -> tuple[Layer, ...]:
    """The trainable floating tensors of a module, one `Layer` for each submodule that owns some.

    Frozen tensors are left out. A tied tensor stands once, under its first name, with the larger of its fans.

    Args:
        module: Any module, on any device; it is not changed.
        which: `all` layers, or only the `last` one with a weight of two or more dimensions.
        example: An input batch by which the last layer is found in the graph; without one, or where the graph does not
            tell, it is the last `nn.Linear`, or the last layer with a weight.

    Returns:
        The layers in the order of `named_parameters`.

    Raises:
        ConfigError: No trainable parameter, or one without a shape yet.

    References:
        Sections 2.4 and 6.1 of the method: one generator a layer, weight and bias together.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(layer.name, layer.size) for layer in layers_of(network)]
        [('0', 15), ('2', 8)]
    """
    if which not in ("all", "last"):
        raise ConfigError(explain("which='all' or 'last'", repr(which), "layers of the target", "use which='all'"))
    owners = _owners(module)
    entries = [
        _entry(name, parameter, owners) for name, parameter in module.named_parameters() if _generated(parameter)
    ]
    layers = tuple(Layer(owner, tuple(own)) for owner, own in groupby(entries, lambda entry: _split(entry.name)[0]))
    if not layers:
        raise ConfigError(
            explain(
                "a module with trainable parameters",
                f"{sum(1 for _ in module.parameters())} parameters, none of them trainable",
                type(module).__name__,
                "pass a network whose weights require gradients",
            )
        )
    return layers if which == "all" else _last(module, layers, example)


def _generated(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.is_floating_point()


def _split(name: str) -> tuple[str, str]:
    owner, _, own = name.rpartition(".")
    return owner, own


def _owners(module: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Every submodule that holds a parameter, with the name it has there."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((part, name))
    return owners


def _entry(name: str, parameter: nn.Parameter, owners: dict[nn.Parameter, list[tuple[nn.Module, str]]]) -> Entry:
    if isinstance(parameter, UninitializedParameter):
        remedy = "call the network once on a batch first"
        raise ConfigError(explain("parameters with shapes", "one of a lazy module", f"parameter {name}", remedy))
    shape = tuple(parameter.shape)
    readings = [_reading(part, own, shape) for part, own in owners[parameter]]
    fan_in, fan_out = max(fans.inside for _, fans in readings), max(fans.outside for _, fans in readings)
    return Entry(name, shape, readings[0][0], fan_in, fan_out)


def _reading(part: nn.Module, name: str, shape: tuple[int, ...]) -> tuple[Kind, _Fans]:
    """Kind and fans of the tensor `name` of a submodule."""
    if isinstance(part, NORMS):
        return ("scale" if name == "weight" else "shift"), _Fans(1, 1)
    if isinstance(part, nn.Embedding | nn.EmbeddingBag):
        return "embedding", _Fans(1, shape[-1])
    if isinstance(part, _ConvNd):
        return ("bias" if name == "bias" else "weight"), _convolution(part)
    if isinstance(part, nn.Linear):
        return ("bias" if name == "bias" else "weight"), _Fans(part.in_features, part.out_features)
    if isinstance(part, nn.Bilinear):
        fans = _Fans(part.in1_features * part.in2_features, part.out_features)
        return ("bias" if name == "bias" else "weight"), fans
    if isinstance(part, RECURRENT):
        fans = _Fans(shape[-1], shape[0]) if name.startswith("weight_hr") else _recurrent(part, name)
        return ("bias" if name.startswith("bias") else "weight"), fans
    if isinstance(part, nn.MultiheadAttention):
        width = part.embed_dim
        return ("bias" if "bias" in name else "weight"), _Fans(shape[-1] if "weight" in name else width, width)
    return "other", _Fans(max(1, math.prod(shape[1:])), max(1, math.prod((*shape[:1], *shape[2:]))))


def _convolution(part: _ConvNd) -> _Fans:
    area, steps = math.prod(part.kernel_size), math.prod(part.stride)
    inside, outside = part.in_channels // part.groups * area, part.out_channels // part.groups * area
    if isinstance(part, _ConvTransposeNd):
        return _Fans(max(1, round(inside / steps)), outside)
    return _Fans(inside, max(1, round(outside / steps)))


def _recurrent(part: nn.Module, name: str) -> _Fans:
    """Input and state meet in one sum, so their fans add."""
    weights = {
        own: weight for own, weight in part._parameters.items() if own.startswith("weight") and weight is not None
    }
    suffix = name.split("_", 2)[2] if name.count("_") > 1 else ""
    ends = [f"weight_{end}_{suffix}" if suffix else f"weight_{end}" for end in ("ih", "hh")]
    pair = [weights[end] for end in ends]
    return _Fans(sum(weight.shape[1] for weight in pair), pair[0].shape[0])


def _last(module: nn.Module, layers: tuple[Layer, ...], example: Tensor | None) -> tuple[Layer, ...]:
    """The layer that holds the head's tensors; those that are tied count under their first name."""
    head = _traced_head(module, example) or next(
        (part for part in reversed(list(module.modules())) if isinstance(part, nn.Linear) and _trainable(part)), None
    )
    if head is None:
        return (
            tuple(layer for layer in layers if any(len(entry.shape) > 1 for entry in layer.entries))[-1:] or layers[-1:]
        )
    own = {id(parameter) for parameter in head.parameters()}
    kept = {name for name, parameter in module.named_parameters() if id(parameter) in own}
    chosen = [replace(layer, entries=tuple(e for e in layer.entries if e.name in kept)) for layer in layers]
    return tuple(layer for layer in chosen if layer.entries)


def _trainable(part: nn.Module) -> bool:
    return any(_generated(parameter) for parameter in part.parameters(recurse=False))


def _traced_head(module: nn.Module, example: Tensor | None) -> nn.Module | None:
    if example is None:
        return None
    try:
        with torch.no_grad():
            found = module.get_submodule(find_head(trace(module, example)).module or "")
    except (AttributeError, GraphError, ShapeError):
        return None
    return found if _trainable(found) else None
