"""One node of the graph as one step: reads the facts of an operation and picks its rule."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.errors import UnsupportedOpError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.infinite.activation.dual import Dual
from pluriform.infinite.activation.named import NAMED, dual_named
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.rule import activation
from pluriform.infinite.branch import concatenate, identity, product, residual_sum, scale
from pluriform.infinite.dropout import dropout
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.linear import LayerVariances, linear
from pluriform.infinite.norm import fixed_affine, layer_norm
from pluriform.infinite.plan import Step
from pluriform.infinite.spatial import (
    Window,
    adaptive_matrix,
    convolution,
    flatten,
    pad,
    pooling,
    pooling_matrix,
    respatial,
    transpose,
)

__all__ = ["Place", "RULES", "WEIGHTED"]

WEIGHTED = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR, Op.EMBEDDING, Op.ATTENTION})


@dataclass(frozen=True, eq=False)
class Place:
    """A node where it stands.

    Attributes:
        graph: The traced network.
        node: The node.
        inputs: Names of the nodes that it reads, parameters left out.
        fixed: Names of all deterministic nodes.
    """

    graph: Graph
    node: Node
    inputs: tuple[str, ...]
    fixed: frozenset[str]

    def fact(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return self.node.attributes.get(name, default)

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.node)

    @property
    def parameters(self) -> list[Tensor]:
        """Weight, and bias where there is one."""
        if self.node.module is not None:
            layer = self.graph.submodule(self.node)
            found = [getattr(layer, "weight", None), getattr(layer, "bias", None)]
            return [tensor for tensor in found if isinstance(tensor, Tensor)]
        names = [name for name in self.node.inputs if self.graph[name].op is Op.PARAMETER]
        return sorted((Place.tensor(self.graph, self.graph[name]) for name in names), key=lambda t: -t.ndim)

    @staticmethod
    def tensor(graph: Graph, node: Node) -> Tensor:
        """The parameter, buffer or constant that a node reads."""
        found: Any = graph.module
        for part in str(node.attributes["path"]).split("."):
            found = getattr(found, part)
        return found

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """Shape of an input on the traced example."""
        return tuple(self.graph[self.inputs[position]].shape)

    def step(self, rule: Callable[..., Kernel], **facts: Any) -> Step:
        """The step of this node."""
        return Step(self.node.name, self.inputs, rule, self.where, **facts)

    def refuse(self, expected: str, got: str, remedy: str) -> UnsupportedOpError:
        """The error for a variant of an operation without a rule."""
        return UnsupportedOpError(explain(expected, got, self.where, remedy))


def _layer(place: Place, variances: Any) -> LayerVariances:
    weight, *bias = place.parameters
    weight_var, bias_var = variances.overrides.get(place.node.module, (variances.weight, variances.bias))
    return LayerVariances.of(
        weight_var,
        bias_var,
        fan_in=weight[0].numel(),
        has_bias=bool(bias),
        parameterization=variances.parameterization,
        train_weight=weight.requires_grad,
        train_bias=bool(bias) and bias[0].requires_grad,
    )


def _linear(place: Place, variances: Any) -> Step:
    layer = _layer(place, variances)
    return place.step(partial(linear, layer=layer), weighted=True, channel_axis=-1)


def _conv(place: Place, variances: Any) -> Step:
    layer, weight = _layer(place, variances), place.parameters[0]
    sizes = tuple(weight.shape[2:])
    if (groups := place.fact("groups", 1)) > 1 and weight.shape[1] == 1:
        raise place.refuse(
            "several channels a group", f"a depthwise convolution with {groups} groups", "use fewer groups"
        )
    mode = place.fact("padding_mode", "zeros")
    facts = sizes, place.fact("stride"), place.fact("dilation"), place.fact("padding")
    windows = tuple(Window(*fact, mode) for fact in zip(*facts, strict=True))
    return place.step(partial(convolution, windows=windows, layer=layer), weighted=True, channel_axis=1)


def dual_of(place: Place) -> Dual:
    """The moments of an activation node.

    Raises:
        UnsupportedOpError: There are none.
    """
    name = str(place.fact("function"))
    if name == "prelu":
        return _prelu(place)
    if (name != "rrelu" or not _is_training(place)) and (dual := dual_named(name, place.node.attributes)) is not None:
        return dual
    raise place.refuse(
        f"one of {', '.join(sorted(NAMED))}, or prelu with one frozen slope; powers with a whole exponent of 0 or more",
        f"{name}{' in training mode' if name == 'rrelu' else ''}",
        "use one of these: others are random, or have no moments under a Gaussian",
    )


def _is_training(place: Place) -> bool:
    return place.node.module is None or place.graph.submodule(place.node).training


def _prelu(place: Place) -> Dual:
    slope = place.parameters[0]
    if slope.requires_grad or bool((slope != slope.flatten()[0]).any()):
        raise place.refuse(
            "prelu with one frozen slope",
            "a trainable slope, or one for each channel",
            "call weight.requires_grad_(False) on it, or use leaky_relu",
        )
    return Abrelu(float(slope.flatten()[0]), 1.0)


def _activation(place: Place, _: Any) -> Step:
    if place.fact("function") == "neg":
        return place.step(partial(scale, factor=-1.0))
    if place.fact("function") == "positive":
        return place.step(identity)
    return place.step(partial(activation, dual=dual_of(place)), bends=True)


def _identity(place: Place, _: Any) -> Step:
    return place.step(identity)


def _dropout(place: Place, _: Any) -> Step:
    probability = float(place.fact("p", 0.5))
    if not place.fact("active") or probability == 0:
        return _identity(place, _)
    layer = place.graph.submodule(place.node) if place.node.module else None
    whole = isinstance(layer, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d)
    return place.step(partial(dropout, keep=1 - probability, whole_channels=whole))


def _batch_norm(place: Place, _: Any) -> Step:
    layer = place.graph.submodule(place.node) if place.node.module else None
    if not isinstance(layer, _BatchNorm) or layer.running_mean is None or place.fact("batch_statistics"):
        raise place.refuse(
            "batch norm in evaluation mode, a fixed affine map",
            "batch norm in training mode",
            "call module.eval(), or use LayerNorm or no normalisation: batch statistics have no limit here",
        )
    variance = torch.ones_like(layer.running_mean) if layer.running_var is None else layer.running_var
    ratio = (variance.double() + layer.eps).rsqrt()
    weight = ratio if layer.weight is None else ratio * layer.weight.detach().double()
    shift = -layer.running_mean.double() * weight
    shift = shift if layer.bias is None else shift + layer.bias.detach().double()
    return place.step(fixed_affine(weight, shift), centres=True)


def _layer_norm(place: Place, variances: Any) -> Step:
    normalised, shape = tuple(place.fact("normalized_shape")), place.shape()
    over_positions = len(normalised) > 1
    if len(shape) > 2 and over_positions and len(normalised) != len(shape) - 1:
        raise place.refuse(
            "normalisation over channels, with all positions or none",
            f"normalisation over {normalised} of {shape[1:]}",
            "normalise channels alone, or all of it",
        )
    return _norm(place, over_positions, None if over_positions else -1, place.node.op is Op.LAYER_NORM, variances)


def _group_norm(place: Place, variances: Any) -> Step:
    groups, channels = int(place.fact("num_groups")), place.shape()[1]
    if groups == channels and channels > 1:
        raise place.refuse("several channels a group", "one channel a group", "use fewer groups")
    return _norm(place, True, 1, True, variances)


def _norm(place: Place, over_positions: bool, channel_axis: int | None, centres: bool, variances: Any) -> Step:
    eps = place.fact("eps")
    eps = float(torch.finfo(torch.float32).eps if eps is None else eps)
    standard = variances.parameterization == "standard"
    none = torch.zeros(())
    rates = [float(standard and tensor.requires_grad) for tensor in (*place.parameters, none, none)]
    rule = partial(layer_norm, eps=eps, over_positions=over_positions, weight_rate=rates[0], bias_rate=rates[1])
    return place.step(rule, centres=centres, channel_axis=channel_axis)


def _avg_pool(place: Place, _: Any) -> Step:
    facts = place.shape()[2:], place.fact("kernel_size"), place.fact("stride"), place.fact("padding")
    ceil, counted = bool(place.fact("ceil_mode", False)), bool(place.fact("count_include_pad", True))
    divisor = place.fact("divisor_override")
    matrices = [
        pooling_matrix(length, Window(size, step, 1, padding), ceil=ceil, count_padding=counted)
        for length, size, step, padding in zip(*facts, strict=True)
    ]
    if divisor:
        matrices = [(matrix > 0).double() for matrix in matrices]
        matrices[0] = matrices[0] / float(divisor)
    return _pooled(place, matrices)


def _adaptive(place: Place, _: Any) -> Step:
    shape, out = place.shape()[2:], tuple(place.node.shape)[2:]
    return _pooled(place, [adaptive_matrix(length, size) for length, size in zip(shape, out, strict=True)])


def _pooled(place: Place, matrices: list[Tensor], spatial: tuple[int, ...] | None = None) -> Step:
    rule = partial(pooling, matrices=tuple(matrices), spatial=spatial)
    return place.step(rule, demand="full", channel_axis=1)


def _reduction(place: Place, _: Any) -> Step:
    """Mean or sum over positions of channels-first images."""
    shape, dims = place.shape(), place.fact("dim")
    if not dims or 0 in dims or 1 in dims:
        raise place.refuse("a mean or sum over positions", f"one over axes {dims}", "reduce axes 2 and beyond")
    matrices = []
    for axis, length in enumerate(shape[2:], 2):
        ones = torch.ones(1, length, dtype=torch.float64) / (length if place.node.op is Op.MEAN else 1)
        matrices.append(ones if axis in dims else torch.eye(length, dtype=torch.float64))
    left = tuple(length for axis, length in enumerate(shape[2:], 2) if axis not in dims)
    return _pooled(place, matrices, None if place.fact("keepdim", False) else left)


def _reshape(place: Place, _: Any) -> Step:
    """Flatten to vectors, or add and drop axes of length one."""
    before, after = place.shape(), tuple(place.node.shape)
    if len(after) == 2:
        return place.step(flatten, demand="diagonal")
    if before[:2] == after[:2] and [n for n in before[2:] if n > 1] == [n for n in after[2:] if n > 1]:
        return place.step(partial(respatial, spatial=after[2:]), channel_axis=1)
    raise place.refuse(
        "a reshape to vectors, or one that adds or drops axes of length one", f"{before} to {after}", "flatten instead"
    )


def _permute(place: Place, _: Any) -> Step:
    """Channels first to channels last and back, and spatial axes in any order."""
    return place.step(partial(transpose, dims=tuple(place.fact("dims")), where=place.where))


def _pad(place: Place, _: Any) -> Step:
    sides, axes, mode = place.fact("padding"), len(place.shape()) - 2, place.fact("mode")
    if mode == "constant" and place.fact("value") != 0:
        raise place.refuse("padding with zeros", f"padding with {place.fact('value')}", "pad with zeros")
    if len(sides) > axes or any(extra < 0 for pair in sides for extra in pair):
        raise place.refuse(
            "padding of positions by 0 or more", f"{sides}", "pad the last axes only, and crop by slicing"
        )
    padding = ((0, 0),) * (axes - len(sides)) + tuple(sides)
    name = "zeros" if mode == "constant" else str(mode)
    return place.step(partial(pad, padding=padding, mode=name), channel_axis=1)


def _join(place: Place, _: Any) -> Step:
    """Sum, difference or product of branches, or of one branch with a number."""
    multiplies, constant = place.node.op is Op.MULTIPLY, _constant(place)
    if len(place.inputs) == 1 and constant is not None and place.node.op is not Op.DIVIDE:
        if multiplies:
            return place.step(partial(scale, factor=constant))
        return place.step(fixed_affine(torch.ones(1), torch.tensor([constant])), centres=True)
    if len(place.inputs) < 2 or place.node.op is Op.DIVIDE:
        raise place.refuse(
            "branches of the network, or a branch and a number",
            f"{place.node.op.value} with something else, such as a trainable tensor",
            "leave it out, or join branches of the network only",
        )
    if place.fact("alpha", 1) != 1:
        raise place.refuse("alpha=1", f"alpha={place.fact('alpha')}", "multiply the branch before adding it")
    if multiplies:
        return place.step(product, joins="product")
    return place.step(residual_sum, joins="sum")


def _constant(place: Place) -> float | None:
    """The number that a branch is combined with."""
    if isinstance(place.fact("scalar"), int | float):
        return float(place.fact("scalar"))
    tensors = [
        Place.tensor(place.graph, place.graph[n]) for n in place.node.inputs if place.graph[n].op is Op.PARAMETER
    ]
    if len(tensors) == 1 and tensors[0].numel() == 1 and not tensors[0].requires_grad:
        return float(tensors[0])
    return None


def _concat(place: Place, _: Any) -> Step:
    shapes = [place.shape(i) for i in range(len(place.inputs))]
    dim = place.fact("dim")
    if dim not in (1, len(shapes[0]) - 1):
        raise place.refuse("a concatenation of channels", f"one of axis {dim}", "concatenate channels")
    widths = [shape[dim] for shape in shapes]
    axis = None if len(shapes[0]) == 2 else 1 if dim == 1 else -1
    return place.step(partial(concatenate, widths=tuple(widths)), channel_axis=axis)


RULES: dict[Op, Callable[[Place, Any], Step]] = {
    Op.LINEAR: _linear,
    Op.CONV: _conv,
    Op.ACTIVATION: _activation,
    Op.IDENTITY: _identity,
    Op.DROPOUT: _dropout,
    Op.BATCH_NORM: _batch_norm,
    Op.LAYER_NORM: _layer_norm,
    Op.RMS_NORM: _layer_norm,
    Op.GROUP_NORM: _group_norm,
    Op.AVG_POOL: _avg_pool,
    Op.ADAPTIVE_AVG_POOL: _adaptive,
    Op.MEAN: _reduction,
    Op.SUM: _reduction,
    Op.FLATTEN: _reshape,
    Op.RESHAPE: _reshape,
    Op.PAD: _pad,
    Op.PERMUTE: _permute,
    Op.ADD: _join,
    Op.SUBTRACT: _join,
    Op.MULTIPLY: _join,
    Op.DIVIDE: _join,
    Op.CONCAT: _concat,
}
