"""One run of APGD in Linf or L2, without a wait for the device in any step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.attacks.gradient import Ascent, Verdict, ascend, judge
from pluriform.attacks.objective import Objective
from pluriform.attacks.threat import TINY, Threat
from pluriform.axes import Inputs, Labels

__all__ = ["Query", "Summit", "checkpoints", "climb"]

MOMENTUM = 0.75


@dataclass(frozen=True, eq=False)
class Query:
    """What a run asks of the network at every point.

    Attributes:
        module: In evaluation mode.
        labels: True classes.
        objective: The loss to climb.
        eot: Passes to average.
    """

    module: nn.Module
    labels: Labels
    objective: Objective
    eot: int = 1

    def ascend(self, points: Inputs) -> Ascent:
        """Verdict and gradient."""
        return ascend(self.module, points, self.labels, self.objective, self.eot)

    def judge(self, points: Inputs) -> Verdict:
        """Verdict alone."""
        return judge(self.module, points, self.labels, self.objective, self.eot)


class Summit:
    """What a run found for every sample.

    Attributes:
        points: Of the highest loss.
        gradient: There.
        loss: There.
        fallen: The latest misclassified points; of meaning where `broken`.
        broken: Whether any point was misclassified, the start included.
    """

    def __init__(self, points: Inputs, found: Ascent) -> None:
        self.points = points.clone()
        self.gradient = found.gradient.clone()
        self.loss = found.verdict.loss
        self.fallen = points.clone()
        self.broken = found.verdict.broken

    def learn(self, points: Inputs, verdict: Verdict, gradient: Inputs | None) -> None:
        """Take over what is higher, and what is misclassified."""
        higher = verdict.loss > self.loss
        self.loss = torch.where(higher, verdict.loss, self.loss)
        _take(higher, points, self.points)
        _take(verdict.broken, points, self.fallen)
        if gradient is not None:
            _take(higher, gradient, self.gradient)
        self.broken = self.broken | verdict.broken


class _Pace:
    """Step lengths, halved at checkpoints for the samples that make no headway."""

    def __init__(self, step: Tensor, loss: Tensor) -> None:
        self.step = step
        self.rises = torch.zeros_like(loss)
        self.halved = torch.ones_like(loss, dtype=torch.bool)
        self.mark = loss

    def check(self, width: int, highest: Tensor, rho: float | int) -> Tensor:
        """Halve the steps by conditions 1 and 2; which samples that were."""
        few = self.rises <= rho * width
        stuck = ~self.halved & (highest <= self.mark)
        self.halved = few | stuck
        self.step = torch.where(_rows(self.halved, self.step), self.step / 2, self.step)
        self.mark = highest
        self.rises.zero_()
        return self.halved


class _Legal:
    """Projection onto the threat in place, its Linf limits computed once."""

    def __init__(self, inputs: Inputs, threat: Threat) -> None:
        self.inputs, self.threat = inputs, threat
        low, high = threat.box
        if threat.norm == "linf":
            self.lower = (inputs - threat.eps).clamp_min_(low)
            self.upper = (inputs + threat.eps).clamp_max_(high)

    def project_(self, moved: Tensor) -> None:
        if self.threat.norm == "linf":
            torch.clamp(moved, self.lower, self.upper, out=moved)
            return
        moved.sub_(self.inputs)
        length = moved.flatten(1).norm(dim=1).clamp_min_(TINY)
        moved.mul_(_rows((self.threat.eps / length).clamp_max_(1), moved)).add_(self.inputs).clamp_(*self.threat.box)


def climb(query: Query, inputs: Inputs, start: Inputs, threat: Threat, steps: int, rho: float | int = 0.75) -> Summit:
    """`z = P(x_k + eta s(g_k))`, `x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1}))`, with `a` 0.75, at first 1.

    `eta` is `2 eps` at first, and halved at a checkpoint for the samples whose loss rose in at most `rho` of the steps
    since the last one, or whose highest loss stayed as it was while `eta` was kept there. They go on from their best
    point. A step costs one forward and one backward in the inputs; three points, their bounds and the best are held.

    Args:
        query: What to climb.
        inputs: Centres of the balls.
        start: Where to begin, legal.
        threat: Linf or L2, with bounds.
        steps: Gradient steps.
        rho: Share of rising steps at or below which `eta` is halved.

    References:
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, arXiv 2003.01690.
    """
    points, previous, fresh = start.clone(), start.clone(), torch.empty_like(start)
    legal, ends = _Legal(inputs, threat), checkpoints(steps)
    found = query.ascend(points)
    summit, gradient, loss = Summit(points, found), found.gradient, found.verdict.loss
    pace = _Pace(2 * threat.eps * _rows(torch.ones_like(loss), inputs), loss)
    for step in range(1, steps + 1):
        _advance(points, previous, fresh, gradient, pace.step, legal, threat, first=step == 1)
        points, previous, fresh = fresh, points, previous
        if step == steps:
            summit.learn(points, query.judge(points), None)
            break
        found = query.ascend(points)
        summit.learn(points, found.verdict, found.gradient)
        pace.rises += found.verdict.loss > loss
        gradient, loss = found.gradient, found.verdict.loss
        if step in ends:
            halved = pace.check(ends[step], summit.loss, rho)
            _take(halved, summit.points, points)
            gradient = torch.where(_rows(halved, gradient), summit.gradient, gradient)
            loss = torch.where(halved, summit.loss, loss)
    return summit


def _advance(
    points: Tensor,
    previous: Tensor,
    fresh: Tensor,
    gradient: Tensor,
    step: Tensor,
    legal: _Legal,
    threat: Threat,
    first: bool,
) -> None:
    """Write the next points into `fresh`; `previous` is used up."""
    if threat.norm == "linf":
        torch.sign(gradient, out=fresh).mul_(step).add_(points)
    else:
        torch.mul(threat.steepest(gradient), step, out=fresh).add_(points)
    legal.project_(fresh)
    if not first:
        torch.sub(points, previous, out=previous)
        torch.lerp(points, fresh, MOMENTUM, out=fresh).add_(previous, alpha=1 - MOMENTUM)
        legal.project_(fresh)


def checkpoints(steps: int) -> dict[int, int]:
    """The steps after which a run looks back, each with how many steps that covers.

    Example:
        >>> list(checkpoints(100))
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    width, least, shrink = (max(share * steps // 100, 1) for share in (22, 6, 3))
    found, end = {}, width
    while end <= steps:
        found[end] = width
        width = max(width - shrink, least)
        end += width
    return found


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _take(chosen: Tensor, source: Tensor, target: Tensor) -> None:
    torch.where(_rows(chosen, target), source, target, out=target)
