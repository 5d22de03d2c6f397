"""`ChannelFlow`: the channels on every axis of every node, and every weight that is indexed by them.

The flow visits the nodes in order. A rule for each operation (`channel_rules`) says which layouts its output has, ties
what must be equal, and registers the weights whose axes follow a layout.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pluriform.graph.graph import Graph, Node, Shape
from pluriform.graph.layout import Layout, Ties, length_of
from pluriform.graph.lengths import attribute_lengths, shared_lengths
from pluriform.graph.ops import Op

__all__ = ["Axes", "ChannelFlow", "GroupedConv", "NormGroups", "Role", "Rule", "Setting", "Slot"]

Axes = tuple[Layout, ...]
"""The layout of each axis of a tensor, the batch axis first."""


class Role(Enum):
    """How a weight takes part in a channel group."""

    PRODUCER = "producer"
    """Its rows make the channels: copied."""
    CARRIER = "carrier"
    """It acts on each channel apart (norms, depthwise convolutions, slopes): copied."""
    CONSUMER = "consumer"
    """Its columns read the channels: copied and divided by the number of copies."""


@dataclass(frozen=True, eq=False)
class Slot:
    """An axis of a weight that follows a layout."""

    node: Node
    weight: Tensor
    axis: int
    layout: Layout
    role: Role


@dataclass(frozen=True, eq=False)
class Setting:
    """An attribute of a module that holds the lengths of layouts: an integer, or a tuple where `many`."""

    module: str
    attribute: str
    layouts: tuple[Layout, ...]
    many: bool = False


@dataclass(frozen=True, eq=False)
class GroupedConv:
    """A grouped convolution that is not depthwise: its weight is indexed by two layouts at once."""

    node: Node
    weight: Tensor
    inputs: Layout
    outputs: Layout
    groups: int
    transposed: bool


@dataclass(frozen=True, eq=False)
class NormGroups:
    """A normalisation over channels: its statistics last only where channels are copied equally often."""

    node: Node
    layout: Layout
    groups: int


class ChannelFlow:
    """Layouts of all nodes of a graph, with the weights that follow them.

    Of the axes that one axis is split into, one can keep changing. The flow runs twice where there is a choice: first
    with all of them loose, to see which ones meet an operation that fixes them, and which ones are tied to others; then
    with one of them, such as the heads.

    Args:
        graph: The traced network.
        rules: For each operation the function that gives the layouts of its output; what has none is fixed.
    """

    def __init__(self, graph: Graph, rules: Mapping[Op, "Rule"]) -> None:
        self.graph = graph
        self.attributes = attribute_lengths(graph)
        self._written = {(length.node, length.axis) for length in self.attributes if length.part is None}
        self._kept: dict[tuple[str, int], int] | None = None
        self._loose: dict[tuple[str, int], list[Layout]] = {}
        self._run(rules)
        self._kept = {place: self._choice(axes) for place, axes in self._loose.items()}
        if self._kept:
            self._run(rules)

    def _run(self, rules: Mapping[Op, "Rule"]) -> None:
        self.ties = Ties()
        self.axes: dict[str, Axes] = {}
        self.parts: dict[str, tuple[Axes | None, ...]] = {}
        self.slots: list[Slot] = []
        self.settings: list[Setting] = []
        self.grouped: list[GroupedConv] = []
        self.norms: list[NormGroups] = []
        self._locked: set[int] = set()
        self._own = {id(tensor) for tensor in (*self.graph.root.parameters(), *self.graph.root.buffers())}
        for node in self.graph.nodes:
            self._visit(node, rules.get(node.op))
        self._tie_lengths()
        self._tie_shared()
        self._settle_norms()

    def read(self, node: Node, position: int = 0) -> Axes:
        """Layouts of an input of a node."""
        return tuple(self.ties.resolve(layout) for layout in self.axes[node.inputs[position]])

    def constant(self, shape: Shape, reason: str) -> Axes:
        """Layouts of axes that never change."""
        return tuple(self.ties.fresh(length, reason) for length in shape)

    def module(self, node: Node) -> nn.Module | None:
        """The module that a node calls, or None."""
        return None if node.module is None else self.graph.submodule(node)

    def follow(self, node: Node, name: str, axis: int, layout: Layout, role: Role) -> None:
        """Register an axis of a parameter or buffer of a module; one that is computed from others fixes its layout."""
        module = self.module(node)
        weight = self._argument(node, name) if module is None else getattr(module, name, None)
        if weight is None:
            return
        own = self.owned(weight) and (module is None or not parametrize.is_parametrized(module))
        if not own or weight.shape[axis] != length_of(layout):
            self.ties.freeze(layout, f"the {name} of {node} is no parameter of its own")
            return
        self.slots.append(Slot(node, weight, axis, layout, role))

    def follow_grouped(self, conv: GroupedConv) -> None:
        """Register the weight of a grouped convolution."""
        if self.owned(conv.weight):
            self.grouped.append(conv)
        else:
            self.freeze((conv.inputs, conv.outputs), f"the weight of {conv.node} is computed from other weights")

    def parameter(self, node: Node) -> Tensor:
        """The tensor that a parameter node reads."""
        return operator.attrgetter(node.attributes["path"])(self.graph.module)

    def owned(self, weight: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the network."""
        return id(weight) in self._own

    def keep(self, node: Node, attribute: str, *layouts: Layout, many: bool = False) -> None:
        """Register an attribute of the module of a node that holds lengths."""
        if node.module is not None:
            self.settings.append(Setting(node.module, attribute, layouts, many))

    def freeze(self, axes: Axes, reason: str) -> None:
        """Fix layouts."""
        for layout in axes:
            self.ties.freeze(layout, reason)

    def flatten(self, axes: Axes, reason: str) -> Layout:
        """The layout of axes merged into one; while axes are loose, without a choice among them."""
        if self._kept is None and self._loose and sum(self.ties.free(layout) for layout in axes) > 1:
            return self.ties.fresh(math.prod(length_of(layout) for layout in axes))
        return self.ties.flatten(axes, reason)

    def unflatten(self, node: Node, first: int, layout: Layout, sizes: Shape, reason: str) -> list[Layout]:
        """Layouts of the axes that a node splits one into, from axis `first` of its output on.

        An axis of length one can only change where its length is an attribute of a module.
        """
        candidates = [axis for axis, size in enumerate(sizes) if size > 1 or (node.name, first + axis) in self._written]
        whole = self.ties.resolve(layout)
        if self._kept is not None:
            return self.ties.unflatten(layout, sizes, reason, self._kept.get((node.name, first)))
        apart = len(whole) > 1 or any(span.repeat > 1 for span in whole)
        if len(candidates) < 2 or apart or not self.ties.free(whole):
            return self.ties.unflatten(layout, sizes, reason)
        axes = [self.ties.fresh(size, None if axis in candidates else reason) for axis, size in enumerate(sizes)]
        self._loose[node.name, first] = axes
        return axes

    def _choice(self, axes: list[Layout]) -> int:
        """Which of some axes keeps changing: the first of those that are not fixed and are tied to most others."""
        loose = [self.ties.resolve(layout) for each in self._loose.values() for layout in each]
        counts = [loose.count(self.ties.resolve(layout)) if self.ties.free(layout) else 0 for layout in axes]
        longer = next((axis for axis, layout in enumerate(axes) if length_of(layout) > 1), 0)
        return counts.index(max(counts)) if max(counts) else longer

    def _argument(self, node: Node, name: str) -> Tensor | None:
        """The tensor that a function was given as its weight or bias."""
        position = ("", "weight", "bias").index(name)
        return self.parameter(self.graph[node.inputs[position]]) if len(node.inputs) > position else None

    def _visit(self, node: Node, rule: "Rule | None") -> None:
        before = len(self.slots), len(self.grouped)
        tensors = all(name in self.axes for name in node.inputs) or node.op is Op.ITEM
        axes = rule(self, node) if rule is not None and tensors else None
        if axes is not None and [length_of(layout) for layout in axes] == list(node.shape):
            self.axes[node.name] = axes
            return
        if node.name in self.parts:
            return
        reason = f"it passes {node}"
        if (module := self.module(node)) is not None:
            self._locked |= {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.freeze(tuple(slot.layout for slot in self.slots[before[0] :]), reason)
        self.freeze(tuple(layout for g in self.grouped[before[1] :] for layout in (g.inputs, g.outputs)), reason)
        for name in node.inputs:
            for each in (self.axes[name],) if name in self.axes else self.parts.get(name, ()):
                self.freeze(each or (), reason)
        if _is_tuple(node.shape):
            parts = (None if _is_tuple(part) else self.constant(part, reason) for part in node.shape)
            self.parts[node.name] = tuple(parts)
        else:
            self.axes[node.name] = self.constant(node.shape, reason)

    def _tie_lengths(self) -> None:
        """Attributes follow the axes that they give lengths to; axes follow the shapes that their lengths are from."""
        for length in self.attributes:
            parts = self.parts.get(length.node, ())
            axes = self.axes.get(length.node) if length.part is None else parts[length.part]
            if axes is not None:
                self.settings.append(Setting(length.module, length.attribute, (axes[length.axis],)))
        for length in shared_lengths(self.graph):
            if length.node in self.axes and length.source in self.axes:
                here, there = self.axes[length.node][length.axis], self.axes[length.source][length.source_axis]
                if self.ties.free(here) or self.ties.free(there):
                    self.ties.tie(here, there, f"{self.graph[length.node]} takes its length from {length.source}")

    def _tie_shared(self) -> None:
        """Weights of several calls or layers: one layout each, and one way to be gathered, or fixed."""
        first: dict[tuple[int, int], Slot] = {}
        for slot in self.slots:
            other = first.setdefault((id(slot.weight), slot.axis), slot)
            reason = f"{slot.node} shares its weight with {other.node} in another way"
            self.ties.tie(slot.layout, other.layout, reason)
            if (slot.role is Role.CONSUMER) != (other.role is Role.CONSUMER):
                self.ties.freeze(slot.layout, reason)
            if id(slot.weight) in self._locked:
                self.ties.freeze(slot.layout, f"{slot.node} shares its weight with a node that cannot change")
        settings: dict[tuple[str, str], Setting] = {}
        for setting in self.settings:
            other = settings.setdefault((setting.module, setting.attribute), setting)
            for mine, theirs in zip(setting.layouts, other.layouts, strict=True):
                self.ties.tie(mine, theirs, f"{setting.module} is called on different channels")
        convs: dict[int, GroupedConv] = {}
        for conv in self.grouped:
            other = convs.setdefault(id(conv.weight), conv)
            reason = f"{conv.node} shares its weight with another layer"
            self.ties.tie(conv.inputs, other.inputs, reason)
            self.ties.tie(conv.outputs, other.outputs, reason)
            if (id(conv.weight), 1) in first or (id(conv.weight), 0) in first or id(conv.weight) in self._locked:
                self.freeze((conv.inputs, conv.outputs), reason)

    def _settle_norms(self) -> None:
        """What a norm averages with fixed channels is fixed too."""
        before = None
        while before != (before := sum(self.ties.free(norm.layout) for norm in self.norms)):
            for norm in self.norms:
                spans = self.ties.resolve(norm.layout)
                alone = norm.groups > 1 and norm.groups == length_of(spans)
                if not alone and any(self.ties.reason(span.channels) for span in spans):
                    self.ties.freeze(spans, f"{norm.node} averages it with channels that are fixed")


def _is_tuple(shape: Shape) -> bool:
    """Whether it is the shape of a tuple of tensors."""
    return any(isinstance(length, tuple) for length in shape)


Rule = Callable[[ChannelFlow, Node], Axes | None]
