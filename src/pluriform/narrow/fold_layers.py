"""The layers that absorb a map over channels: those whose output is W x + b with a full W over the channels.

A map A before such a layer becomes part of its weight, W A; one behind it makes A W and A b.
"""

import operator
import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.narrow.fold_paths import Place

__all__ = ["ABSORBING", "Absorber", "absorbed"]

ABSORBING = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})


@dataclass(frozen=True, eq=False)
class Absorber:
    """A layer that takes a map into its weight.

    Attributes:
        layer: Name of the node.
        weights: Names of what is multiplied, as in `named_parameters` of the network: the weight, and the bias where
            the map lies behind the layer.
        axes: Axis of the channels in each of them.
        positions: Channels along that axis, `(copy, channel)`.
    """

    layer: str
    weights: tuple[str, ...]
    axes: tuple[int, ...]
    positions: Tensor

    @property
    def channels(self) -> slice:
        """The slice of channels of the layer within which the map lies: that of one part of a concatenation."""
        return slice(int(self.positions.min()), int(self.positions.max()) + 1)


def absorbed(graph: Graph, node: Node, place: Place, forward: bool = True) -> Absorber | str:
    """The part of a layer that takes a map, or why it takes none.

    Args:
        graph: The network.
        node: A layer.
        place: Where the map lies in its input (`forward`) or in its output.
        forward: Whether the map lies before the layer.
    """
    shape, spatial = graph[node.inputs[0]].shape, len(node.attributes.get("kernel_size", ()))
    if node.op is not Op.LINEAR and len(shape) != spatial + 2:
        return "a convolution without a batch axis"
    channel = len(shape) - 1 if node.op is Op.LINEAR else 1
    if place.axis != channel:
        return "it mixes another axis than the channels"
    groups = node.attributes.get("groups", 1)
    if groups > 1:
        return "depthwise convolution" if groups == node.attributes["in_channels"] else "grouped convolution"
    weights = _weights(graph, node)
    if isinstance(weights, str):
        return weights
    inputs = 0 if node.op is Op.CONV_TRANSPOSE else 1
    if forward:
        return Absorber(node.name, weights[:1], (inputs,), place.positions)
    return Absorber(node.name, weights, (1 - inputs, 0)[: len(weights)], place.positions)


def _weights(graph: Graph, node: Node) -> tuple[str, ...] | str:
    """Names of weight and bias, or why they cannot be changed."""
    if node.module is None:
        if any(graph[name].op is not Op.PARAMETER for name in node.inputs[1:]):
            return "its weight is computed from other values"
        tensors = [_read(graph, graph[name]) for name in node.inputs[1:]]
    else:
        module = graph.submodule(node)
        if parametrize.is_parametrized(module):
            return f"{_computed_by(module)} on its weight: bake it in first"
        if node.calls > 1:
            times = "twice" if node.calls == 2 else f"{node.calls} times"
            return f"module called {times}: all calls share its weight"
        held = (getattr(module, "weight", None), getattr(module, "bias", None))
        tensors = [tensor for tensor in held if tensor is not None]
    names = {id(tensor): name for name, tensor in (*graph.root.named_buffers(), *graph.root.named_parameters())}
    tensors = sorted(tensors, key=Tensor.dim, reverse=True)
    if not tensors or not all(id(tensor) in names for tensor in tensors):
        return "its weight is no parameter of the network"
    for tensor in tensors:
        readers = _readers(graph, tensor)
        if readers != [node.name]:
            return f"its weight is shared with {', '.join(name for name in readers if name != node.name)}"
    return tuple(names[id(tensor)] for tensor in tensors)


def _readers(graph: Graph, tensor: Tensor) -> list[str]:
    """Names of all nodes that read a parameter."""
    found = []
    for node in graph.nodes:
        if node.module is not None:
            called = graph.submodule(node)
            if any(item is tensor for item in (*called.parameters(), *called.buffers())):
                found.append(node.name)
        elif node.op is Op.PARAMETER and _read(graph, node) is tensor:
            found += [reader.name for reader in graph.consumers(node.name)]
    return found


def _read(graph: Graph, node: Node) -> Tensor:
    """The tensor of a parameter node."""
    return operator.attrgetter(node.attributes["path"])(graph.module)


def _computed_by(module: nn.Module) -> str:
    """`weight norm`, `orthogonal`: the parametrizations of a layer in words."""
    computing = getattr(module, "parametrizations")  # noqa: B009
    kinds = {type(part).__name__.strip("_") for each in computing.values() for part in each}
    return " and ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower() for kind in sorted(kinds))
