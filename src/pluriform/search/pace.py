"""How long trials are: with a limit of time, so that some tens of networks are tried, whatever a step takes.

    end: 30 epochs of the start, but 3/10 of the time at least and 7/10 at most
    start: 2/7 of what the end leaves; children: the rest, shared by 24 of them, or by fewer of 200 steps
    where there is plenty of time: some hundred children, of up to 50 epochs each

The less time there is, the more of it the end needs: a better network that is hardly trained is worse than the start,
trained for all the time. In a hurry children have equal times, not equal steps: a network whose step takes twice as
long makes half as many, and its score says what it is worth in the time that there is. Training counts in rounds of so
many steps: passes over the data where there is time for one, else parts of a pass.
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
    "paced",
    "rounds_within",
]

ENDING, LEAST_ENDING, MOST_ENDING = 30, 0.3, 0.7
START = 2 / 7
"""Share for the start, from which all weights come."""
CHILDREN, FEWEST_CHILDREN, CHILD_STEPS = 24, 6, 200
MANY_CHILDREN, MOST_EPOCHS = 100, 50
LEAST_STEPS = 60
THOUGHT, CANDIDATE_SECONDS = 0.05, 0.04
"""Share of a child's training that its choice may take, and what each network offered for a parent costs it."""
LEAST_OFFERED, MOST_OFFERED = 6, 24
MEASURED = 0.5
"""Seconds in which the step of the start is measured, where it takes less."""
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
        child: Of a network whose step takes as long as that of the start.
        final: Share of the end.
        steps: That there would be time for in such a child; more than it makes where there is no hurry.
    """

    start: Rounds
    child: Rounds
    final: float | int
    steps: float = math.inf

    def of_child(self, ratio: float | int, full: int) -> Rounds:
        """A child's training, in the time of all others.

        Args:
            ratio: How many times as long as of the start a step of it takes.
            full: Steps of an epoch.

        Example:
            >>> pace = paced(None, 20, 100, 600.0, 0.3, 0.01)
            >>> pace.child, pace.of_child(2.5, 100)
            (Rounds(count=12, steps=100), Rounds(count=5, steps=100))
        """
        steps = self.steps / ratio
        return self.child if steps >= self.child.count * self.child.steps else _rounds(steps, full)

    def duration(self, ratio: float | int) -> float:
        """How long a child's training takes, in steps of the start: in a hurry no longer for a dear network.

        Args:
            ratio: How many times as long as of the start a step of it takes.

        Example:
            >>> pace = paced(None, 20, 100, 600.0, 0.3, 0.01)
            >>> [round(pace.duration(ratio)) for ratio in (0.5, 1.0, 2.5, 4.0)]
            [600, 1200, 1250, 1250]
        """
        return min(self.steps, ratio * self.child.count * self.child.steps)

    def most_work(self, work: float | int, full: int) -> float:
        """Work of the dearest network that there is time for, where that of the start is `work`."""
        return work * max(2.0, self.steps / min(full, LEAST_STEPS))

    def offered(self, step_seconds: float) -> int:
        """How many networks are offered for each parent: fewer where choosing would take longer than a short trial.

        Args:
            step_seconds: Of a training step of the start; 0 where there is no hurry.
        """
        if not step_seconds:
            return MOST_OFFERED
        count = THOUGHT * self.child.count * self.child.steps * step_seconds / CANDIDATE_SECONDS
        return max(LEAST_OFFERED, min(MOST_OFFERED, round(count)))


def paced(
    epochs: int | None,
    usual: int,
    full: int,
    seconds: float | int | None,
    final: float | int | None,
    step_seconds: float,
    abreast: int = 1,
) -> Pace:
    """The pace of a search.

    Args:
        epochs: Of every trial, as asked for; `None` leaves it to this function.
        usual: Epochs where there is no hurry.
        full: Steps of an epoch.
        seconds: Of the whole search; `None` for no limit.
        final: Share of them, or of the epochs of all trials, that the end takes; `None` leaves it to this function.
        step_seconds: Of a training step of the start.
        abreast: Children that are trained at once; the start and the end are one training each.

    Example:
        >>> paced(None, 20, 18, None, 0.3, 0.01).child, paced(None, 20, 18, 900.0, 0.3, 0.01).child
        (Rounds(count=20, steps=18), Rounds(count=25, steps=18))
        >>> paced(None, 1, 750, 1800.0, 0.3, 0.1).child
        Rounds(count=1, steps=375)
    """
    if epochs is not None or seconds is None:
        whole = Rounds(epochs or usual, full)
        return Pace(whole, whole, LEAST_ENDING if final is None else final)
    if final is None:
        final = min(MOST_ENDING, max(LEAST_ENDING, ENDING * full * step_seconds / seconds))
    steps = (1.0 - final) * seconds / step_seconds
    start, children = START * steps, (1.0 - START) * steps * abreast
    child = children / min(CHILDREN, max(FEWEST_CHILDREN, children / CHILD_STEPS))
    most = max(usual * full, min(MOST_EPOCHS * full, children / MANY_CHILDREN))
    return Pace(_rounds(min(start, LONGER * most), full), _rounds(min(child, most), full), final, child)


def rounds_within(steps: float | int, full: int, most: int) -> Rounds | None:
    """A training of so many steps and at most so many epochs, in equal rounds; `None` where that is next to nothing."""
    if steps < min(full, LEAST_STEPS) / 2:
        return None
    count = min(most, math.ceil(steps / full))
    return Rounds(count, min(full, math.floor(steps / count)))


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


def gentleness(own: float | int, start: float | int) -> float:
    """Factor of the learning rate of a training that goes on from trained weights, shorter than that of the start.

    sqrt(own / start), at least 1/4: after a long training a few steps at the full rate lose more than they learn.

    Example:
        >>> gentleness(50, 100), gentleness(1, 100), gentleness(200, 100)
        (0.7071067811865476, 0.25, 1.0)
    """
    return min(1.0, max(0.25, math.sqrt(own / start)))


def measured_step(network: nn.Module, data: Data, recipe: Recipe, device: torch.device) -> float:
    """Seconds of a training step of a copy of the network: the fastest of two or, within half a second, of twenty.

    One more comes first, and does not count. A search keeps the pace that it begins with, so a moment in which the
    machine was busy must not set it.
    """
    inputs, targets = data.train.batch(torch.arange(min(recipe.batch_size, len(data.train))))
    inputs, targets, loss = inputs.to(device), targets.to(device), Loss(data.task)
    found = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(network).to(device).train()
        optimizer = make_optimizer(copied, recipe)
        while len(found) < 3 or (len(found) < 21 and sum(found) < MEASURED):
            begin = time.perf_counter()
            optimizer.zero_grad()
            loss(copied(inputs), targets).sum().backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - begin)
    return max(1e-6, min(found[1:]))
