"""Local search: climb to the first better neighbour; at a local optimum start anew at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pluriform.search.space import Space
from pluriform.search.strategy import Trials

__all__ = ["LocalSearch"]


class LocalSearch:
    """First-improvement hill climbing with random restarts; the first climb begins at the best initial candidate.

    Where it stands is worked out from the scores in the order told, so it is the same after a resume.

    Args:
        space: Where candidates live.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Random candidates first.
        start: Candidates to propose first.

    Attributes:
        trials: What was asked and told.

    References:
        White et al. 2021, Exploring the Loss Landscape in Neural Architecture Search, arXiv:2005.02960.
    """

    def __init__(
        self, space: Space, *, seed: int = 0, direction: str = "maximize", initial: int = 10, start: Sequence[Any] = ()
    ) -> None:
        self.trials = Trials(space, seed=seed, direction=direction, initial=initial, start=start)
        self._known: dict[Any, float] = {}
        self._here: Any = None
        self._climbing = False

    def ask(self) -> Any:
        """The candidate to score next."""
        return self.trials.ask(self._propose)

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """The score of a candidate; NaN says that it failed."""
        self.trials.tell(candidate, score, variance)
        for one in self.trials.observed[len(self._known) :]:
            self._known[one.candidate] = one.gain
            better = not self._climbing or one.gain > self._known[self._here]
            if better and (self._climbing or len(self._known) > self.trials.initial):
                self._here, self._climbing = one.candidate, True
            elif not self._climbing and len(self._known) == self.trials.initial:
                self._here, self._climbing = max(self._known, key=lambda each: self._known[each]), True
            self._walk()
        self._walk()  # A failure may have been the last neighbour.

    def _walk(self) -> None:
        """Move to better neighbours that are scored already; leave a summit."""
        while self._climbing:
            neighbours = list(self.trials.space.neighbours(self._here))
            gains = [(self._known[one], one) for one in neighbours if one in self._known]
            better = [pair for pair in gains if pair[0] > self._known[self._here]]
            if better:
                self._here = max(better, key=lambda pair: pair[0])[1]
            else:
                unscored = any(one not in self._known and one not in self.trials.failed for one in neighbours)
                self._climbing = unscored
                return

    def _propose(self, generator: np.random.Generator) -> Any:
        children = self.trials.unknown_neighbours(self._here) if self._climbing else []
        if not children:
            return self.trials.random_new(generator)
        return children[int(generator.integers(len(children)))]
