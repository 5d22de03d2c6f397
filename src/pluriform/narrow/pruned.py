"""`PrunedWide`: a wide network that is trained, thinned to the user's widths, and trained on."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import GraphError, explain
from pluriform.graph.channels import ChannelGroup, ChannelGroups, channel_groups
from pluriform.graph.flow import Role
from pluriform.graph.gather import gather_all
from pluriform.graph.graph import Graph
from pluriform.method import FitContext
from pluriform.narrow.from_wide import FromWide
from pluriform.narrow.narrowed import Narrowed
from pluriform.narrow.wide import read

__all__ = ["PrunedWide", "channel_norms", "thinned"]


@dataclass(frozen=True)
class PrunedWide(FromWide):
    """Train a wide copy of the network, keep its channels of largest weights, and train what is left.

    In every free channel group as many channels stay as the given network has: those whose producers' weights (rows of
    linear layers and convolutions) have the largest L2 norms. What is left is the user's network, with weights of the
    wide one. The given weights count for nothing.

    Args:
        widen: Width of the wide network, in units of the thin one's.
        wide: Folder of a trained form of the same architecture to prune instead.
        alpha: Share of the wide network's outputs in the loss of the last training, as in `Distillation`; none by
            default.
        temperature: Of the softmax in that share.
        training: How the pruned network is trained on; a `Training` serves.
        wide_training: How the wide network is trained.
        reinitialise: Draw new weights after all, which leaves nothing of the pruning.
        cache_bytes: Memory for outputs of the wide network on the training split, as in `Distillation`.

    References:
        Li, Kadav, Durdanovic, Samet, Graf 2016, Pruning Filters for Efficient ConvNets, arXiv:1608.08710.

    Example:
        >>> import pluriform as pf
        >>> data, short = pf.load("digits"), pf.Training(epochs=2)
        >>> form = PrunedWide(training=short, wide_training=short).fit(pf.nets.build("mlp", data), data)
        >>> form.facts["groups"]["layers.1"]
        [512, 256]
    """

    alpha: float | int = 0.0

    def _fit(self, module: Any, data: Data, context: FitContext) -> Narrowed:
        wide = self._trained_wide(module, data, context)
        module = module.to(context.device)
        graph, broad = read(module, data), read(wide.network, data)
        sizes = {group.name: group.size for group in channel_groups(graph) if not group.fixed}
        module.load_state_dict(thinned(broad, graph).state_dict())
        thin = self._started(module, context)
        before = {group.name: group.size for group in ChannelGroups.of(broad).groups}
        facts = {"groups": {name: [before[name], size] for name, size in sizes.items()}}
        return self._form(thin, data, context, wide, [lambda: self._loop(thin, wide.network, data, context)], facts)


def thinned(wide: Graph, thin: Graph) -> nn.Module:
    """The wide network with the widths of the thin one: in each group the channels of largest norms, in their order.

    Where a convolution or norm works on groups of channels, each of its groups keeps equally many.

    Args:
        wide: Of the same architecture as the thin network, with no fewer channels.
        thin: Gives the widths.

    Raises:
        GraphError: They do not line up, or the result would not have the shapes of the thin network.
    """
    found = ChannelGroups.of(wide)
    known = {group.name: group for group in found.groups}
    selections = {}
    for group in channel_groups(thin):
        other = known.get(group.name)
        if other is None or other.size < group.size or (group.fixed and other.size != group.size):
            raise _misfit(group, other, wide)
        if other.size > group.size:
            selections[group.name] = _largest(found, group.name, group.size)
    made = gather_all(wide, selections).root
    shapes, wanted = ({k: tuple(t.shape) for k, t in part.state_dict().items()} for part in (made, thin.root))
    if shapes != wanted:
        name = next(k for k in sorted({*shapes, *wanted}) if shapes.get(k) != wanted.get(k))
        expected, got = f"{name} of shape {wanted.get(name)}", f"{shapes.get(name)}"
        remedy = "prune a wide network that was widened from the given one"
        raise GraphError(explain(expected, got, f"pruning of {type(wide.root).__name__}", remedy))
    return made


def channel_norms(found: ChannelGroups, name: str) -> Tensor:
    """L2 norm of all weights that produce each channel of a group, biases included, shape `(size,)`.

    Of a group without producers, the norm of what it carries.
    """
    channels = found.sets[name]
    size = next(group.size for group in found.groups if group.name == name)
    squares = torch.zeros(size, dtype=torch.float64)
    flow, seen = found.flow, set()
    rows = [(slot.role, slot.weight, slot.axis, slot.layout) for slot in flow.slots]
    rows += [(Role.PRODUCER, conv.weight, 0, conv.outputs) for conv in flow.grouped if not conv.transposed]
    roles = {role for role, _, _, layout in rows if any(s.channels == channels for s in flow.ties.resolve(layout))}
    wanted = Role.PRODUCER if Role.PRODUCER in roles else Role.CARRIER
    for role, weight, axis, layout in rows:
        if role is not wanted or not weight.is_floating_point() or (id(weight), axis) in seen:
            continue
        seen.add((id(weight), axis))
        lengths = (
            weight.detach()
            .cpu()
            .double()
            .movedim(axis, 0)
            .flatten()
            .square()
            .unflatten(0, (weight.shape[axis], -1))
            .sum(1)
        )
        offset = 0
        for span in flow.ties.resolve(layout):
            if span.channels == channels:
                squares += lengths[offset : offset + span.length].unflatten(0, (size, span.repeat)).sum(1)
            offset += span.length
    return squares.sqrt()


def _largest(found: ChannelGroups, name: str, count: int) -> Tensor:
    """Old channels to keep, rising; equally many of each block that a grouped operation works on."""
    norms = channel_norms(found, name)
    blocks = _blocks(found, found.sets[name])
    blocks = blocks if count % blocks == 0 and len(norms) % blocks == 0 else 1
    rows = norms.unflatten(0, (blocks, -1))
    best = torch.argsort(rows, dim=1, descending=True, stable=True)[:, : count // blocks].sort(1).values
    return (best + torch.arange(blocks)[:, None] * rows.shape[1]).flatten()


def _blocks(found: ChannelGroups, channels: int) -> int:
    """Into how many equal parts grouped operations divide the channels of a set."""
    flow = found.flow
    parts = [(conv.groups, layout) for conv in flow.grouped for layout in (conv.inputs, conv.outputs)]
    parts += [(norm.groups, norm.layout) for norm in flow.norms]
    counts = [1]
    for groups, layout in parts:
        spans = flow.ties.resolve(layout)
        if len(spans) == 1 and spans[0].channels == channels and groups < spans[0].length:
            counts.append(groups)
    return math.lcm(*counts)


def _misfit(group: ChannelGroup, other: ChannelGroup | None, wide: Graph) -> GraphError:
    expected = f"a group {group.name} of {'' if group.fixed else 'at least '}{group.size} channels"
    got = "no such group" if other is None else f"{other.size} channels"
    remedy = "prune a wide network of the same architecture"
    return GraphError(explain(expected, got, f"pruning of {type(wide.root).__name__}", remedy))
