"""The shortest step from a point onto a plane that stays inside a box, in Linf, L2 or L1, for a whole batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ConfigError, explain

__all__ = ["shortest_step"]

Rows = Float[Tensor, "batch values"]
TINY, LARGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def shortest_step(
    points: Rows, normals: Rows, gaps: Float[Tensor, "batch"], norm: str, box: tuple[float | int, float | int]
) -> Rows:
    """`argmin ||d||_p` subject to `<w, d> = gap` and `low <= x + d <= high`.

    Only moves in the direction `s = sign(gap w)` help, each as far as its room `r` in the box. With `t` such that
    `<w, d> = gap`, the step is `d = s min(t, r)` in Linf and `d = s min(t |w|, r)` in L2; in L1 the coordinates of the
    largest `|w|` are moved first, to the wall, the last of them partly. Cost O(N D) times about 6 in Linf and L2,
    O(N D log D) in L1.

    Args:
        points: `x`, inside the box.
        normals: `w`; of any length.
        gaps: `b - <w, x>` for a plane `<w, v> = b`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        box: Lowest and highest legal value.

    Returns:
        The steps `d`. Where no point of the box lies on the plane, all coordinates go to the walls towards it; where
        the normal is 0 the step is 0.

    Raises:
        ConfigError: Another norm.

    References:
        Croce, Hein, 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack,
        arXiv 1907.02044, section 2.2.

    Example:
        >>> origin, normal, gap = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([2.0])
        >>> shortest_step(origin, normal, gap, "linf", (0, 1)).tolist()
        [[0.4000000059604645, 0.4000000059604645, 0.4000000059604645]]
    """
    if norm not in ("linf", "l2", "l1"):
        raise ConfigError(explain("norm linf, l2 or l1", repr(norm), "shortest_step", "choose one of them"))
    scale = normals.abs().amax(1).clamp_min(TINY)
    size = normals * (gaps.sign() / scale)[:, None]
    way, target = size.sign(), gaps.abs() / scale
    size.abs_()
    room = torch.maximum(way * (box[1] - points), way * (box[0] - points)).clamp_min_(0)
    if norm == "l1":
        return _fill(size, room, target) * way
    speed = size if norm == "l2" else way.abs()
    time = _time(size, speed, room, target).masked_fill(torch.linalg.vecdot(size, room) <= target, LARGE)
    return torch.minimum(time[:, None] * speed, room) * way


def _time(size: Rows, speed: Rows, room: Rows, target: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Solve `sum_j size_j min(t speed_j, room_j) = target` for `t`, where that has a solution.

    The sum is concave, increasing and piecewise linear in `t`, so that Newton's steps from 0 never overshoot and end,
    exact, with the set of coordinates that stand at a wall; sorting the rooms finds the same `t` more slowly.
    """
    # In place and with masks of floats: new tensors and products with booleans cost several times as much on a CPU.
    rate, time, count = size * speed, torch.zeros_like(target), torch.full_like(target, -1)
    step, moving = torch.empty_like(room), torch.empty_like(room)
    while True:
        torch.minimum(torch.mul(speed, time[:, None], out=step), room, out=step)
        torch.sub(room, step, out=moving).sign_()
        missing = target - torch.linalg.vecdot(size, step)
        time = (time + missing.clamp_min(0) / torch.linalg.vecdot(rate, moving).clamp_min(TINY)).clamp_max(LARGE)
        before, count = count, moving.sum(1)
        if torch.equal(before, count):
            return time


def _fill(size: Rows, room: Rows, target: Float[Tensor, "batch"]) -> Rows:
    """Greedy: coordinates in order of decreasing `size` go to the wall until `sum size step = target`."""
    order = size.argsort(1, descending=True)
    size, room = size.gather(1, order), room.gather(1, order)
    gain = size * room
    left = target[:, None] - gain.cumsum(1) + gain
    step = torch.minimum(left.clamp_min(0) / size.clamp_min(TINY), room)
    return torch.zeros_like(step).scatter_(1, order, step)
