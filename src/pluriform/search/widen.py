"""Widening: new channels that nobody reads yet, so that they can be anything.

With n old and a new channels of a group (`ChannelFlow`: everything that must be as wide as a tensor, through adds,
norms, depthwise convolutions, concatenation and flattening),

    producers    W' = [W ; R]         new rows R drawn as wide as the old weights are
    consumers    W' = [W | 0]         columns of zero, so the function is kept in both modes
    norms        gamma, beta, running mean and variance of new channels as at the beginning

New channels come last; where a grouped convolution makes or reads them, last in each of its groups. Normalisation over
channels sees the new ones: GroupNorm admits whole groups only; LayerNorm and RMSNorm admit that every channel is copied
once (mean and variance of [x ; x] are those of x), so there new rows are copies, and no two new ones are equal.

References:
    Chen, Goodfellow, Shlens 2016, Net2Net: Accelerating Learning via Knowledge Transfer, arXiv:1511.05641.
    Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from pluriform.graph.flow import ChannelFlow, GroupedConv, Role, Slot
from pluriform.graph.graph import Node, Shape
from pluriform.graph.layout import Layout
from pluriform.graph.ops import Op
from pluriform.graph.selection import grouped_weight, norm_groups, positions
from pluriform.search.morphism import Change, Morph, Setting, WeightEdit, refusal
from pluriform.search.outline import Outline

__all__ = ["Width", "widen", "widen_moves", "widths_of"]

FACTORS = (Fraction(5, 4), Fraction(3, 2), Fraction(2))
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
AT_THE_BEGINNING = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


@dataclass(frozen=True)
class Width:
    """A number of channels that may grow.

    Attributes:
        name: Of the first node that makes the channels.
        part: Which of several groups of channels of that node.
        channels: Their set in the flow.
        size: How many there are.
        unit: The number added must be a multiple of this.
        blocks: New channels are spread over that many blocks of old ones.
        copied: Whether every channel must be copied once (`added` is `size`).
    """

    name: str
    part: int
    channels: int
    size: int
    unit: int = 1
    blocks: int = 1
    copied: bool = False

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of channels to offer: a quarter, half, or as many again, in round numbers."""
        if self.copied:
            return (self.size,)
        unit = math.lcm(self.unit, next(step for step in (8, 4, 2, 1) if self.size >= 4 * step or step == 1))
        added = (unit * math.ceil(self.size * (factor - 1) / unit) for factor in FACTORS)
        return tuple(dict.fromkeys(added))


def widen_moves(outline: Outline) -> Iterator[Morph]:
    """Every group of channels that may grow, by each of its steps."""
    for width in widths_of(outline).values():
        if isinstance(width, Width):
            for added in width.steps:
                yield Morph("widen", (width.name,), (added, width.part) if width.part else (added,))


def widths_of(outline: Outline) -> Mapping[tuple[str, int], "Width | str"]:
    """What may grow, or why it may not, by node and part, in the order of the nodes that make the channels."""
    flow = outline.flow
    made: dict[str, dict[int, int]] = {}
    read: set[int] = set()
    for node, role, layout in _weights(flow):
        for span in flow.ties.resolve(layout):
            if role is Role.CONSUMER:
                read.add(span.channels)
            elif role is Role.PRODUCER:
                made.setdefault(node, {})[span.channels] = span.size
    found: dict[tuple[str, int], Width | str] = {}
    seen: set[int] = set()
    for node in outline.nodes:
        for part, (channels, size) in enumerate(made.get(node.name, {}).items()):
            if channels not in seen:
                seen.add(channels)
                reason = flow.ties.reason(channels) or (None if channels in read else "no layer reads it")
                found[node.name, part] = reason or _width(flow, Width(node.name, part, channels, size))
    return found


def widen(outline: Outline, morph: Morph) -> Change:
    """Plan new channels.

    Args:
        outline: The network.
        morph: `place` names a layer that makes the channels; `numbers` how many are added, and which of several groups
            of channels of that layer.

    Raises:
        GraphError: The layer makes no channels, they are fixed (the reason is told), or the number does not fit.
    """
    width = _wanted(outline, morph)
    added, flow = morph.numbers[0], outline.flow
    generator = torch.Generator().manual_seed(morph.seed)
    index, new = _spread(width, added, generator)
    growth = _Growth(outline, {width.channels: index}, {width.channels: new}, width.copied)
    weights = growth.weights()
    return Change(weights=weights, settings=growth.settings(), shapes=growth.shapes(flow, weights))


def _wanted(outline: Outline, morph: Morph) -> Width:
    name, added, part = morph.place[0], morph.numbers[0], (*morph.numbers, 0)[1]
    node, widths = outline[name], widths_of(outline)
    width = widths.get((name, part))
    if width is None:
        layers = ", ".join(dict.fromkeys(key[0] for key, value in widths.items() if isinstance(value, Width)))
        raise refusal("a layer that makes channels of its own", str(node), "widen", f"widen one of {layers or 'none'}")
    if isinstance(width, str):
        raise refusal("channels that may grow", f"those of {node}, which are fixed: {width}", "widen")
    if added < 1 or added % width.unit or (width.copied and added != width.size):
        expected = f"{width.size} more" if width.copied else f"a multiple of {width.unit} more"
        raise refusal(f"{expected} channels", str(added), f"widen {node}")
    return width


def _weights(flow: ChannelFlow) -> Iterator[tuple[str, Role, Layout]]:
    for slot in flow.slots:
        yield slot.node.name, slot.role, slot.layout
    for conv in flow.grouped:
        yield conv.node.name, Role.PRODUCER, conv.outputs
        yield conv.node.name, Role.CONSUMER, conv.inputs


def _width(flow: ChannelFlow, width: Width) -> Width | str:
    """What norms and grouped convolutions ask of new channels, or why none can be."""
    units, blocks, copied, grouped_norm = [1], 1, False, False
    for norm in flow.norms:
        layout = flow.ties.resolve(norm.layout)
        if not any(span.channels == width.channels for span in layout):
            continue
        length = sum(span.length for span in layout)
        if norm.groups == length and norm.groups > 1:
            continue
        if len(layout) > 1 or (length // norm.groups) % max(span.repeat for span in layout):
            return f"{norm.node} averages it with other channels"
        if norm.groups == 1:
            copied = True
        else:
            grouped_norm = True
            units.append(length // norm.groups * width.size // length)
    for conv in flow.grouped:
        for layout in (flow.ties.resolve(conv.inputs), flow.ties.resolve(conv.outputs)):
            if not any(span.channels == width.channels for span in layout):
                continue
            if len(layout) > 1 or width.size % conv.groups:
                return f"the groups of {conv.node} hold it with other channels"
            blocks = math.lcm(blocks, conv.groups)
    if copied and (drawn := _drawn(flow, width)):
        return f"{drawn} would draw anew for copies that a norm averages"
    if width.size % blocks or (grouped_norm and (blocks > 1 or copied)):
        return "convolutions and norms group it in different ways"
    unit = math.lcm(*units, blocks)
    return Width(width.name, width.part, width.channels, width.size, unit, blocks, copied)


def _drawn(flow: ChannelFlow, width: Width) -> Node | None:
    """What draws random numbers on the way of the channels: a dropout, or slopes of an RReLU."""
    for node in flow.graph.nodes:
        drops = node.op is Op.DROPOUT and node.attributes["p"] > 0
        slopes = node.op is Op.ACTIVATION and node.attributes["function"] == "rrelu"
        if (drops or slopes) and node.name in flow.axes:
            spans = [span for layout in flow.axes[node.name] for span in flow.ties.resolve(layout)]
            if any(span.channels == width.channels for span in spans):
                return node
    return None


def _spread(width: Width, added: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Old channel for each new position, and which positions are new."""
    size, each, more = width.size, width.size // width.blocks, added // width.blocks
    old = torch.arange(size).reshape(width.blocks, each)
    unit = 1 if width.copied or width.blocks > 1 else width.unit
    count = each // unit
    rows = torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-more // each))])[: -(-more // unit)]
    if width.copied:
        rows = torch.arange(count)
    chosen = (rows[:, None] * unit + torch.arange(unit)).flatten()[:more]
    index = torch.cat([old, old[:, chosen]], dim=1)
    new = torch.cat([torch.zeros_like(old, dtype=torch.bool), torch.ones(width.blocks, more, dtype=torch.bool)], dim=1)
    return index.flatten(), new.flatten()


@dataclass(frozen=True, eq=False)
class _Growth:
    """All that follows from new channels."""

    outline: Outline
    chosen: Mapping[int, Tensor]
    new: Mapping[int, Tensor]
    copied: bool

    def changed(self, layout: Layout) -> bool:
        return any(span.channels in self.chosen for span in self.outline.flow.ties.resolve(layout))

    def positions(self, layout: Layout) -> Tensor:
        return positions(self.outline.flow.ties.resolve(layout), self.chosen)

    def marks(self, layout: Layout) -> Tensor:
        """Which positions of an axis are new."""
        spans = self.outline.flow.ties.resolve(layout)
        blank = ((self.new.get(span.channels, torch.zeros(span.size, dtype=torch.bool)), span.repeat) for span in spans)
        return torch.cat([marks.repeat_interleave(repeat) for marks, repeat in blank])

    def length(self, layout: Layout) -> int:
        spans = self.outline.flow.ties.resolve(layout)
        return sum(span.repeat * len(self.chosen.get(span.channels, range(span.size))) for span in spans)

    def weights(self) -> tuple[WeightEdit, ...]:
        slots: dict[int, dict[int, Slot]] = {}
        for slot in self.outline.flow.slots:
            if self.changed(slot.layout):
                slots.setdefault(id(slot.weight), {}).setdefault(slot.axis, slot)
        edits = [self._edit([*axes.values()]) for axes in slots.values()]
        convs = {id(conv.weight): conv for conv in self.outline.flow.grouped}
        return tuple(edits) + tuple(
            self._grouped(conv) for conv in convs.values() if self.changed(conv.inputs) or self.changed(conv.outputs)
        )

    def settings(self) -> tuple[Setting, ...]:
        flow, found = self.outline.flow, []
        for setting in flow.settings:
            if any(self.changed(layout) for layout in setting.layouts):
                lengths = tuple(self.length(layout) for layout in setting.layouts)
                found.append(Setting(setting.module, setting.attribute, lengths if setting.many else lengths[0]))
        for norm in flow.norms:
            if self.changed(norm.layout) and norm.node.op is Op.GROUP_NORM and norm.node.module is not None:
                old = sum(span.length for span in flow.ties.resolve(norm.layout))
                groups = norm_groups(self.positions(norm.layout), norm.groups, old)
                found.append(Setting(norm.node.module, "num_groups", groups))
        return tuple(found)

    def shapes(self, flow: ChannelFlow, weights: tuple[WeightEdit, ...]) -> dict[str, Shape]:
        tensors = {}
        for edit in weights:
            tensors.update(dict.fromkeys(edit.addresses, edit.shape))
        found = {}
        for node in self.outline.nodes:
            shape: Shape = node.shape
            if node.op is Op.PARAMETER:
                shape = tensors.get(node.attributes["path"], shape)
            elif node.name in flow.parts:
                parts = zip(flow.parts[node.name], node.shape, strict=True)
                shape = tuple(old if axes is None else tuple(map(self.length, axes)) for axes, old in parts)
            elif node.name in flow.axes:
                shape = tuple(map(self.length, flow.axes[node.name]))
            if shape != node.shape:
                found[node.name] = shape
        return found

    def _edit(self, slots: list[Slot]) -> WeightEdit:
        """Zeros where new channels are read, fresh numbers where they are made, copies where they only pass."""
        weight = slots[0].weight
        addresses = self.outline.addresses[id(weight)]
        layer = self.outline.layer(slots[0].node)
        first = AT_THE_BEGINNING.get(addresses[0].rpartition(".")[2]) if isinstance(layer, NORMS) else None
        order = sorted(slots, key=lambda slot: slot.role is Role.PRODUCER)
        steps = [(slot.axis, self.positions(slot.layout), self.marks(slot.layout), slot.role) for slot in order]
        shape = list(weight.shape)
        for axis, index, _, _ in steps:
            shape[axis] = len(index)

        def make(old: Tensor, generator: torch.Generator) -> Tensor:
            made = old
            for axis, index, marks, role in steps:
                made = made.index_select(axis, index.to(old.device))
                number = 0.0 if role is Role.CONSUMER else first
                if role is Role.PRODUCER and not self.copied:
                    _fill_fresh(made, old, axis, marks, generator)
                elif number is not None and (role is Role.CONSUMER or not self.copied):
                    made.index_fill_(axis, marks.nonzero().flatten().to(old.device), number)
            return made

        return WeightEdit(addresses, tuple(shape), make)

    def _grouped(self, conv: GroupedConv) -> WeightEdit:
        """A grouped convolution; new channels come last in each group, whose number stays."""
        outputs, inputs = self.positions(conv.outputs), self.positions(conv.inputs)
        made_new, read_new = self.marks(conv.outputs), self.marks(conv.inputs)
        groups, rest = conv.groups, conv.weight.shape[2:]
        shape = (len(inputs), len(outputs) // groups) if conv.transposed else (len(outputs), len(inputs) // groups)
        copies = torch.bincount(inputs)[inputs].reshape(groups, -1) * ~read_new.reshape(groups, -1)
        scale = copies.repeat_interleave(len(outputs) // groups, dim=0)

        def make(old: Tensor, generator: torch.Generator) -> Tensor:
            weight = _swapped(old, groups) if conv.transposed else old
            made = grouped_weight(weight, groups, outputs, inputs).weight
            made = made * scale.to(made).reshape(*scale.shape, *[1] * len(rest))
            if not self.copied:
                _fill_fresh(made, old, 0, made_new, generator)
            return (_swapped(made, groups) if conv.transposed else made).contiguous()

        return WeightEdit(self.outline.addresses[id(conv.weight)], (*shape, *rest), make)


def _fill_fresh(made: Tensor, old: Tensor, axis: int, marks: Tensor, generator: torch.Generator) -> None:
    """New rows, normal with the spread of the old weights; new biases zero."""
    rows = marks.nonzero().flatten()
    if not len(rows):
        return
    if old.dim() < 2:
        made.index_fill_(axis, rows.to(made.device), 0.0)
        return
    spread = float(old.detach().double().std(correction=0))
    spread = spread if math.isfinite(spread) and spread > 0 else (old.numel() / old.shape[axis]) ** -0.5
    shape = [len(rows) if place == axis else length for place, length in enumerate(made.shape)]
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    made.index_copy_(axis, rows.to(made.device), drawn.to(made))


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """`(in, out / groups, *kernel)` as `(out, in / groups, *kernel)`, or back."""
    first, second, *rest = weight.shape
    blocks = weight.reshape(groups, first // groups, second, *rest).transpose(1, 2)
    return blocks.reshape(groups * second, first // groups, *rest)
