"""The end of a search: the best network is trained on, and, where asked for, the best ones once more from scratch.

Inherited weights carry the epochs of all ancestors. Trained from scratch for as many, a network shows what it is worth
without them; both scores are on record, and the better one comes out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pluriform.search.choice import feasible, score_of
from pluriform.search.journal import Trial
from pluriform.search.pace import Rounds, rounds_within
from pluriform.search.plan import Plan

__all__ = ["Ending", "ending_of", "most_ending_seconds", "next_ending", "seconds_a_step"]

MOST_EPOCHS = 200
MARGIN = 0.95
"""Of the time that is left, for what a training takes beside its steps."""


@dataclass(frozen=True)
class Ending:
    """One training of the end.

    Attributes:
        of: The trial whose network it is.
        scratch: From fresh weights, not from those of the trial.
    """

    of: Trial
    scratch: bool


def ending_of(
    done: Sequence[Trial],
    plan: Plan,
    value: Callable[[Trial], float] = score_of,
    usable: Sequence[Trial] | None = None,
) -> list[Ending]:
    """What is trained in the end; nothing where the end has no share of the budget.

    Args:
        done: Trials with a score.
        plan: Of the search.
        value: Of a trial; the best is trained on.
        usable: Trials whose weights are there; all by default.
    """
    ranked = sorted(feasible(done, plan.max_latency), key=lambda trial: (-value(trial), trial.number))
    if not ranked or not plan.final:
        return []
    different: dict[str, Trial] = {}
    for trial in ranked:
        different.setdefault(trial.key, trial)
    known = ranked if usable is None else [trial for trial in ranked if trial in usable]
    new = [trial for trial in different.values() if not trial.plan.get("final")][: plan.retrained]
    again = [Ending(trial, scratch=True) for trial in new]
    return [*(Ending(trial, scratch=False) for trial in known[:1]), *again]


def next_ending(ending: Ending, left: int, trials: Sequence[Trial], plan: Plan, epochs: int, full: int) -> Trial | None:
    """The trial of one training, or `None` where there is no time for it.

    Args:
        ending: Which.
        left: Trainings that are left, this one included: they share the time.
        trials: All so far.
        plan: Of the search.
        epochs: Own epochs of a child, which the end is measured by where there is no limit of time.
        full: Steps of an epoch.
    """
    figures, most = ending.of.figures, MOST_EPOCHS
    if ending.scratch:
        most = max(1, math.ceil(figures.get("total_epochs", 1.0)))
    if plan.budget.minutes is None:
        count = most if ending.scratch else math.ceil((plan.final or 0.0) * len(trials) * epochs)
        rounds: Rounds | None = Rounds(min(count, MOST_EPOCHS), full)
    else:
        steps = MARGIN * plan.budget.left / left / seconds_a_step(figures, full)
        rounds = rounds_within(steps, full, min(most, MOST_EPOCHS))
    if rounds is None or plan.budget.left <= 0:
        return None
    planned: dict[str, Any] = {"epochs": rounds.count, "steps": rounds.steps, "parameters": figures["parameters"]}
    planned |= {"most": min(most, MOST_EPOCHS)} if left == 1 else {}  # The last one fills the time.
    return Trial(
        len(trials), ending.of.number, (), ending.of.key, {**planned, "final": True, "scratch": ending.scratch}
    )


def most_ending_seconds(
    done: Sequence[Trial], plan: Plan, full: int, value: Callable[[Trial], float] = score_of
) -> float:
    """Seconds of the budget that the end takes: its share, or less where a full training of the best takes less."""
    share = 60.0 * (plan.budget.minutes or 0.0) * (plan.final or 0.0)
    best = max(feasible(done, plan.max_latency), key=value, default=None)
    if best is None:
        return share
    full_training = MOST_EPOCHS * full * seconds_a_step(best.figures, full) / MARGIN
    return min(share, (1 + plan.retrained) * full_training)


def seconds_a_step(figures: Mapping[str, Any], full: int) -> float:
    """What a step of a finished trial took, with its share of the look at the validation split after each epoch."""
    each = figures.get("step_seconds") or figures["seconds"] / max(figures.get("steps", figures["epochs"] * full), 1)
    return max(each + figures.get("look_seconds", 0.0) / full, 1e-9)
