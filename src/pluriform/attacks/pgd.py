"""Projected gradient descent (on the negative loss): the standard first-order attack."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.attacks import l1
from pluriform.attacks.gradient import Verdict, ascend, judge
from pluriform.attacks.noise import direction, start
from pluriform.attacks.objective import Objective, cross_entropy
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels
from pluriform.errors import ConfigError, explain

__all__ = ["pgd"]


class _Worst:
    """The worst point found for every sample: its first misclassified one, else that of the highest loss."""

    def __init__(self, inputs: Inputs, first: Verdict) -> None:
        self.inputs = inputs.clone()
        self.loss = first.loss.clone()
        self.broken = first.broken.clone()

    def learn(self, rows: Tensor, points: Inputs, found: Verdict, final: bool) -> None:
        """Take over the points at `rows` that are worse than what is known there."""
        higher = found.loss > self.loss[rows]
        better = (found.broken | higher) & ~self.broken[rows] if final else higher
        self.inputs[rows[better]] = points[better]
        self.loss[rows[better]] = found.loss[better]
        self.broken[rows] |= found.broken


def pgd(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    steps: int = 20,
    step_size: float | int | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_when_broken: bool = True,
    objective: Objective = cross_entropy,
    eot: int = 1,
) -> Inputs:
    """`x <- P(x + a s(g))`; returns the worst iterate.

    `s` is the sign (Linf), the normalised gradient (L2), or the signs of its largest hundredth, where the box leaves
    room, over their number (L1; more where the box is too small for so long a step of so few).

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds.
        seed: Of the random starts.
        steps: Gradient steps of each restart.
        step_size: In input units; `2.5 eps / steps` unless given.
        restarts: Independent starts; a sample keeps the worst of all.
        random_start: Start inside the ball instead of at the inputs.
        stop_when_broken: Leave a sample at its first misclassified point. Otherwise the highest loss is sought,
            as training wants it.
        objective: The loss to climb; one that carries targets of samples only if `stop_when_broken` is off.
        eot: Passes to average at each point, for networks that answer at random.

    Returns:
        Perturbed inputs. A sample that is misclassified unperturbed stays as it is when `stop_when_broken`.

    Raises:
        ConfigError: Negative steps or length of them, or fewer than one restart or pass.

    References:
        Madry, Makelov, Schmidt, Tsipras, Vladu, 2018, Towards deep learning models resistant to adversarial attacks,
        arXiv 1706.06083.
        Tramèr, Boneh, 2019, Adversarial training and robustness for multiple perturbations, arXiv 1904.13000 (L1).
    """
    _check_options(steps, restarts, eot, step_size)
    if steps == 0:
        return inputs.clone()
    size = 2.5 * threat.eps / steps if step_size is None else step_size
    worst = _Worst(inputs, judge(module, inputs, labels, objective, eot) if random_start else _unseen(inputs))
    walk = _Walk(module, labels, threat, objective, eot, steps, float(size), seed, stop_when_broken)
    for restart in range(restarts):
        rows = (~worst.broken).nonzero().squeeze(1) if stop_when_broken else torch.arange(len(inputs)).to(labels.device)
        clean = inputs[rows]
        points = start(clean, threat, seed, restart) if random_start else clean.clone()
        walk.go(worst, rows, points, clean)
    return worst.inputs


@dataclass(frozen=True, eq=False)
class _Walk:
    """The steps of one restart."""

    module: nn.Module
    labels: Labels
    threat: Threat
    objective: Objective
    eot: int
    steps: int
    size: float
    seed: int
    final: bool

    def go(self, worst: _Worst, rows: Tensor, points: Inputs, clean: Inputs) -> None:
        """Climb from `points`, which belong to `rows` of the batch; `final` leaves samples where they break."""
        for step in range(self.steps):
            if len(rows) == 0:
                return
            found = ascend(self.module, points, self.labels[rows], self.objective, self.eot)
            worst.learn(rows, points, found.verdict, self.final)
            gradient = found.gradient
            if self.final and found.verdict.broken.any():
                alive = ~found.verdict.broken
                rows, points, gradient, clean = rows[alive], points[alive], gradient[alive], clean[alive]
            points = self.next(points, gradient, clean, step)
        if len(rows):
            found = judge(self.module, points, self.labels[rows], self.objective, self.eot)
            worst.learn(rows, points, found, self.final)

    def next(self, points: Inputs, gradient: Inputs, clean: Inputs, step: int) -> Inputs:
        threat = self.threat
        if threat.norm == "l1":
            # A value that has nearly arrived must not use up the step.
            least = self.size / threat.sparsity(math.prod(points.shape[1:]), self.size) / 2
            gradient = l1.passable(gradient, points, *threat.box, least)
        way = direction(gradient, clean, threat, self.seed, step, self.size)
        ahead = torch.add(points, way, alpha=self.size)
        return threat.project(ahead, clean)


def _unseen(inputs: Tensor) -> Verdict:
    """What is known of samples whose first step will look at them unperturbed."""
    return Verdict(inputs.new_full((len(inputs),), -torch.inf), inputs.new_zeros(len(inputs), dtype=torch.bool))


def _check_options(steps: int, restarts: int, eot: int, size: float | int | None) -> None:
    if steps < 0 or restarts < 1 or eot < 1:
        got = f"steps {steps}, restarts {restarts}, eot {eot}"
        raise ConfigError(explain("steps >= 0, restarts >= 1 and eot >= 1", got, "pgd", "raise them"))
    if size is not None and not 0 <= size < math.inf:
        remedy = "leave it out for 2.5 eps / steps"
        raise ConfigError(explain("a step_size of 0 or more", f"step_size {size:g}", "pgd", remedy))
