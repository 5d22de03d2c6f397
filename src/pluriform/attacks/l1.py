"""The geometry of the L1 ball inside a box: projection, sparse steps and the best answer to a linear function."""

import torch
from jaxtyping import Int
from torch import Tensor

from pluriform.axes import Inputs

__all__ = ["fill", "passable", "project", "sparse_sign"]


def project(moved: Inputs, inputs: Inputs, eps: float | int, low: float | int, high: float | int) -> Inputs:
    """The nearest point with `||v - x||_1 <= eps` and `low <= v <= high`, exactly, for all samples at once.

    Each change shrinks by one threshold of its sample and stops at the box: `|v_i - x_i| = clip(|u_i - x_i| - t, 0,
    r_i)` with the room `r_i` that the box leaves. The norm of that is piecewise linear in `t`; sorting its kinks finds
    the `t` that spends exactly `eps`. Costs `O(d log d)`.

    Args:
        moved: Points `u`.
        inputs: Centres `x`, in the box.
        eps: Radius.
        low: Lowest legal value.
        high: Highest legal value.

    References:
        Croce, Hein, 2021, Mind the box: L1-APGD for sparse adversarial attacks on image classifiers, arXiv 2103.01208.

    Example:
        >>> project(torch.tensor([[3.0, 2.0]]), torch.zeros(1, 2), 2, 0, 9)
        tensor([[1.5000, 0.5000]])
        >>> project(torch.tensor([[3.0, 2.0]]), torch.zeros(1, 2), 2, 0, 1)
        tensor([[1., 1.]])
    """
    change = (moved - inputs).flatten(1)
    room = _room(change, inputs.flatten(1), low, high)
    size = change.abs()
    threshold = _threshold(size, room, eps).clamp_min(0)
    amount = torch.minimum((size - threshold).clamp_min(0), room)
    amount = amount * (eps / amount.sum(1, keepdim=True).clamp_min(torch.finfo(amount.dtype).tiny)).clamp_max(1)
    return (inputs + (change.sign() * amount).view_as(inputs)).clamp(low, high)


def _threshold(size: Tensor, room: Tensor, eps: float | int) -> Tensor:
    """Where `sum_i clip(size_i - t, 0, room_i)` is `eps`; without meaning, and negative or harmless, where it is not.

    As `t` falls, coordinate `i` begins to count at `t = size_i` and is full at `t = size_i - room_i`.
    """
    kinks, order = torch.cat([size, size - room], 1).sort(1, descending=True)
    counting = torch.where(order < size.shape[1], 1, -1).cumsum(1)
    spent = torch.zeros_like(kinks)
    torch.cumsum(counting[:, :-1] * (kinks[:, :-1] - kinks[:, 1:]), 1, out=spent[:, 1:])
    last = ((spent <= eps).sum(1, keepdim=True) - 1).clamp_min(0)
    return kinks.gather(1, last) - (eps - spent.gather(1, last)) / counting.gather(1, last).clamp_min(1)


def _room(change: Tensor, inputs: Tensor, low: float | int, high: float | int) -> Tensor:
    return torch.where(change > 0, high - inputs, inputs - low).clamp_min(0)


def sparse_sign(gradient: Inputs, counts: Int[Tensor, "batch"]) -> Inputs:
    """Signs of the `counts` values of largest magnitude of each sample, divided by their number; ties all count.

    Example:
        >>> sparse_sign(torch.tensor([[3.0, -2.0, 1.0]]), torch.tensor([2]))
        tensor([[ 0.5000, -0.5000,  0.0000]])
    """
    flat = gradient.flatten(1)
    size = flat.abs()
    least = size.topk(int(counts.max()))[0] if len(counts) and counts.is_cpu else size.sort(1, descending=True)[0]
    chosen = flat.sign() * (size >= least.gather(1, counts[:, None] - 1))
    return (chosen / chosen.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)


def passable(gradient: Inputs, points: Inputs, low: float | int, high: float | int, least: float = 0.0) -> Inputs:
    """The gradient, and 0 where the box leaves no more room than `least` in its direction."""
    return gradient * (torch.where(gradient > 0, high - points, points - low) > least)


def fill(gradient: Inputs, inputs: Inputs, eps: float | int, low: float | int, high: float | int) -> Inputs:
    """The legal point that a linear function likes best: `argmax <g, v>` with `||v - x||_1 <= eps` in the box.

    Values move to the edge of the box in the order of their gradients' magnitudes until `eps` is spent.

    References:
        Croce, Hein, 2021, arXiv 2103.01208.

    Example:
        >>> fill(torch.tensor([[3.0, -2.0, 1.0]]), torch.full((1, 3), 0.5), 0.75, 0, 1)
        tensor([[1.0000, 0.2500, 0.5000]])
    """
    slopes = gradient.flatten(1)
    order = slopes.abs().argsort(1, descending=True)
    room = (_room(slopes, inputs.flatten(1), low, high) * slopes.ne(0)).gather(1, order)
    amount = torch.minimum((eps - (room.cumsum(1) - room)).clamp_min(0), room)
    change = torch.zeros_like(slopes).scatter(1, order, amount) * slopes.sign()
    return (inputs + change.view_as(inputs)).clamp(low, high)
