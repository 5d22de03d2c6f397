"""Random search: every candidate is drawn at random. The line that every strategy has to beat."""

from collections.abc import Sequence
from typing import Any

from pluriform.search.space import Space
from pluriform.search.strategy import Trials

__all__ = ["RandomSearch"]


class RandomSearch:
    """Draw new candidates at random.

    Args:
        space: Where candidates live.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Taken for the sake of one signature; every draw is random.
        start: Candidates to propose first.

    Attributes:
        trials: What was asked and told.
    """

    def __init__(
        self, space: Space, *, seed: int = 0, direction: str = "maximize", initial: int = 10, start: Sequence[Any] = ()
    ) -> None:
        self.trials = Trials(space, seed=seed, direction=direction, initial=initial, start=start)

    def ask(self) -> Any:
        """The candidate to score next."""
        return self.trials.ask(self.trials.random_new)

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """The score of a candidate; NaN says that it failed."""
        self.trials.tell(candidate, score, variance)
