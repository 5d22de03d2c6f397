"""Which networks are a chain of layers that this engine computes, and why others are not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pluriform.fused.code import Bend
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.trace import trace

__all__ = ["Bending", "NotFused", "Pooling", "Product", "chain_of"]

FREE = (Op.IDENTITY, Op.FLATTEN)
BENDS = {
    "relu": Bend.LEAKY,
    "leaky_relu": Bend.LEAKY,
    "elu": Bend.ELU,
    "tanh": Bend.TANH,
    "sigmoid": Bend.SIGMOID,
    "silu": Bend.SILU,
    "gelu": Bend.GELU,
}
Shape = tuple[int, int, int]
Two = tuple[int, int]


class NotFused(Exception):  # noqa: N818
    """A network that is not such a chain; the message says why. Callers turn it into an error or another way."""


@dataclass(frozen=True)
class Product:
    """A convolution, or a linear layer as one of a single position.

    Attributes:
        weight: Name of the parameter.
        bias: Name, or `None`.
        outputs: Channels.
        kernel: Height and width.
        stride: Of the rows and columns.
        padding: Zeros before the first row and column.
        dilation: Of the rows and columns.
        shape: Of the outputs: channels, height, width.
        flat: Whether it reads all numbers of a sample as channels.
    """

    weight: str
    bias: str | None
    outputs: int
    kernel: Two
    stride: Two
    padding: Two
    dilation: Two
    shape: Shape
    flat: bool = False


@dataclass(frozen=True)
class Bending:
    """An elementwise nonlinearity; `slope` is that of leaky ReLU below zero, or the alpha of ELU."""

    kind: Bend
    slope: float
    shape: Shape


@dataclass(frozen=True)
class Pooling:
    """Average or largest number of windows."""

    largest: bool
    kernel: Two
    stride: Two
    padding: Two
    shape: Shape


Layer = Product | Bending | Pooling


def chain_of(module: nn.Module, example: Tensor) -> tuple[Shape, list[Layer]]:
    """Shape of the inputs as channels, height, width, and the layers in order.

    Args:
        module: The network, in the mode in which it shall be computed.
        example: One input at least.

    Raises:
        NotFused: With the first layer that is not of this kind.
    """
    graph = trace(module, example)
    names = {id(tensor): name for name, tensor in module.named_parameters()}
    shape = _shape(tuple(example.shape[1:]), "the inputs")
    first, layers, flow = shape, [], graph.inputs[0].name
    for node in graph.nodes:
        if node.op in (Op.INPUT, Op.OUTPUT):
            continue
        if node.inputs != (flow,) or len(graph.inputs) != 1:
            raise NotFused(f"{node} does not read the layer before it alone")
        flow = node.name
        layer = None if node.op in FREE else _layer(graph, node, shape, names)
        if node.op is Op.FLATTEN:
            _check_flatten(node)
            shape = (math.prod(shape), 1, 1)
        if layer is not None:
            layers.append(layer)
            shape = layer.shape
    if graph.output.inputs != (flow,) or shape[1:] != (1, 1) or len(graph.output.shape) != 2:
        raise NotFused("the output is not one vector a sample")
    if not any(isinstance(layer, Product) for layer in layers):
        raise NotFused("there is neither a linear layer nor a convolution")
    _check_once([layer.weight for layer in layers if isinstance(layer, Product)])
    return first, layers


def _shape(sizes: tuple[Any, ...], where: str) -> Shape:
    if len(sizes) == 3:
        return (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    if len(sizes) == 1:
        return (int(sizes[0]), 1, 1)
    raise NotFused(f"{where}: neither vectors nor images of shape (channels, height, width)")


def _check_flatten(node: Node) -> None:
    if len(node.shape) != 2 or node.attributes.get("start_dim") != 1:
        raise NotFused(f"{node} does not flatten a sample as a whole")


def _check_once(weights: list[str]) -> None:
    if len(set(weights)) < len(weights):
        raise NotFused("two layers share a weight")


def _layer(graph: Graph, node: Node, shape: Shape, names: Mapping[int, str]) -> Layer | None:
    facts = node.attributes
    if node.op in (Op.LINEAR, Op.CONV):
        return _product(graph, node, shape, names)
    if node.op is Op.ACTIVATION:
        return _bending(node, shape)
    if node.op in (Op.MAX_POOL, Op.AVG_POOL, Op.ADAPTIVE_AVG_POOL):
        return _pooling(node, shape)
    if node.op is Op.DROPOUT:
        drops = node.module is not None and graph.submodule(node).training and float(facts.get("p", 0.5)) > 0
        if drops or node.module is None:
            raise NotFused(f"{node} draws masks")
        return None
    raise NotFused(f"{node} is not in this engine")


def _product(graph: Graph, node: Node, shape: Shape, names: Mapping[int, str]) -> Product:
    module = graph.submodule(node) if node.module else None
    if type(module) not in (nn.Linear, nn.Conv2d):
        raise NotFused(f"{node} is not called as a plain nn.Linear or nn.Conv2d")
    if node.calls > 1:
        raise NotFused(f"{node} is called twice")
    weight, bias = module.weight, module.bias  # type: ignore[union-attr]
    if id(weight) not in names or (bias is not None and id(bias) not in names):
        raise NotFused(f"{node} computes its weight")
    own, offset = names[id(weight)], None if bias is None else names[id(bias)]
    if isinstance(module, nn.Linear):
        if len(node.shape) != 2:
            raise NotFused(f"{node} is applied to each of several positions")
        whole = (module.out_features, 1, 1)
        return Product(own, offset, module.out_features, (1, 1), (1, 1), (0, 0), (1, 1), whole, flat=True)
    facts = node.attributes
    kernel, stride, dilation = facts["kernel_size"], facts["stride"], facts["dilation"]
    if facts["groups"] != 1:
        raise NotFused(f"{node} has {facts['groups']} groups")
    if facts["padding_mode"] != "zeros" and any(map(any, facts["padding"])):
        raise NotFused(f"{node} pads with other than zeros")
    if len(node.shape) != 4 or len(shape) != 3:
        raise NotFused(f"{node} is not a convolution of images")
    if any(s > 1 and d > 1 for s, d in zip(stride, dilation, strict=True)):
        raise NotFused(f"{node} has both stride and dilation")
    before = tuple(int(pair[0]) for pair in facts["padding"])
    result = _shape(node.shape[1:], str(node))
    return Product(own, offset, result[0], tuple(kernel), tuple(stride), before, tuple(dilation), result)  # type: ignore[arg-type]


def _bending(node: Node, shape: Shape) -> Bending:
    facts = node.attributes
    name = facts["function"]
    if name not in BENDS or (name == "gelu" and facts.get("approximate", "none") != "none"):
        raise NotFused(f"{node}: the activation {name} is not in this engine")
    slope = 0.0
    if name == "leaky_relu":
        slope = float(facts.get("negative_slope", 0.01))
    elif name == "elu":
        slope = float(facts.get("alpha", 1.0))
    if slope < 0 or (name == "elu" and slope == 0):
        raise NotFused(f"{node}: the activation {name} is not increasing")
    return Bending(BENDS[name], slope, shape)


def _pooling(node: Node, shape: Shape) -> Pooling:
    facts, largest = node.attributes, node.op is Op.MAX_POOL
    result = _shape(node.shape[1:], str(node)) if len(node.shape) == 4 else None
    if result is None:
        raise NotFused(f"{node} is not a pool over images")
    if node.op is Op.ADAPTIVE_AVG_POOL:
        if any(whole % parts for whole, parts in zip(shape[1:], result[1:], strict=True)):
            raise NotFused(f"{node} has windows of several sizes")
        kernel = (shape[1] // result[1], shape[2] // result[2])
        return Pooling(False, kernel, kernel, (0, 0), result)
    kernel, stride = tuple(facts["kernel_size"]), tuple(facts["stride"])
    padding = tuple(int(pair[0]) for pair in facts["padding"])
    if facts["ceil_mode"]:
        raise NotFused(f"{node} has windows that are cut off")
    if largest and set(facts["dilation"]) != {1}:
        raise NotFused(f"{node} has dilation")
    if not largest and (any(padding) or facts["divisor_override"]):
        raise NotFused(f"{node} averages over padding or with a divisor of its own")
    return Pooling(largest, kernel, stride, padding, result)  # type: ignore[arg-type]
