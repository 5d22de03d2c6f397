"""`RandomNetwork`: a widened copy of a module whose weights are drawn afresh with given variances."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, UnsupportedOpError, explain
from pluriform.graph.gather import widen
from pluriform.graph.graph import Graph
from pluriform.graph.ops import Op
from pluriform.graph.trace import trace
from pluriform.infinite.empirical.layer import Layer, layers_of

__all__ = ["RandomNetwork", "RandomParameter", "random_network"]

LINEAR = frozenset(
    {
        Op.OUTPUT,
        Op.IDENTITY,
        Op.FLATTEN,
        Op.RESHAPE,
        Op.PERMUTE,
        Op.MEAN,
        Op.SUM,
        Op.AVG_POOL,
        Op.ADAPTIVE_AVG_POOL,
    }
)
"""Operations between the last layer and the output that leave the output linear in its weights."""


@dataclass(frozen=True)
class RandomParameter:
    """How a parameter is drawn, and what it adds to the NTK.

    Attributes:
        variance: Of each entry.
        rate: Factor of its part of the NTK; 0 for frozen parameters.
        head: Belongs to the last layer, in which the output is linear.
    """

    variance: float
    rate: float
    head: bool


@dataclass(frozen=True, eq=False)
class RandomNetwork:
    """A network of the module's code and of a chosen width.

    Attributes:
        module: The copy; its parameters are overwritten by each draw.
        parameters: Of its linear and convolutional layers, by name.
        affine: Rates of the other parameters (scales and shifts of norms), which keep their values, by name.
    """

    module: nn.Module
    parameters: dict[str, RandomParameter]
    affine: dict[str, float]

    @property
    def rates(self) -> dict[str, float]:
        """Factor of the part of every parameter in the NTK."""
        return {name: parameter.rate for name, parameter in self.parameters.items()} | self.affine

    @property
    def head(self) -> dict[str, float]:
        """Variances of the parameters of the last layer; empty where the output is not linear in them."""
        return {name: parameter.variance for name, parameter in self.parameters.items() if parameter.head}

    def draw(self, generator: torch.Generator) -> None:
        """Draw all weights and biases anew, in place."""
        own = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                own[name].normal_(0.0, math.sqrt(parameter.variance), generator=generator)


def random_network(
    module: nn.Module,
    example: Tensor,
    *,
    width: float | int,
    weight_var: float | int,
    bias_var: float | int,
    overrides: Mapping[str, tuple[float | int, float | int]],
    parameterization: str,
) -> RandomNetwork:
    """Widen a module, and work out the variance and the NTK rate of every parameter.

    With plain weights `w = sigma_w / sqrt(n) W` the gradient in the NTK parameterisation is `sigma_w / sqrt(n)` times
    the plain one, so a parameter's part of the plain NTK is multiplied by its variance. In the standard
    parameterisation, where widths of the kernel stay those of the module, weights have the rate base fan-in / fan-in.

    Args:
        module: Any module that the tracer reads; left unchanged.
        example: Inputs.
        width: Hidden channels, in multiples of the module's own.
        weight_var: Variance of a weight times the fan-in.
        bias_var: Variance of a bias.
        overrides: `(weight_var, bias_var)` of single layers by dotted module path.
        parameterization: `"ntk"` or `"standard"`.

    Raises:
        ConfigError: The width is below 1, or an override names no layer.
        UnsupportedOpError: A parameter is used at several places, or by an operation without a rule here.
    """
    if width < 1:
        raise ConfigError(explain("a width of 1 or more", f"{width}", "monte_carlo_kernel", "widen the module"))
    weight = next(module.parameters(), example)
    base = trace(copy.deepcopy(module), example[:2].detach().to(weight.device, weight.dtype))
    wide = widen(base, width) if width != 1 else base
    layers = {layer.node.name: layer for layer in _layers(wide)}
    _check_overrides(layers, overrides)
    fans = {layer.node.name: _fan_in(layer) for layer in _layers(base)}
    head, own = _head(wide), dict(wide.root.named_parameters())
    parameters: dict[str, RandomParameter] = {}
    affine: dict[str, float] = {}
    for name, layer in layers.items():
        if layer.kind == "norm":
            standard = parameterization == "standard"
            affine |= {own_name: float(standard and own[own_name].requires_grad) for own_name in layer.names}
            continue
        fan_in = _fan_in(layer)
        variances = overrides.get(layer.node.module or "", (weight_var, bias_var))
        for own_name, variance, rate in (
            (layer.weight, variances[0] / fan_in, fans[name] / fan_in),
            (layer.bias, float(variances[1]), 1.0),
        ):
            if own_name is not None:
                moves = own[own_name].requires_grad
                rate = (variance if parameterization == "ntk" else rate) if moves else 0.0
                parameters[own_name] = RandomParameter(variance, rate, name == head)
    return RandomNetwork(wide.root, parameters, affine)


def _layers(graph: Graph) -> tuple[Layer, ...]:
    """All layers with parameters, frozen ones too; refuses parameters that none claims."""
    own = {name: parameter.detach() for name, parameter in graph.root.named_parameters()}
    layers = layers_of(graph, own)
    left = sorted(set(own) - {name for layer in layers for name in layer.names})
    if left:
        raise UnsupportedOpError(
            explain(
                "parameters of linear, convolutional and norm layers, each used at one place",
                ", ".join(left[:5]),
                f"monte_carlo_kernel of {type(graph.root).__name__}",
                "give each place a layer of its own",
            )
        )
    return layers


def _fan_in(layer: Layer) -> int:
    if layer.kind == "conv_transpose":
        return layer.shape[0] // layer.groups * math.prod(layer.shape[2:])
    return math.prod(layer.shape[1:])


def _head(graph: Graph) -> str | None:
    """The last layer, where only linear operations follow it."""
    node = graph.output
    while node.op in LINEAR and len(node.inputs) == 1:
        node = graph[node.inputs[0]]
    return node.name if node.op in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE) else None


def _check_overrides(layers: Mapping[str, Layer], overrides: Mapping[str, tuple[float | int, float | int]]) -> None:
    known = [layer.node.module for layer in layers.values() if layer.node.module and layer.kind != "norm"]
    if unknown := sorted(set(overrides) - set(known)):
        raise ConfigError(
            explain(
                f"overrides of the layers {', '.join(known)}",
                ", ".join(map(repr, unknown)),
                "overrides of monte_carlo_kernel",
                "name a linear or convolutional layer by its dotted path",
            )
        )
