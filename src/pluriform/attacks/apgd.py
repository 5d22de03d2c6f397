"""Auto-PGD: steps that find their own length, on cross-entropy, DLR, or DLR towards each of several classes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pluriform.attacks.apgd_l1 import climb_l1
from pluriform.attacks.apgd_run import Query, Summit, climb
from pluriform.attacks.noise import edge
from pluriform.attacks.objective import Objective, cross_entropy, dlr, targeted_dlr
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels
from pluriform.errors import ConfigError, explain

__all__ = ["apgd_ce", "apgd_dlr", "apgd_t"]


def apgd_ce(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
    eot: int = 1,
    rho: float | int = 0.75,
) -> Inputs:
    """APGD on cross-entropy: the latest misclassified point of a sample, else that of its highest loss.

    Costs `steps + 1` forwards and `steps` backwards in the inputs a restart, for the samples that still stand.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds.
        seed: Of the random starts on the edge of the ball.
        steps: Gradient steps of each restart.
        restarts: Independent starts; samples already broken are dropped between them.
        eot: Passes to average at each point, for networks that answer at random.
        rho: Share of rising steps at or below which the step is halved (Linf and L2).

    Returns:
        Perturbed inputs. A sample that is misclassified unperturbed stays as it is.

    Raises:
        ConfigError: Negative steps, fewer than one restart or pass, or `rho` outside 0..1.

    References:
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, arXiv 2003.01690; 2021, Mind the box, arXiv 2103.01208 (L1).
    """
    return _Attack(module, inputs, labels, threat, seed, steps, eot, rho).rounds([lambda _: cross_entropy] * restarts)


def apgd_dlr(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
    eot: int = 1,
    rho: float | int = 0.75,
) -> Inputs:
    """APGD on the difference of logits ratio, which large logits cannot hide; otherwise as `apgd_ce`.

    Raises:
        ConfigError: Fewer than 3 classes, or options that cannot be.
    """
    run = _Attack(module, inputs, labels, threat, seed, steps, eot, rho)
    dlr(run.logits, labels)
    return run.rounds([lambda _: dlr] * restarts)


def apgd_t(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    eot: int = 1,
    rho: float | int = 0.75,
) -> Inputs:
    """APGD on the targeted DLR loss, towards the likeliest wrong classes in turn; otherwise as `apgd_ce`.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds.
        seed: Of the random starts.
        steps: Gradient steps of each run.
        restarts: Runs for each target.
        targets: Classes to try, ranked 2, 3, ... by the clean logits; at most all wrong ones.
        eot: Passes to average at each point.
        rho: As in `apgd_ce`.

    Raises:
        ConfigError: Fewer than 4 classes, or options that cannot be.
    """
    if targets < 1:
        raise ConfigError(explain("at least 1 target", f"targets {targets}", "apgd-t", "raise it"))
    run = _Attack(module, inputs, labels, threat, seed, steps, eot, rho)
    ranked = run.logits.scatter(1, labels[:, None], torch.inf).argsort(1, descending=True)[:, 1 : targets + 1]
    targeted_dlr(ranked[:, 0])(run.logits, labels)
    towards = [lambda rows, place=place: targeted_dlr(ranked[rows, place]) for place in range(ranked.shape[1])]
    return run.rounds([objective for objective in towards for _ in range(restarts)])


class _Attack:
    """A batch under attack: its clean logits, and runs on the samples that still stand."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Inputs,
        labels: Labels,
        threat: Threat,
        seed: int,
        steps: int,
        eot: int,
        rho: float | int,
    ) -> None:
        if steps < 0 or eot < 1 or not 0 <= rho <= 1:
            got = f"steps {steps}, eot {eot}, rho {rho:g}"
            raise ConfigError(explain("steps >= 0, eot >= 1 and rho in 0..1", got, "apgd", "change them"))
        self.module, self.inputs, self.labels, self.threat = module, inputs, labels, threat
        self.seed, self.steps, self.eot, self.rho = seed, steps, eot, rho
        with torch.no_grad():
            outputs = torch.stack([module(inputs) for _ in range(eot)])
        self.logits = outputs.mean(0)
        self.standing = (outputs.argmax(-1) != labels).double().mean(0) < 0.5

    def rounds(self, objectives: list[Callable[[Tensor], Objective]]) -> Inputs:
        """One run for each objective, which is made for the rows that still stand."""
        if not objectives:
            raise ConfigError(explain("at least 1 restart", "restarts 0", "apgd", "raise it"))
        result, highest = self.inputs.clone(), torch.full_like(self.logits[:, 0], -torch.inf)
        for place, objective in enumerate(objectives if self.steps else []):
            rows = self.standing.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            found = self._run(rows, objective(rows), place)
            higher = ~found.broken & (found.loss > highest[rows])
            result[rows[found.broken]] = found.fallen[found.broken]
            result[rows[higher]] = found.points[higher]
            highest[rows[higher]] = found.loss[higher]
            self.standing[rows] = ~found.broken
        return result

    def _run(self, rows: Tensor, objective: Objective, place: int) -> Summit:
        inputs, threat = self.inputs[rows], self.threat
        query = Query(self.module, self.labels[rows], objective, self.eot)
        if threat.norm == "l1":
            return climb_l1(query, inputs, edge(inputs, threat.scaled(3), self.seed, place), threat, self.steps)
        return climb(query, inputs, edge(inputs, threat, self.seed, place), threat, self.steps, self.rho)
