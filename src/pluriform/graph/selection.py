"""What a selection of channels does to weights: positions along an axis, shares of copies, numbers of groups."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.graph.layout import Layout

__all__ = ["GroupedWeight", "covers", "grouped_weight", "norm_groups", "positions", "shares"]


@dataclass(frozen=True)
class GroupedWeight:
    """Weight of a grouped convolution and the number of groups it is written for."""

    weight: Tensor
    groups: int


def positions(layout: Layout, chosen: Mapping[int, Tensor]) -> Tensor:
    """Old position for each new position of an axis.

    Args:
        layout: The axis, resolved.
        chosen: Old channels that make up a set, by set; sets that are not named stay as they are.

    Returns:
        Integers, one for each new position.
    """
    parts, offset = [], 0
    for span in layout:
        index = chosen.get(span.channels, torch.arange(span.size))
        parts.append((offset + index[:, None] * span.repeat + torch.arange(span.repeat)).flatten())
        offset += span.length
    return torch.cat(parts)


def shares(index: Tensor) -> Tensor:
    """One over the number of copies of each selected position, so that the copies add up to the original (float64)."""
    return 1.0 / torch.bincount(index).double()[index]


def covers(index: Tensor, size: int) -> bool:
    """Whether every old position is selected at least once."""
    return bool((torch.bincount(index, minlength=size) > 0).all())


def norm_groups(index: Tensor, groups: int, channels: int) -> int | None:
    """Number of groups with which GroupNorm over selected channels keeps the statistics of the old groups.

    Each new group must hold one old group, all its channels equally often. Where the selection leaves channels out, the
    next best is one new group for each old group that is left, and then the largest number not above the old one.

    Args:
        index: Old channel for each new channel.
        groups: Old number of groups.
        channels: Old number of channels.

    Returns:
        The new number, or None where every channel is selected and no number keeps the statistics.
    """
    count, old = len(index), channels // groups
    preferred = [count if groups == channels else groups, groups, count // old]
    numbers = [n for n in dict.fromkeys([*preferred, *range(count, 0, -1)]) if n and count % n == 0]
    for number in numbers:
        if _same_statistics(index.reshape(number, -1), old):
            return number
    if covers(index, channels):
        return None
    left = (index // old).unique_consecutive()
    if len(left) in numbers and bool((index.reshape(len(left), -1) // old == left[:, None]).all()):
        return len(left)
    return max((n for n in numbers if n <= groups and count // n >= min(old, 2)), default=1)


def _same_statistics(rows: Tensor, old: int) -> bool:
    """Whether each row holds every channel of one old group, of `old` channels, equally often."""
    copies, rest = divmod(rows.shape[1], old)
    first = rows[:, :1] // old * old
    return not rest and torch.equal(rows.sort(dim=1).values, first + torch.arange(old).repeat_interleave(copies))


def grouped_weight(weight: Tensor, groups: int, outputs: Tensor, inputs: Tensor) -> GroupedWeight:
    """Rows and columns of a grouped convolution, with as many groups as the selection allows.

    Channels of one old group may end in unequal numbers; then neighbouring groups are merged and what was not connected
    gets weight zero, so that the function is that of the old layer for every selection.

    Args:
        weight: `(out, in / groups, *kernel)`.
        groups: Old number of groups.
        outputs: Old output channel for each new one.
        inputs: Old input channel for each new one.

    Returns:
        The new weight, copies of an input channel divided by their number, and its number of groups.
    """
    per_input = weight.shape[1]
    out_owner, in_owner = outputs // (weight.shape[0] // groups), inputs // per_input
    number = _conv_groups(groups, out_owner, in_owner)
    block = len(inputs) // number
    chunk = torch.arange(len(outputs)) // (len(outputs) // number)
    columns = chunk[:, None] * block + torch.arange(block)
    scale = torch.where(in_owner[columns] == out_owner[:, None], shares(inputs)[columns], 0.0)
    index = (outputs[:, None].to(weight.device), (inputs[columns] % per_input).to(weight.device))
    scale = scale.to(weight).reshape(*scale.shape, *[1] * (weight.dim() - 2))
    return GroupedWeight(weight[index] * scale, number)


def _conv_groups(groups: int, out_owner: Tensor, in_owner: Tensor) -> int:
    """The old number of groups where it still fits, else the largest that keeps every old group in one new group."""
    common = math.gcd(len(out_owner), len(in_owner))
    for number in [groups, *range(common, 0, -1)]:
        if common % number == 0 and _fits(number, groups, out_owner, in_owner):
            return number
    return 1


def _fits(number: int, groups: int, out_owner: Tensor, in_owner: Tensor) -> bool:
    """Whether outputs and inputs of each old group that has both lie in one and the same of `number` new groups."""
    lowest, highest = torch.full((groups,), number), torch.full((groups,), -1)
    for owner in (out_owner, in_owner):
        chunk = torch.arange(len(owner)) // (len(owner) // number)
        lowest = lowest.scatter_reduce(0, owner, chunk, "amin")
        highest = highest.scatter_reduce(0, owner, chunk, "amax")
    both = (torch.bincount(out_owner, minlength=groups) > 0) & (torch.bincount(in_owner, minlength=groups) > 0)
    return bool((lowest == highest)[both].all())
