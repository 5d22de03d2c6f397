"""Mutate the incumbent: a random new neighbour of the best candidate so far, or of one of the best few."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pluriform.errors import ConfigError, explain
from pluriform.search.space import Space
from pluriform.search.strategy import Trials

__all__ = ["MutateIncumbent"]


class MutateIncumbent:
    """Propose an unknown neighbour of the best candidate; where it has none left, of the next best.

    Args:
        space: Where candidates live.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Random candidates first.
        start: Candidates to propose first.
        top: The parent is drawn among that many best candidates; 1 for the incumbent.

    Attributes:
        trials: What was asked and told.

    References:
        White et al. 2021, Exploring the Loss Landscape in Neural Architecture Search, arXiv:2005.02960.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        direction: str = "maximize",
        initial: int = 10,
        start: Sequence[Any] = (),
        top: int = 1,
    ) -> None:
        if top < 1:
            raise ConfigError(explain("one parent or more", f"top={top}", "MutateIncumbent", "give top=1"))
        self.trials = Trials(space, seed=seed, direction=direction, initial=initial, start=start)
        self.top = top

    def ask(self) -> Any:
        """The candidate to score next."""
        return self.trials.ask(self._propose)

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """The score of a candidate; NaN says that it failed."""
        self.trials.tell(candidate, score, variance)

    def _propose(self, generator: np.random.Generator) -> Any:
        ranked = self.trials.ranked()
        first = int(generator.integers(min(self.top, len(ranked))))
        for parent in [ranked[first], *ranked[:first], *ranked[first + 1 :]]:
            children = self.trials.unknown_neighbours(parent.candidate)
            if children:
                return children[int(generator.integers(len(children)))]
        return self.trials.random_new(generator)
