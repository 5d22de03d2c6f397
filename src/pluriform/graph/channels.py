"""Tied channel groups: axes of a network whose channel counts must change together.

Found by union-find over channel sets (`layout`), one pass over the graph (`flow`) with a rule for each operation
(`channel_rules`). Fixed are the channels of the network's inputs and outputs, those that meet an operation without a
rule, and those whose number is written out in the network's own code (found by tracing a resized copy). Where the code
takes it from an attribute of a module (`self.heads`), the attribute follows (`lengths`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch

from pluriform.errors import GraphError
from pluriform.graph.channel_rules import RULES
from pluriform.graph.flow import ChannelFlow, Role
from pluriform.graph.graph import Graph, Node
from pluriform.graph.layout import Layout
from pluriform.graph.resize import resized

__all__ = ["ChannelGroup", "ChannelGroups", "channel_groups"]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that change together.

    Attributes:
        name: Of the first node that makes them, with `.each` or `.input` where nodes only carry or read them, and with
            `[0]`, `[1]` where a node has channels of several groups.
        size: Number of channels, or of blocks of them that are only copied whole, such as the heads of attention.
        producers: Nodes whose weights make the channels (their rows).
        consumers: Nodes whose weights read them (their columns).
        carriers: Nodes with weights for each channel: norms, depthwise convolutions, slopes, scales.
        reason: Why the group is fixed; `None` where it may change.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    carriers: tuple[str, ...]
    reason: str | None = None

    @property
    def fixed(self) -> bool:
        """Whether the number of channels cannot change."""
        return self.reason is not None


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The groups of a graph, with the flow they were found by.

    Attributes:
        flow: Layouts and weights.
        groups: In the order of the nodes that make them.
        sets: Channel set of each group, by name.
    """

    flow: ChannelFlow
    groups: tuple[ChannelGroup, ...]
    sets: dict[str, int]

    @staticmethod
    def of(graph: Graph) -> "ChannelGroups":
        """The groups that follow from the operations alone, without a look at numbers written out in code."""
        flow = ChannelFlow(graph, RULES)
        sets = _named_sets(flow)
        members: dict[int, dict[Role, list[str]]] = {}
        sizes: dict[int, int] = {}
        for node, role, layout in _weights(flow):
            for span in layout:
                members.setdefault(span.channels, {each: [] for each in Role})[role].append(node.name)
                sizes[span.channels] = span.size
        groups = []
        for name, channels in sets.items():
            nodes = [
                tuple(dict.fromkeys(members[channels][role])) for role in (Role.PRODUCER, Role.CONSUMER, Role.CARRIER)
            ]
            groups.append(ChannelGroup(name, sizes[channels], nodes[0], nodes[1], nodes[2], flow.ties.reason(channels)))
        return ChannelGroups(flow, tuple(groups), sets)


FOUND: WeakKeyDictionary[Graph, tuple[ChannelGroup, ...]] = WeakKeyDictionary()
"""Since to find them a resized copy is traced, and each edit asks for them again."""


def channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    """The tied channel groups of a network, free and fixed.

    Args:
        graph: The traced network; it stays as it is.

    Returns:
        Every set of channels that some weight makes, carries or reads, in the order of the nodes that make them.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
        >>> for group in channel_groups(trace(net, torch.zeros(1, 1, 4, 4))):
        ...     print(group.name, group.size, group.producers, group.consumers, group.carriers, group.fixed)
        0 4 ('0',) ('3',) ('1',) False
        3 2 ('3',) () () True
        0.input 1 () ('0',) () True
    """
    if graph not in FOUND:
        FOUND[graph] = _channel_groups(graph)
    return FOUND[graph]


def _channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    found = ChannelGroups.of(graph)
    free = [group for group in found.groups if not group.fixed]
    if not _written_out(found, free):
        return found.groups
    reasons = {group.name: _written_out(found, [group]) for group in free}
    if not any(reasons.values()):
        reasons = dict.fromkeys(reasons, _written_out(found, free))
    return tuple(replace(group, reason=group.reason or reasons.get(group.name)) for group in found.groups)


def _written_out(found: ChannelGroups, groups: list[ChannelGroup]) -> str | None:
    """Why the network's code does not follow a change of these groups, or None where it does."""
    if not groups:
        return None
    doubled = {found.sets[group.name]: torch.arange(group.size).repeat_interleave(2) for group in groups}
    try:
        resized(found.flow, doubled, structure_only=True)
    except GraphError as error:
        return str(error)
    return None


def _weights(flow: ChannelFlow) -> Iterator[tuple[Node, Role, Layout]]:
    """Every node, role and layout of a weight."""
    for slot in flow.slots:
        yield slot.node, slot.role, flow.ties.resolve(slot.layout)
    for conv in flow.grouped:
        yield conv.node, Role.PRODUCER, flow.ties.resolve(conv.outputs)
        yield conv.node, Role.CONSUMER, flow.ties.resolve(conv.inputs)


def _named_sets(flow: ChannelFlow) -> dict[str, int]:
    """Channel set by name; a set takes its name from its first producer, else carrier, else consumer."""
    order = {node.name: position for position, node in enumerate(flow.graph.nodes)}
    names: dict[int, str] = {}
    for role, ending in ((Role.PRODUCER, ""), (Role.CARRIER, ".each"), (Role.CONSUMER, ".input")):
        sets: dict[str, list[int]] = {}
        for node, own, layout in sorted(_weights(flow), key=lambda weight: order[weight[0].name]):
            if own is role:
                sets.setdefault(node.name, []).extend(span.channels for span in layout)
        for name, spans in sets.items():
            here = list(dict.fromkeys(spans))
            for part, channels in enumerate(here):
                names.setdefault(channels, f"{name}{ending}" if len(here) == 1 else f"{name}{ending}[{part}]")
    return {name: channels for channels, name in names.items()}
