"""Weights of finished trials: which are kept for children, for the end of the search and as what comes out of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pluriform.search.choice import feasible, score_of
from pluriform.search.journal import Trial
from pluriform.search.trial import WEIGHTS

__all__ = ["KeptWeights"]

KEPT = 20
"""Best trials whose weights are kept for children."""


@dataclass(frozen=True)
class KeptWeights:
    """The files of weights of a search.

    Args:
        folder: Of the trials.
        value: Of a finished trial: children are those of the best, and the best is trained on.
        max_latency: That the result may have.
    """

    folder: Path
    value: Callable[[Trial], float]
    max_latency: float | int | None = None

    def path(self, number: int) -> Path:
        """File of a trial."""
        return self.folder / f"{number:06d}" / WEIGHTS

    def usable(self, done: Sequence[Trial]) -> list[Trial]:
        """Finished trials whose weights are kept, and there: another budget may have kept others before."""
        numbers = self.numbers(done)
        return [trial for trial in done if trial.number in numbers and self.path(trial.number).exists()]

    def numbers(self, done: Sequence[Trial]) -> set[int]:
        """Of the start, the best by value, and those that may be trained on or come out: the best that are feasible."""
        fine = feasible(done, self.max_latency)
        found = (*self._ranked(done, self.value)[:KEPT], *self._ranked(fine, self.value)[:1])
        return {0, *(trial.number for trial in (*found, *self._ranked(fine, score_of)[:1]))}

    def prune(self, done: Sequence[Trial], needed: Iterable[int | None]) -> None:
        """Delete the others, but for those that trials under way need."""
        kept = self.numbers(done) | set(needed)
        for trial in done:
            if trial.number not in kept:
                self.path(trial.number).unlink(missing_ok=True)

    def _ranked(self, trials: Sequence[Trial], value: Callable[[Trial], float]) -> list[Trial]:
        return sorted(trials, key=lambda trial: (-value(trial), trial.number))
