"""How a search goes: budget, strategy, constraints, workers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pluriform.distribute import Workers
from pluriform.search.bayesian_search import BayesianSearch
from pluriform.search.budget import Budget
from pluriform.search.candidate_model import Covariates
from pluriform.search.morph_space import Grown, MorphSpace
from pluriform.search.mutate_incumbent import MutateIncumbent
from pluriform.search.random_search import RandomSearch
from pluriform.training.seeds import derive_seed

__all__ = ["Plan", "StrategyName", "strategy_of"]

StrategyName = Literal["bayesian", "random", "mutate"]

MARKS = 4
"""Landmarks of the distance for each network that is offered for a parent."""
INITIAL = 4
"""Trials before the Gaussian process proposes, the start included."""


@dataclass(frozen=True)
class Plan:
    """How a search goes.

    Attributes:
        budget: Trials and time.
        epochs: Own epochs of every trial; `None` leaves it to the pace that the time allows.
        usual: Own epochs where there is no hurry.
        final: Share of the time, or of the epochs of all trials, for the end of the search; `None` until the pace is
            known.
        retrained: So many of the best are trained from scratch in the end.
        strategy: Which network is next.
        prior: What the prior mean of scores is linear in; see `ZeroCost`.
        stopped: Share of children that early stopping may end.
        max_parameters: Of every network.
        max_latency: Of the result, in ms for one input.
        workers: Where trials run.
        processes: How many at once.
        seed: Of everything.
    """

    budget: Budget
    epochs: int | None
    usual: int
    final: float | int | None
    retrained: int
    strategy: StrategyName
    prior: str | Callable[..., Any]
    stopped: float | int
    max_parameters: int | None
    max_latency: float | int | None
    workers: Workers
    processes: int
    seed: int

    @property
    def seconds(self) -> float | None:
        """The limit of time; `None` without one."""
        return None if self.budget.minutes is None else 60.0 * self.budget.minutes

    def sharing(self, device: torch.device) -> int:
        """Local trials that share the memory of one device."""
        devices = torch.cuda.device_count() if device.type == "cuda" else 1
        return -(-self.abreast // max(1, devices))

    @property
    def abreast(self) -> int:
        """Local workers that train at once; those of a cluster are not known."""
        return self.processes if self.workers == "processes" else 1


def strategy_of(
    plan: Plan, space: MorphSpace, duration: Callable[[Grown], float], covariates: Covariates | None = None
) -> Any:
    """The strategy of that name, which proposes the start first.

    Proposals are one move from a scored network, and no climb begins anew: a child has to learn what its moves brought,
    and networks near the start lack what the others have inherited.

    Expected improvement counts by the square root of what a trial takes: networks do not grow without bound where all
    make the same steps, and in a hurry, where all have the same time, a dear one is not paid for twice.

    Scores are told without a variance. All networks are scored on the same samples, and what is hard in these is hard
    for all: the binomial variance of an accuracy is larger than what tells a child from its parent, and believing it
    leaves a process that believes in nothing but the prior mean. The noise is fitted.

    Args:
        plan: Of the search.
        space: Of the networks.
        duration: Of a trial.
        covariates: In which the prior mean is linear; the logarithm of the number of parameters by default.
    """
    seed, start = derive_seed(plan.seed, "strategy") % 2**32, [space.start]
    if plan.strategy == "random":
        return RandomSearch(space, seed=seed, start=start)
    if plan.strategy == "mutate":
        return MutateIncumbent(space, seed=seed, initial=1, start=start)
    return BayesianSearch(
        space,
        seed=seed,
        initial=INITIAL,
        start=start,
        covariates=covariates or (lambda one: [math.log(one.parameters)]),
        marks=MARKS * space.children,
        few=0,
        rounds=0,
        patience=None,
        cost=lambda one: math.sqrt(duration(one)),
    )
