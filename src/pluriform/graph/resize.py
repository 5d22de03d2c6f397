"""`resized`: a network whose channel sets hold a selection of their old channels."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from pluriform.errors import GraphError, explain
from pluriform.graph.flow import ChannelFlow, GroupedConv, NormGroups, Role, Slot
from pluriform.graph.graph import Graph, Node
from pluriform.graph.layout import Layout
from pluriform.graph.ops import Op
from pluriform.graph.selection import grouped_weight, norm_groups, positions, shares
from pluriform.graph.trace import trace

__all__ = ["resized"]

WITH_SCALARS = frozenset({Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE, Op.ACTIVATION})
"""Operations with numbers in the code, which must not follow the number of channels."""


def resized(flow: ChannelFlow, chosen: Mapping[int, Tensor], *, structure_only: bool = False) -> Graph:
    """Copy the root with selected channels, and trace the copy.

    Args:
        flow: Of the graph.
        chosen: Old channels that make up each set that changes.
        structure_only: Leave the numbers of changed weights undefined and share the others with the old root.

    Returns:
        The graph of the new root, whose class is that of the old.

    Raises:
        GraphError: A norm cannot keep its statistics, or the code of the network does not follow the new lengths.
    """
    edit = _Edit(flow, chosen, structure_only)
    for conv in flow.grouped:
        edit.regroup(conv)
    for norm in flow.norms:
        edit.renorm(norm)
    for slot in flow.slots:
        edit.select(slot)
    return _traced(flow, chosen, edit.copy_root())


@dataclass(frozen=True, eq=False)
class _Edit:
    """New weights and attributes, collected before anything is copied."""

    flow: ChannelFlow
    chosen: Mapping[int, Tensor]
    structure_only: bool
    weights: dict[int, Tensor] = field(default_factory=dict)
    groups: dict[tuple[str, str], int] = field(default_factory=dict)
    _old: dict[int, Tensor] = field(default_factory=dict)
    _done: set[tuple[int, int]] = field(default_factory=set)

    def changed(self, layout: Layout) -> bool:
        return any(span.channels in self.chosen for span in self.flow.ties.resolve(layout))

    def positions(self, layout: Layout) -> Tensor:
        return positions(self.flow.ties.resolve(layout), self.chosen)

    def select(self, slot: Slot) -> None:
        """Gather one axis of a weight; of a consumer divided by the number of copies."""
        key = (id(slot.weight), slot.axis)
        if key in self._done or not self.changed(slot.layout):
            return
        self._done.add(key)
        index = self.positions(slot.layout)
        old = self.weights.get(id(slot.weight), slot.weight.detach())
        if self.structure_only:
            new = old.new_empty((*old.shape[: slot.axis], len(index), *old.shape[slot.axis + 1 :]))
        else:
            new = old.index_select(slot.axis, index.to(old.device))
            if slot.role is Role.CONSUMER:
                new = new * shares(index).to(new).reshape(-1, *[1] * (new.dim() - slot.axis - 1))
        self._put(slot.weight, new)

    def regroup(self, conv: GroupedConv) -> None:
        """Gather a grouped convolution by its two layouts at once."""
        if id(conv.weight) in self.weights or not (self.changed(conv.inputs) or self.changed(conv.outputs)):
            return
        inputs, outputs = self.positions(conv.inputs), self.positions(conv.outputs)
        weight, groups, rest = conv.weight.detach(), conv.groups, conv.weight.shape[2:]
        if conv.transposed:
            weight = _swapped(weight, groups)
        made = grouped_weight(weight.reshape(*weight.shape[:2], *rest), groups, outputs, inputs)
        self._put(conv.weight, _swapped(made.weight, made.groups) if conv.transposed else made.weight)
        self.groups[conv.node.module or "", "groups"] = made.groups

    def renorm(self, norm: NormGroups) -> None:
        """The number of groups that keeps the statistics of a norm."""
        if not self.changed(norm.layout):
            return
        layout = self.flow.ties.resolve(norm.layout)
        groups = norm_groups(self.positions(layout), norm.groups, sum(span.length for span in layout))
        if groups is None and self.structure_only:
            groups = math.gcd(norm.groups, len(self.positions(layout)))
        if groups is None:
            raise GraphError(
                explain(
                    "a selection that holds all channels of each group of the norm equally often, or leaves some out",
                    "one that changes the statistics of the norm",
                    str(norm.node),
                    "copy every channel the same number of times, copies side by side",
                )
            )
        if norm.node.op is Op.GROUP_NORM:
            self.groups[norm.node.module or "", "num_groups"] = groups

    def copy_root(self) -> nn.Module:
        """The root with the new weights in all their places, and the attributes of its layers."""
        root = self.flow.graph.root
        memo: dict[int, object] = {}
        if self.structure_only:
            memo = {id(tensor): tensor for tensor in (*root.parameters(), *root.buffers())}
        for key, new in self.weights.items():
            old = self._old[key]
            memo[key] = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        root = copy.deepcopy(root, memo)
        for setting in self.flow.settings:
            if any(self.changed(layout) for layout in setting.layouts):
                lengths = tuple(len(self.positions(layout)) for layout in setting.layouts)
                setattr(root.get_submodule(setting.module), setting.attribute, lengths if setting.many else lengths[0])
        for (module, attribute), number in self.groups.items():
            setattr(root.get_submodule(module), attribute, number)
        return root

    def _put(self, old: Tensor, new: Tensor) -> None:
        self._old[id(old)] = old
        self.weights[id(old)] = new.contiguous()


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """`(in, out / groups, *kernel)` as `(out, in / groups, *kernel)`, or back."""
    first, second, *rest = weight.shape
    blocks = weight.reshape(groups, first // groups, second, *rest).transpose(1, 2)
    return blocks.reshape(groups * second, first // groups, *rest)


def _traced(flow: ChannelFlow, chosen: Mapping[int, Tensor], root: nn.Module) -> Graph:
    """Trace the new root and compare it with what was to come out."""
    try:
        graph = trace(root, flow.graph.examples)
    except Exception as error:
        cause = error.__cause__ or error
        raise _not_followed(f"{type(cause).__name__}: {cause}", type(root).__name__) from error
    for old, new in zip(flow.graph.nodes, graph.nodes, strict=False):
        if (old.name, old.op) != (new.name, new.op):
            raise _not_followed(f"{new} in place of {old}", str(old))
        shape = _expected(flow, chosen, old)
        if shape is not None and shape != new.shape:
            raise _not_followed(f"shape {new.shape} in place of {shape}", str(old))
        if old.op in WITH_SCALARS and _numbers(old) != _numbers(new):
            raise _not_followed("numbers that change with the number of channels", str(old))
    if len(graph) != len(flow.graph):
        raise _not_followed(f"{len(graph)} nodes in place of {len(flow.graph)}", type(root).__name__)
    return graph


def _expected(flow: ChannelFlow, chosen: Mapping[int, Tensor], node: Node) -> tuple[int, ...] | None:
    if node.name not in flow.axes or node.op is Op.PARAMETER:
        return None
    axes = [flow.ties.resolve(layout) for layout in flow.axes[node.name]]
    return tuple(
        sum(span.repeat * (len(chosen[span.channels]) if span.channels in chosen else span.size) for span in layout)
        for layout in axes
    )


def _numbers(node: Node) -> dict[str, object]:
    return {name: value for name, value in node.attributes.items() if name != "num_parameters"}


def _not_followed(got: str, where: str) -> GraphError:
    return GraphError(
        explain(
            "code that follows the number of channels",
            got,
            where,
            "write -1, x.shape or an attribute such as self.heads in place of a number, or leave this group as it is",
        )
    )
