"""One run of APGD in L1: sparse steps whose number of values follows the best point found."""

import torch
from torch import Tensor

from pluriform.attacks import l1
from pluriform.attacks.apgd_run import Query, Summit
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs

__all__ = ["climb_l1"]

SHRINK = 1.5  # of step length, and of values moved against values changed
SHORTEST = 10
RADII = (3, 2, 1)


def climb_l1(query: Query, inputs: Inputs, start: Inputs, threat: Threat, steps: int) -> Summit:
    """APGD in balls of three times, twice and once the radius, of 3, 3 and 4 tenths of the steps.

    A step moves the values of largest gradient by their signs, two thirds as many as the best point has changed, and
    projects exactly onto ball and box. At a checkpoint a sample whose best point has grown sparser by a twentieth goes
    on from there with steps of length `eps`; the steps of the others shrink by 1.5, to a tenth of `eps` at most.

    Args:
        query: What to climb.
        inputs: Centres of the balls.
        start: Where to begin; projected onto the first ball.
        threat: L1, with bounds.
        steps: Gradient steps in all.

    Returns:
        What the last ball holds.

    References:
        Croce, Hein, 2021, Mind the box: L1-APGD for sparse adversarial attacks on image classifiers, arXiv 2103.01208.
    """
    early = 3 * steps // 10
    stages = [(radius, count) for radius, count in zip(RADII, (early, early, steps - 2 * early), strict=True) if count]
    points = start
    for radius, count in stages[:-1]:
        wide = threat.scaled(radius)
        points = _stage(query, inputs, wide.project(points, inputs), wide, count).points
    return _stage(query, inputs, threat.project(points, inputs), threat, stages[-1][1])


def _stage(query: Query, inputs: Tensor, points: Tensor, threat: Threat, steps: int) -> Summit:
    width = max(4 * steps // 100, 1)
    found = query.ascend(points)
    summit, gradient = Summit(points, found), found.gradient
    changed = _changed(points, inputs)
    counts, before = _counts(changed), changed
    length = torch.full_like(found.verdict.loss, threat.eps)
    for step in range(1, steps + 1):
        stride = l1.sparse_sign(gradient, counts)
        points = threat.project(points + _rows(length, points) * stride, inputs)
        if step == steps:
            summit.learn(points, query.judge(points), None)
            break
        found = query.ascend(points)
        summit.learn(points, found.verdict, found.gradient)
        gradient = found.gradient
        if step % width == 0:
            changed = _changed(summit.points, inputs)
            sparser = changed < 0.95 * before
            length = torch.where(sparser, threat.eps, (length / SHRINK).clamp_min(threat.eps / SHORTEST))
            points = torch.where(_rows(sparser, points), summit.points, points)
            gradient = torch.where(_rows(sparser, points), summit.gradient, gradient)
            counts, before = _counts(changed), changed
    return summit


def _changed(points: Tensor, inputs: Tensor) -> Tensor:
    return (points != inputs).flatten(1).sum(1)


def _counts(changed: Tensor) -> Tensor:
    return (changed / SHRINK).long().clamp_min(1)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
