"""Regularised evolution: tournaments among the youngest, mutate the winner, the oldest dies."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pluriform.errors import ConfigError, explain
from pluriform.search.space import Space
from pluriform.search.strategy import Trials

__all__ = ["RegularisedEvolution"]


class RegularisedEvolution:
    """The best of `sample` drawn among the last `population` scored candidates has an unknown neighbour next.

    Args:
        space: Where candidates live.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Random candidates first.
        start: Candidates to propose first.
        population: Candidates alive: the last ones told.
        sample: Candidates of a tournament, drawn without replacement.

    Attributes:
        trials: What was asked and told.

    References:
        Real et al. 2019, Regularized Evolution for Image Classifier Architecture Search, arXiv:1802.01548.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        direction: str = "maximize",
        initial: int = 10,
        start: Sequence[Any] = (),
        population: int = 30,
        sample: int = 5,
    ) -> None:
        if not 1 <= sample <= population:
            got = f"sample {sample}, population {population}"
            raise ConfigError(
                explain("1 <= sample <= population", got, "RegularisedEvolution", "give a smaller sample")
            )
        self.trials = Trials(space, seed=seed, direction=direction, initial=initial, start=start)
        self.population, self.sample = population, sample

    def ask(self) -> Any:
        """The candidate to score next."""
        return self.trials.ask(self._propose)

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """The score of a candidate; NaN says that it failed."""
        self.trials.tell(candidate, score, variance)

    def _propose(self, generator: np.random.Generator) -> Any:
        alive = self.trials.observed[-self.population :]
        for _ in range(20):  # A winner whose neighbours are all known has no child; another tournament may have.
            drawn = generator.choice(len(alive), size=min(self.sample, len(alive)), replace=False)
            winner = max((alive[int(index)] for index in drawn), key=lambda one: one.gain)
            children = self.trials.unknown_neighbours(winner.candidate)
            if children:
                return children[int(generator.integers(len(children)))]
        return self.trials.random_new(generator)
