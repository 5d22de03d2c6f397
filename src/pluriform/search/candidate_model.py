"""What a strategy believes about candidates, kept up to date with its trials."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pluriform.errors import ConfigError, explain
from pluriform.search.kernel import EmbeddedDistance, FeatureMap, Features, KernelScales, OneHot, WeisfeilerLehman
from pluriform.search.space import Space
from pluriform.search.strategy import Trials
from pluriform.search.surrogate import Belief, Standardised, Surrogate, fit_scales, fit_surrogate, standardise

__all__ = ["CandidateModel", "Covariates", "KERNELS", "feature_map", "milestone"]

Covariates = Callable[[Any], Sequence[float]]
"""Numbers of a candidate in which the prior mean is linear, for instance the logarithm of its parameters; where the
observations differ by less than 1, they say little about candidates that differ by more."""

KERNELS = ("distance", "one-hot", "weisfeiler-lehman")


def feature_map(kernel: str, space: Space, seed: int = 0, marks: int = 100) -> FeatureMap:
    """Coordinates by name; `marks` landmarks of the distance.

    Raises:
        ConfigError: Another name, or a space without what the kernel needs.
    """
    if kernel == "distance":
        return EmbeddedDistance(space, seed=seed, marks=marks)
    if kernel == "one-hot":
        return OneHot(space)
    if kernel == "weisfeiler-lehman":
        return WeisfeilerLehman(space)
    raise ConfigError(explain(" or ".join(KERNELS), repr(kernel), "kernel of a search", "name one of them"))


def milestone(count: int) -> int:
    """The number of observations at which scales were last fitted: each is a quarter more than the one before.

    Example:
        >>> [milestone(count) for count in (3, 4, 5, 30, 150)]
        [3, 4, 5, 27, 121]
    """
    last = now = min(count, 4)
    while now <= count:
        last, now = now, now + max(1, now // 4)
    return last


@dataclass(frozen=True, eq=False)
class _State:
    """A conditioned process and what it was conditioned on."""

    known: tuple[int, tuple[Any, ...]]
    scores: Standardised
    surrogate: Surrogate


class CandidateModel:
    """A Gaussian process over the trials of a strategy; a function of what was told, in which order, and of the seed.

    Args:
        trials: What was asked and told.
        kernel: Coordinates of candidates.
        linear: Fit a linear term of the kernel.
        tail: See `standardise`.
        covariates: In which the prior mean is linear.
    """

    def __init__(
        self,
        trials: Trials,
        kernel: FeatureMap,
        *,
        linear: bool = True,
        tail: float | int | None = 3.0,
        covariates: Covariates | None = None,
    ) -> None:
        self.trials, self.kernel, self.linear, self.tail, self.covariates = trials, kernel, linear, tail, covariates
        self._scales: dict[int, KernelScales] = {}
        self._covariates: dict[Any, NDArray[np.float64]] = {}
        self._state: _State | None = None

    def predict(self, candidates: Sequence[Any]) -> Belief:
        """Beliefs about candidates, in units of the standardised scores, pending candidates taken into account."""
        state = self._conditioned()
        features = self.kernel.features(candidates, state.known[0])
        return state.surrogate.predict(features, self._covariates_of(candidates, state.known[0]))

    def predict_gain(self, candidates: Sequence[Any]) -> Belief:
        """Beliefs in units of the score, higher being better."""
        belief, scores = self.predict(candidates), self.standardised
        return Belief(scores.shift + scores.spread * belief.mean, scores.spread * belief.deviation)

    @property
    def standardised(self) -> Standardised:
        """Scores of all observations, as the process sees them."""
        return self._conditioned().scores

    @property
    def scales(self) -> KernelScales:
        """Scales of the kernel, as last fitted."""
        return self._conditioned().surrogate.scales

    def _conditioned(self) -> _State:
        observed, pending = self.trials.observed, tuple(self.trials.pending)
        known = (len(observed), pending)
        if self._state is None or self._state.known != known:
            self.kernel.observe([one.candidate for one in observed])
            scores, variances = self._targets(known[0])
            under_way = self.kernel.features(pending, known[0]) if pending else None
            surrogate = fit_surrogate(
                self._features(known[0]),
                scores.values,
                scales=self._scales_at(milestone(known[0])),
                variances=variances,
                covariates=self._covariates_of([one.candidate for one in observed], known[0]),
                pending=under_way,
                pending_covariates=self._covariates_of(pending, known[0]) if pending else None,
            )
            self._state = _State(known, scores, surrogate)
        return self._state

    def _scales_at(self, count: int) -> KernelScales:
        """Fitted on the first observations alone, so that they are the same after a resume."""
        if count not in self._scales:
            scores, variances = self._targets(count)
            candidates = [one.candidate for one in self.trials.observed[:count]]
            before = milestone(count - 1) if count > 4 else 0
            self._scales[count] = fit_scales(
                self._features(count),
                scores.values,
                variances=variances,
                covariates=self._covariates_of(candidates, count),
                linear=self.linear,
                start=self._scales_at(before) if before else None,
            )
        return self._scales[count]

    def _features(self, count: int) -> Features:
        return self.kernel.features([one.candidate for one in self.trials.observed[:count]], count)

    def _targets(self, count: int) -> tuple[Standardised, NDArray[np.float64] | None]:
        observed = self.trials.observed[:count]
        scores = standardise(np.array([one.gain for one in observed]), self.tail)
        variances = np.array([one.variance for one in observed]) / scores.spread**2
        return scores, variances if variances.any() else None

    def _covariates_of(self, candidates: Sequence[Any], count: int) -> NDArray[np.float64] | None:
        """Centred on the first `count` observations, and divided by their spread where it is more than one unit."""
        if self.covariates is None:
            return None
        observed = self._raw([one.candidate for one in self.trials.observed[:count]])
        spread = observed.std(0)
        return (self._raw(candidates) - observed.mean(0)) / np.maximum(spread, 1.0)

    def _raw(self, candidates: Sequence[Any]) -> NDArray[np.float64]:
        for one in candidates:
            if one not in self._covariates and self.covariates is not None:
                self._covariates[one] = np.asarray(self.covariates(one), dtype=np.float64).reshape(-1)
        return np.array([self._covariates[one] for one in candidates])
