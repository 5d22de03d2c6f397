"""How long trials are: with a limit of time, so that some tens of networks are tried, whatever a step takes.

    start: 1/5 of the time; children: what the end leaves, shared by 24 of them, each half as dear again as the start

Training counts in rounds of so many steps: passes over the data where there is time for one, else parts of a pass.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.training.loss import Loss
from pluriform.training.optimisation import make_optimizer
from pluriform.training.recipe import Recipe

__all__ = [
    "Pace",
    "Rounds",
    "expected_seconds",
    "gentleness",
    "measured_step",
    "most_work",
    "offered",
    "paced",
    "rounds_within",
]

START = 0.2
"""Share of the time for the start, from which all weights come."""
CHILDREN, GROWTH = 24, 1.5
LEAST_STEPS = 60
MOST = 0.1
"""Share of the time that one child may take."""
THOUGHT, CANDIDATE_SECONDS = 0.05, 0.04
"""Share of a child's training that its choice may take, and what each network offered for a parent costs it."""
LEAST_OFFERED, MOST_OFFERED = 6, 24
LONGER = 3
"""So many times as long as a child of an unhurried search the start is trained, where there is time."""


@dataclass(frozen=True)
class Rounds:
    """A training.

    Attributes:
        count: Rounds, with a look at the validation split after each.
        steps: Of a round.
    """

    count: int
    steps: int


@dataclass(frozen=True)
class Pace:
    """Trainings of a search.

    Attributes:
        start: Of the first trial.
        child: Of every other.
    """

    start: Rounds
    child: Rounds


def paced(
    epochs: int | None, usual: int, full: int, seconds: float | int | None, final: float | int, step_seconds: float
) -> Pace:
    """The pace of a search.

    Args:
        epochs: Of every trial, as asked for; `None` leaves it to this function.
        usual: Epochs where there is no hurry.
        full: Steps of an epoch.
        seconds: Of the whole search times the workers; `None` for no limit.
        final: Share of them that the end takes.
        step_seconds: Of a training step of the start.

    Example:
        >>> paced(None, 20, 18, None, 0.3, 0.01).child
        Rounds(count=20, steps=18)
        >>> paced(None, 1, 750, 1800.0, 0.3, 0.1).child
        Rounds(count=1, steps=250)
    """
    if epochs is not None or seconds is None:
        whole = Rounds(epochs or usual, full)
        return Pace(whole, whole)
    start = START * seconds / step_seconds
    child = (1.0 - final - START) * seconds / (CHILDREN * GROWTH * step_seconds)
    return Pace(_rounds(min(start, LONGER * usual * full), full), _rounds(min(child, usual * full), full))


def rounds_within(steps: float | int, full: int, most: int) -> Rounds | None:
    """A training of about so many steps and at most so many epochs; `None` where that is next to nothing."""
    if steps < min(full, LEAST_STEPS) / 2:
        return None
    return Rounds(1, math.floor(steps)) if steps < full else _rounds(min(steps, most * full), full)


def _rounds(steps: float | int, full: int) -> Rounds:
    steps = max(min(full, LEAST_STEPS), math.floor(steps + 1e-9))
    return Rounds(1, steps) if steps < full else Rounds(steps // full, full)


def expected_seconds(work: float | int, done: Sequence[tuple[float, float]]) -> float:
    """Seconds that a trial will take.

    Args:
        work: Steps times multiply-accumulates.
        done: Work and seconds of earlier trials, the last ones count: small networks take longer for the same work.
    """
    paces = [seconds / amount for amount, seconds in done if amount > 0][-5:]
    return work * median(paces) if paces else 0.0


def offered(pace: Pace, step_seconds: float) -> int:
    """How many networks are offered for each parent: fewer where trials are so short that choosing would take longer.

    Args:
        pace: Of the search.
        step_seconds: Of a training step of the start; 0 where there is no hurry.
    """
    if not step_seconds:
        return MOST_OFFERED
    count = THOUGHT * pace.child.count * pace.child.steps * step_seconds / CANDIDATE_SECONDS
    return max(LEAST_OFFERED, min(MOST_OFFERED, round(count)))


def gentleness(own: float | int, start: float | int) -> float:
    """Factor of the learning rate of a training that goes on from trained weights, shorter than that of the start.

    sqrt(own / start), at least 1/4: after a long training a few steps at the full rate lose more than they learn.

    Example:
        >>> gentleness(50, 100), gentleness(1, 100), gentleness(200, 100)
        (0.7071067811865476, 0.25, 1.0)
    """
    return min(1.0, max(0.25, math.sqrt(own / start)))


def most_work(pace: Pace, work: float | int, seconds: float | int, step_seconds: float) -> float:
    """Work of the dearest network that may be tried in so many seconds, where that of the start is `work`."""
    return work * max(2.0, MOST * seconds / (pace.child.count * pace.child.steps * step_seconds))


def measured_step(network: nn.Module, data: Data, recipe: Recipe, device: torch.device) -> float:
    """Seconds of a training step of a copy of the network: the faster of two, after one that does not count."""
    inputs, targets = data.train.batch(torch.arange(min(recipe.batch_size, len(data.train))))
    inputs, targets, loss = inputs.to(device), targets.to(device), Loss(data.task)
    found = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(network).to(device).train()
        optimizer = make_optimizer(copied, recipe)
        for _ in range(3):
            begin = time.perf_counter()
            optimizer.zero_grad()
            loss(copied(inputs), targets).sum().backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - begin)
    return max(1e-6, min(found[1:]))
