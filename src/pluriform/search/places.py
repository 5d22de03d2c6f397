"""Where layers may be put into a network: tensors with a channel axis, where a block of layers ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from torch import nn

from pluriform.graph.graph import Node
from pluriform.graph.ops import Op
from pluriform.search.morphism import refusal

__all__ = ["CONVS", "Family", "Place", "Places", "kernels_within", "places_of"]


class Family(Enum):
    """What kind of layer fits behind a tensor."""

    CONV = "conv"
    """`(batch, channels, *spatial)`."""
    DENSE = "dense"
    """`(batch, ..., features)`."""


@dataclass(frozen=True)
class Place:
    """A tensor that a layer can follow.

    Attributes:
        node: The node that makes it.
        family: Which layers fit.
        width: Number of its channels.
        spatial: Lengths that a convolution slides over.
        nonnegative: Whether its values are never below zero.
    """

    node: Node
    family: Family
    width: int
    spatial: tuple[int, ...]
    nonnegative: bool


CHANNELS_FIRST = frozenset({
    Op.CONV, Op.CONV_TRANSPOSE, Op.BATCH_NORM, Op.INSTANCE_NORM, Op.GROUP_NORM, Op.LOCAL_RESPONSE_NORM, Op.MAX_POOL,
    Op.AVG_POOL, Op.LP_POOL, Op.ADAPTIVE_AVG_POOL, Op.ADAPTIVE_MAX_POOL, Op.UPSAMPLE, Op.PIXEL_SHUFFLE,
})  # fmt: skip
CHANNELS_LAST = frozenset({Op.LINEAR, Op.EMBEDDING, Op.RMS_NORM})
POINTWISE = frozenset({
    Op.ACTIVATION, Op.DROPOUT, Op.IDENTITY, Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE, Op.LAYER_NORM, Op.CONCAT,
})  # fmt: skip
CARRIED_ON = frozenset({
    Op.BATCH_NORM, Op.INSTANCE_NORM, Op.GROUP_NORM, Op.LAYER_NORM, Op.RMS_NORM, Op.ACTIVATION, Op.DROPOUT, Op.IDENTITY,
    Op.ADD,
})  # fmt: skip
"""What ends the block that a layer begins: a place lies behind it."""
NONNEGATIVE = frozenset({
    "relu", "relu6", "sigmoid", "hardsigmoid", "softplus", "exp", "exp2", "abs", "square", "sqrt", "erfc",
})  # fmt: skip
KEPT = frozenset({
    Op.MAX_POOL, Op.AVG_POOL, Op.ADAPTIVE_AVG_POOL, Op.ADAPTIVE_MAX_POOL, Op.MEAN, Op.SUM, Op.MAX, Op.FLATTEN,
    Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.DROPOUT, Op.IDENTITY, Op.ADD, Op.MULTIPLY, Op.CONCAT, Op.STACK, Op.SLICE,
    Op.UNFOLD, Op.PIXEL_SHUFFLE, Op.CHANNEL_SHUFFLE, Op.ROLL,
})  # fmt: skip
"""What gives no negative values for inputs that have none."""
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "selu": nn.SELU,
    "relu6": nn.ReLU6,
}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True, eq=False)
class Places:
    """Places of a network, in execution order, and the style of its layers.

    Attributes:
        ends: Tensors behind which a block ends, by name.
        order: Position of every node.
        activation: That the network uses first; ReLU where it has none.
        norms: Operations of its normalisations.
        groups: Number of groups of its first group normalisation.
    """

    ends: Mapping[str, Place]
    order: Mapping[str, int]
    activation: type[nn.Module]
    norms: frozenset[tuple[Op, bool]]
    groups: int

    def at(self, name: str) -> Place:
        """The place behind a node.

        Raises:
            GraphError: No block ends there.
        """
        if name not in self.ends:
            known = ", ".join(self.ends) or "none"
            raise refusal(f"the end of a block of layers ({known})", repr(name), "network to morph")
        return self.ends[name]

    def norm(self, place: Place, width: int) -> nn.Module | None:
        """The normalisation of a hidden tensor as the network has it elsewhere, on the meta device."""
        if place.family is Family.CONV:
            if (Op.BATCH_NORM, True) in self.norms and max(place.spatial) > 1:
                return NORMS[len(place.spatial)](width, device="meta")
            if (Op.GROUP_NORM, True) in self.norms:
                groups = self.groups if width % self.groups == 0 else 1
                alone = width // groups * math.prod(place.spatial) == 1  # One value has no spread.
                return None if alone else nn.GroupNorm(groups, width, device="meta")
            return None
        if (Op.BATCH_NORM, False) in self.norms and len(place.node.shape) == 2:
            return nn.BatchNorm1d(width, device="meta")
        return nn.LayerNorm(width, device="meta") if (Op.LAYER_NORM, False) in self.norms else None


def places_of(nodes: Sequence[Node], consumers: Mapping[str, Sequence[Node]]) -> Places:
    """The places of a network.

    Args:
        nodes: In execution order.
        consumers: Nodes that read each node, by name.
    """
    axes, nonnegative = _channel_axes(nodes), _nonnegative(nodes)
    last = {name for node in nodes if node.op is Op.OUTPUT for name in node.inputs}
    ends = {}
    for node in nodes:
        readers = consumers.get(node.name, ())
        if node.op in (Op.INPUT, Op.PARAMETER) or node.name in last or not readers:
            continue
        if node.name in axes and (len(readers) > 1 or readers[0].op not in CARRIED_ON):
            place = _place(node, axes[node.name], node.name in nonnegative)
            if place is not None:
                ends[node.name] = place
    functions = [str(node.attributes["function"]) for node in nodes if node.op is Op.ACTIVATION]
    groups = [node.attributes["num_groups"] for node in nodes if node.op is Op.GROUP_NORM]
    return Places(
        ends,
        {node.name: position for position, node in enumerate(nodes)},
        next((ACTIVATIONS[name] for name in functions if name in ACTIVATIONS), nn.ReLU),
        frozenset((node.op, len(node.shape) > 2 and node.op is not Op.LAYER_NORM) for node in nodes),
        groups[0] if groups else 1,
    )


def _place(node: Node, axis: int, nonnegative: bool) -> Place | None:
    shape = node.shape
    if node.dtype is None or not node.dtype.is_floating_point or len(shape) < 2:
        return None
    if axis == len(shape) - 1:
        return Place(node, Family.DENSE, shape[-1], (), nonnegative)
    if axis == 1 and len(shape) <= 5:
        return Place(node, Family.CONV, shape[1], tuple(shape[2:]), nonnegative)
    return None


def _channel_axes(nodes: Sequence[Node]) -> dict[str, int]:
    """The channel axis of the nodes that depend on the input and where it is known."""
    axes: dict[str, int] = {}
    seen: dict[str, int] = {}
    for node in nodes:
        if node.op is not Op.INPUT and not any(name in seen for name in node.inputs):
            continue
        seen[node.name] = len(node.shape)
        axis = _channel_axis(node, axes, seen)
        if axis is not None and not any(isinstance(length, tuple) for length in node.shape):
            axes[node.name] = axis
    return axes


def _channel_axis(node: Node, axes: Mapping[str, int], ranks: Mapping[str, int]) -> int | None:
    rank = len(node.shape)
    if rank < 2:
        return None
    if rank == 2 or node.op in CHANNELS_LAST:
        return rank - 1
    if node.op in CHANNELS_FIRST:
        return 1
    known = [axes[name] for name in node.inputs if name in axes and ranks[name] == rank]
    if node.op in POINTWISE and known:
        return known[0] if node.op is not Op.CONCAT or node.attributes["dim"] == known[0] else None
    if node.op is Op.PERMUTE and known:
        return node.attributes["dims"].index(known[0])
    if node.op is Op.FLATTEN and node.attributes.get("start_dim", 0) == 2 and node.inputs[0] in axes:
        return 1 if axes[node.inputs[0]] == 1 else None
    return 1 if node.op is Op.PAD and known == [1] else None


def _nonnegative(nodes: Sequence[Node]) -> set[str]:
    """Nodes whose values are never below zero."""
    found: set[str] = set()
    for node in nodes:
        inner = bool(node.inputs) and all(name in found for name in node.inputs)
        numbers = (node.attributes.get("scalar", 0), node.attributes.get("alpha", 1))
        safe = node.op in KEPT and all(isinstance(number, int | float) and number >= 0 for number in numbers)
        safe = safe and not (node.op is Op.DROPOUT and node.attributes.get("alpha"))
        clipped = node.op is Op.ACTIVATION and node.attributes["function"] in NONNEGATIVE
        if clipped or (node.op is Op.SOFTMAX and node.attributes["function"] == "softmax") or (inner and safe):
            found.add(node.name)
    return found


@lru_cache(maxsize=4096)
def kernels_within(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Odd kernel lengths up to 5 of which every tap reaches something: half a kernel is shorter than the image."""
    return tuple(length for length in (1, 3, 5) if length // 2 < max(lengths, default=1))
