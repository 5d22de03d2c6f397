"""Bootstrap intervals over the test set: many resamples at once, as counts instead of copied samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pluriform.metrics.detection import ScoreCounts

__all__ = ["Bootstrap", "Interval"]

ELEMENTS = 2_000_000
KEPT = 20_000_000
SCORE_GROUPS = 256


@dataclass(frozen=True)
class Interval:
    """A 95 % interval.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals from resamples of the test set.

    A resample is the vector of how often each sample was drawn, so a mean is one matrix product for all resamples
    together, and a rank statistic one cumulative sum.

    Attributes:
        seed: Source of every draw.
        resamples: How many.

    References:
        Efron, Tibshirani, 1993, An introduction to the bootstrap.
    """

    seed: int = 0
    resamples: int = 1000

    @property
    def words(self) -> str:
        """How the intervals are made, for `Measure.interval`."""
        return f"bootstrap over the test set, {self.resamples} resamples"

    def statistics(self, samples: int, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """A statistic of every resample.

        Args:
            samples: Size of the test set.
            statistic: Maps counts `(resample, samples)`, float32, each row summing to `samples`, to
                `(resample, statistics)`.

        Returns:
            Shape `(resamples, statistics)`.
        """
        draw = _kept_counts if samples * self.resamples <= KEPT else _counts
        return torch.cat([statistic(counts.float()) for counts in draw(self.seed, self.resamples, samples)])

    def means(self, terms: Tensor) -> list[Interval]:
        """Intervals of the mean of each column of `terms`, shape `(samples, statistics)`."""
        centre = terms.double().mean(0)
        rest = (terms.double() - centre).float()
        return self.intervals(self.statistics(len(terms), lambda counts: counts @ rest / len(terms)).double() + centre)

    def detection(self, counts: ScoreCounts, statistic: Callable[[ScoreCounts], Tensor]) -> list[Interval]:
        """Intervals of statistics of two samples that are redrawn independently.

        Scores are first merged into at most 256 groups of equal mass; what this shifts is taken back.

        Args:
            counts: Positives and negatives at every distinct score.
            statistic: Maps counts with a leading axis of resamples to `(resample, statistics)`.
        """
        coarse = counts.coarse(SCORE_GROUPS)
        generator = np.random.default_rng([self.seed, int(counts.positives.sum()), int(counts.negatives.sum())])
        redrawn = ScoreCounts(*(self._redraw(column, generator) for column in (coarse.positives, coarse.negatives)))
        shift = statistic(_alone(counts)) - statistic(_alone(coarse))
        return self.intervals(statistic(redrawn) + shift, 0.0, 1.0)

    def _redraw(self, counts: Tensor, generator: np.random.Generator) -> Tensor:
        total = int(counts.sum())
        return torch.from_numpy(generator.multinomial(total, counts.numpy() / total, self.resamples)).double()

    def intervals(self, statistics: Tensor, low: float = -np.inf, high: float = np.inf) -> list[Interval]:
        """The central 95 % of each column of `statistics`, kept within `low` and `high`."""
        levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
        ends = torch.quantile(statistics.double(), levels, dim=0).clamp(low, high)
        return [Interval(float(a), float(b)) for a, b in ends.T]


def _counts(seed: int, resamples: int, samples: int) -> Iterator[Tensor]:
    """How often each sample is drawn in each resample, uint8, a few resamples at a time."""
    generator = np.random.default_rng([seed, samples])
    rows = max(1, min(resamples, ELEMENTS // samples))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = torch.from_numpy(generator.integers(0, samples, (size, samples), dtype=np.int32)).long()
        drawn += torch.arange(size)[:, None] * samples
        yield torch.bincount(drawn.flatten(), minlength=size * samples).view(size, -1).byte()


@lru_cache(maxsize=1)
def _kept_counts(seed: int, resamples: int, samples: int) -> list[Tensor]:
    """The same, kept for the next figure over the same test set."""
    return list(_counts(seed, resamples, samples))


def _alone(counts: ScoreCounts) -> ScoreCounts:
    return ScoreCounts(counts.positives[None], counts.negatives[None])
