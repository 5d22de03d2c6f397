"""The operations that a bias-free map over channels passes.

An operation P passes a map A where P(A x) = A P(x) for every A: it is linear, without a constant, and treats all
channels alike.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pluriform.graph.graph import Graph, Node, Shape
from pluriform.graph.ops import Op

__all__ = ["PASSING", "Place", "passed"]


@dataclass(frozen=True, eq=False)
class Place:
    """Where the channels of a map lie in a tensor.

    Attributes:
        axis: The axis, the batch axis counted.
        positions: Along that axis, `(copy, channel)`: several copies once positions are flattened into the axis.
    """

    axis: int
    positions: Tensor

    def same(self, other: "Place") -> bool:
        """Whether both mean the same channels in the same places."""
        return self.axis == other.axis and torch.equal(self.positions, other.positions)


@dataclass(frozen=True, eq=False)
class Step:
    """A node, one of its inputs, and where the map lies in that input."""

    graph: Graph
    node: Node
    position: int
    place: Place

    @property
    def before(self) -> Shape:
        """Shape of the input."""
        return self.graph[self.node.inputs[self.position]].shape


WHY_NOT: Mapping[Op, str] = MappingProxyType(
    {
        Op.OUTPUT: "it is an output of the network",
        Op.BATCH_NORM: "BatchNorm reads it, which scales every channel by itself",
        Op.INSTANCE_NORM: "InstanceNorm reads it, which scales every channel by itself",
        Op.GROUP_NORM: "GroupNorm reads it, which is not linear",
        Op.LAYER_NORM: "LayerNorm reads it, which is not linear",
        Op.RMS_NORM: "RMSNorm reads it, which is not linear",
        Op.MAX_POOL: "max pool between, which is not linear",
        Op.ADAPTIVE_MAX_POOL: "max pool between, which is not linear",
        Op.MAX: "a maximum between, which is not linear",
        Op.SOFTMAX: "softmax between, which is not linear",
        Op.ATTENTION: "attention reads it",
    }
)


def passed(graph: Graph, node: Node, places: Mapping[int, list[Place]]) -> list[Place] | str:
    """Where a map on some inputs of a node lies in its output, or why it does not pass.

    Args:
        graph: The network.
        node: Any node but a layer.
        places: Places of the map by the position of the input that carries it.
    """
    if node.op in (Op.ADD, Op.SUBTRACT):
        return _sum(graph, node, places)
    if node.op is Op.CONCAT:
        return _concat(graph, node, places)
    if node.op not in PASSING:
        return _why_not(graph, node)
    if node.op in (Op.RESHAPE, Op.IDENTITY):
        places = {position: found for position, found in places.items() if position == 0}  # `view_as` reads a shape.
    elif set(places) != {0} and not (node.op is Op.MULTIPLY and len(places) == 1):
        return "it is read as more than a plain input"
    found = []
    for position, own in places.items():
        for place in own:
            outcome = PASSING[node.op](Step(graph, node, position, place))
            if isinstance(outcome, str):
                return outcome
            found.append(outcome)
    return found


def _why_not(graph: Graph, node: Node) -> str:
    if node.op is Op.ACTIVATION:
        return f"{node.attributes['function']} between, which is not linear"
    if node.op is not Op.OPAQUE:
        return WHY_NOT.get(node.op, f"{node.op.value} between, which a map does not pass")
    hooks = () if node.module is None else graph.submodule(node)._forward_pre_hooks.values()  # Weight norms of old.
    function = str(node.attributes.get("function", "an operation"))
    return f"{' with '.join((function, *(type(hook).__name__ for hook in hooks)))} between, which cannot be followed"


def _sum(graph: Graph, node: Node, places: Mapping[int, list[Place]]) -> list[Place] | str:
    """A sum passes a map that all its terms carry."""
    if "scalar" in node.attributes:
        return "a constant is added, which a map would change"
    return _alike(graph, node, places, "a sum", "adds")


def _alike(graph: Graph, node: Node, places: Mapping[int, list[Place]], what: str, does: str) -> list[Place] | str:
    """The places of all inputs, where they are the same."""
    first = next(iter(places.values()))
    if len(places) == len(node.inputs):
        lengths = {len(graph[name].shape) for name in node.inputs}
        same = (len(own) == len(first) and all(map(Place.same, own, first)) for own in places.values())
        return first if len(lengths) == 1 and all(same) else f"{what} of several maps"
    other = next(name for position, name in enumerate(node.inputs) if position not in places)
    return f"{what} that {does} {other}, which carries no map"


def _concat(graph: Graph, node: Node, places: Mapping[int, list[Place]]) -> list[Place] | str:
    """Along the channels each part is shifted by those before it; along another axis all parts must carry the map."""
    dim = node.attributes["dim"]
    axes = {place.axis for own in places.values() for place in own}
    if axes != {dim}:
        return _alike(graph, node, places, "a concatenation along another axis", "joins")
    starts = [sum(graph[name].shape[dim] for name in node.inputs[:position]) for position in range(len(node.inputs))]
    return [Place(dim, place.positions + starts[position]) for position, own in places.items() for place in own]


def _unchanged(step: Step) -> Place | str:
    dtype = step.node.dtype
    return step.place if dtype is not None and dtype.is_floating_point else "a change to whole numbers between"


def _dropout(step: Step) -> Place | str:
    masked = "dropout between, whose masks would mix in training; put the map behind it"
    return masked if step.node.attributes["p"] else step.place


def _spatial(step: Step) -> Place | str:
    """Average pooling and resizing: each channel by itself, and all alike."""
    node, place = step.node, step.place
    kernel = node.attributes.get("kernel_size", node.shape[2:])
    if place.axis != 1 or len(node.shape) != len(kernel) + 2:
        return f"{node.op.value} between, which slides over the channels"
    return place


def _reduced(step: Step) -> Place | str:
    node, place = step.node, step.place
    dims = node.attributes["dim"]
    if place.axis in dims:
        return f"a {node.op.value} over the channels"
    gone = 0 if node.attributes["keepdim"] else sum(dim < place.axis for dim in dims)
    return Place(place.axis - gone, place.positions)


def _padded(step: Step) -> Place | str:
    node, place = step.node, step.place
    pairs, shape = node.attributes["padding"], step.before
    before, after = dict(zip(range(len(shape) - len(pairs), len(shape)), pairs, strict=True)).get(place.axis, (0, 0))
    constant = node.attributes["mode"] == "constant"
    if constant and node.attributes["value"]:
        return "padding with a constant other than zero between"
    if (before or after) and (not constant or before < 0 or after < 0):
        return "padding between, which repeats or cuts channels"
    return Place(place.axis, place.positions + before)


def _scaled(step: Step) -> Place | str:
    """A factor that is the same for all channels; also a divisor."""
    node, place = step.node, step.place
    if "scalar" in node.attributes:
        return "a division by it" if node.attributes.get("reversed") else place
    other = node.inputs[1 - step.position]
    factor = step.graph[other].shape
    axis = place.axis - len(node.shape) + len(factor)
    if node.attributes or step.before != node.shape or (axis >= 0 and factor[axis] != 1):
        return f"a product channel by channel with {other}"
    return place


def _permuted(step: Step) -> Place:
    place = step.place
    return Place(step.node.attributes["dims"].index(place.axis), place.positions)


def _reshaped(step: Step) -> Place | str:
    """Other axes may split and merge; the channels may be merged with others, each then lying there several times."""
    node, place = step.node, step.place
    before, after = step.before, node.shape
    merged = next(((old, new) for old, new in _factors(before, after) if place.axis in old), None)
    if merged is None:
        return "a change of shape between, which a single channel cannot be followed through"
    old, new = merged
    if len(new) != 1:
        return "a change of shape between, which spreads the channels over several axes"
    outer = math.prod(before[axis] for axis in old if axis < place.axis)
    inner = math.prod(before[axis] for axis in old if axis > place.axis)
    whole = torch.arange(outer)[:, None, None, None] * before[place.axis] + place.positions[None, :, None, :]
    return Place(new[0], (whole * inner + torch.arange(inner)[:, None]).reshape(-1, place.positions.shape[1]))


def _factors(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Axes that a change of shape turns into each other, in order; those of length 1 are left out."""
    left = [axis for axis, length in enumerate(before) if length != 1]
    right = [axis for axis, length in enumerate(after) if length != 1]
    found: list[tuple[list[int], list[int]]] = []
    while left and right:
        old, new = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(before[axis] for axis in old)) != (b := math.prod(after[axis] for axis in new)):
            shorter, more = (old, left) if a < b else (new, right)
            if not more:
                return found
            shorter.append(more.pop(0))
        found.append((old, new))
    return found


def _cut(step: Step) -> Place | str:
    """Indices along other axes, the channels taken whole."""
    node, place = step.node, step.place
    shape, facts = step.before, node.attributes
    if "dim" in facts:
        dim = facts["dim"] % len(shape)
        if dim == place.axis:
            return "a slice of the channels between"
        return Place(place.axis - (dim < place.axis and len(node.shape) < len(shape)), place.positions)
    index = facts.get("index", False)
    items = list(index) if isinstance(index, tuple) else [index]
    if len(node.inputs) > 1 or not all(item is None or item is ... or type(item) in (int, slice) for item in items):
        return "an index that cannot be followed"
    missing = [slice(None)] * (len(shape) - sum(item is not None and item is not ... for item in items))
    at = items.index(...) if ... in items else len(items)
    axis, new = -1, -1
    for item in (*items[:at], *missing, *items[at + 1 :]):
        axis, new = axis + (item is not None), new + (type(item) is not int)
        if axis == place.axis and item is not None:
            return Place(new, place.positions) if item == slice(None) else "a slice of the channels between"
    return "an index that cannot be followed"


PASSING: Mapping[Op, Callable[[Step], Place | str]] = MappingProxyType(
    {
        **dict.fromkeys((Op.AVG_POOL, Op.ADAPTIVE_AVG_POOL, Op.UPSAMPLE), _spatial),
        **dict.fromkeys((Op.MEAN, Op.SUM), _reduced),
        **dict.fromkeys((Op.FLATTEN, Op.RESHAPE), _reshaped),
        **dict.fromkeys((Op.MULTIPLY, Op.DIVIDE), _scaled),
        Op.IDENTITY: _unchanged,
        Op.DROPOUT: _dropout,
        Op.PAD: _padded,
        Op.PERMUTE: _permuted,
        Op.SLICE: _cut,
    }
)
