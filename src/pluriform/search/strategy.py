"""Ask and tell: a strategy proposes candidates of a space and is told their scores, in any order, some still pending.

What a strategy proposes is a function of its seed and of what it was asked and told so far, in that order. Each
proposal draws from its own generator, made of the seed and the number of candidates known (and of how often it was
asked in vain), so a strategy that is told an old history anew goes on as the one that lived through it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pluriform.errors import ConfigError, explain
from pluriform.search.space import Space, check_candidate, check_space, draw

__all__ = ["DIRECTIONS", "Observation", "Strategy", "Trials", "check_score"]

DIRECTIONS = {"maximize": 1.0, "minimize": -1.0}


@runtime_checkable
class Strategy(Protocol):
    """Proposes candidates; `ask` may be called several times before `tell`."""

    def ask(self) -> Any:
        """The candidate to score next; it counts as pending until it is told."""
        ...

    def tell(self, candidate: Any, score: float | int, /) -> None:
        """The score of a candidate, asked for or not; NaN says that it failed."""
        ...


@dataclass(frozen=True)
class Observation:
    """A scored candidate.

    Attributes:
        candidate: Of the space.
        score: As it was told.
        gain: The score with its sign turned so that higher is better.
        variance: Known variance of the evaluation, in squared units of the score.
        place: How many candidates had been told before it, failures counted.
    """

    candidate: Any
    score: float
    gain: float
    variance: float = 0.0
    place: int = 0


class Trials:
    """What a strategy was asked and told so far.

    Args:
        space: Where candidates live.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Candidates drawn at random before the strategy proposes, those of `start` counted.
        start: Candidates to propose first, in this order.

    Attributes:
        observed: Scored candidates in the order told, failures left out.
        pending: Candidates asked for and not yet told, in the order asked.
        failed: Candidates whose score was told as NaN.

    Raises:
        ConfigError: An unknown direction, a negative number, or an object that is no space.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        direction: str = "maximize",
        initial: int = 10,
        start: Sequence[Any] = (),
    ) -> None:
        check_space(space)
        if direction not in DIRECTIONS:
            expected = " or ".join(f'"{name}"' for name in DIRECTIONS)
            raise ConfigError(explain(expected, repr(direction), "direction of a search", "name one of them"))
        if initial < 0 or seed < 0:
            got = f"initial {initial}, seed {seed}"
            raise ConfigError(explain("numbers of 0 or more", got, "search strategy", "give other numbers"))
        self.space, self.seed, self.direction, self.initial = space, seed, direction, max(initial, len(start))
        self.start = list(start)
        self.observed: list[Observation] = []
        self.pending: dict[Any, None] = {}
        self.failed: dict[Any, None] = {}
        self._scores: dict[Any, float] = {}
        self._asked: tuple[tuple[int, ...], int] = ((), 0)  # What was known, and asks since then.

    def __len__(self) -> int:
        """Candidates scored, failed or pending."""
        return len(self.observed) + len(self.failed) + len(self.pending)

    def ask(self, propose: Callable[[np.random.Generator], Any]) -> Any:
        """The next candidate: of `start`, then at random, then from `propose`; it is pending from now on."""
        generator = self.generator()
        waiting = [candidate for candidate in self.start if candidate not in self]
        if waiting:
            candidate = waiting[0]
        elif len(self) < self.initial or not self.observed:
            candidate = self.random_new(generator)
        else:
            candidate = propose(generator)
        self.expect(candidate)
        return candidate

    def expect(self, candidate: Any) -> None:
        """Count a candidate as pending, as if it had been asked for: to resume a search with trials under way."""
        if candidate not in self:
            self.pending[candidate] = None

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """Record a score; NaN or infinity counts as a failure, and a candidate told twice keeps its first score.

        Raises:
            ConfigError: A score that is no number, a variance that cannot be, or a candidate that is not hashable.
        """
        check_candidate(candidate)
        check_score(candidate, score, variance)
        self.pending.pop(candidate, None)
        if candidate in self._scores:
            return
        if not math.isfinite(score):
            self.failed[candidate] = None
            return
        self.failed.pop(candidate, None)
        gain = DIRECTIONS[self.direction] * float(score)
        self._scores[candidate] = gain
        place = len(self.observed) + len(self.failed)
        self.observed.append(Observation(candidate, float(score), gain, float(variance), place))

    def __contains__(self, candidate: Any) -> bool:
        """Whether it is scored, failed or pending."""
        check_candidate(candidate)
        return candidate in self._scores or candidate in self.pending or candidate in self.failed

    @contextmanager
    def without(self, candidates: Sequence[Any]) -> Iterator[None]:
        """As long as this lasts, these are not pending."""
        held = self.pending
        self.pending = {one: None for one in held if one not in candidates}
        try:
            yield
        finally:
            self.pending = held

    def gain(self, candidate: Any) -> float | None:
        """Its score with higher being better, or `None` where it has none."""
        return self._scores.get(candidate)

    @property
    def best(self) -> Observation | None:
        """The best scored candidate, the first of equals; `None` before the first score."""
        return max(self.observed, key=lambda one: one.gain, default=None)

    def ranked(self) -> list[Observation]:
        """Scored candidates, the best first, equals in the order told."""
        return sorted(self.observed, key=lambda one: -one.gain)

    def generator(self) -> np.random.Generator:
        """The generator of the next proposal, of the seed and of how many candidates are known.

        Where nothing has become known since the last one, it is another: what was proposed then was known already.
        """
        known = (len(self.observed), len(self.failed), len(self.pending))
        again = self._asked[1] + 1 if self._asked[0] == known else 0
        self._asked = (known, again)
        return np.random.default_rng([self.seed, len(self), again])

    def random_new(self, generator: np.random.Generator, attempts: int = 100) -> Any:
        """A random candidate that is not known yet; where `attempts` draws bring none, a neighbour of a scored one.

        A known candidate comes only where there is no such neighbour either.
        """
        candidate = draw(self.space, generator)
        for _ in range(attempts):
            if candidate not in self:
                return candidate
            candidate = draw(self.space, generator)
        if candidate not in self:
            return candidate
        near = (child for one in self.observed for child in self.unknown_neighbours(one.candidate))
        return next(near, candidate)

    def unknown_neighbours(self, candidate: Any) -> list[Any]:
        """The neighbours that are neither scored nor pending nor failed."""
        return [one for one in self.space.neighbours(candidate) if one not in self]


def check_score(candidate: Any, score: Any, variance: Any) -> None:
    """Refuse what is no number.

    Raises:
        ConfigError: The score is none, or the variance is negative or infinite.
    """
    try:
        math.isfinite(score)
        sound = 0 <= variance < math.inf
    except (TypeError, ValueError):
        sound = False
    if not sound:
        expected, got = "a number as score (NaN: it failed) and a variance of 0 or more", f"{score!r} and {variance!r}"
        remedy = "tell one finite number, or math.nan for a failure"
        raise ConfigError(explain(expected, got, f"tell of {candidate!r}"[:80], remedy))
