"""A Gaussian process over candidates: what a score will be, and how sure that is.

Scores are standardised; length scales, amplitude, linear weight and noise are fitted by marginal likelihood with weak
priors, from several fixed starts; the known variance of an evaluation adds to the noise of its own point. Pending
candidates are believed to get their posterior mean, which changes no mean and lowers the variance around them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pluriform.errors import SingularKernelError
from pluriform.gaussian_process.evidence import log_evidence
from pluriform.gaussian_process.exact import GaussianProcess, condition
from pluriform.search.kernel import Features, KernelScales, Pairs, covariance, pairs_of

__all__ = ["Belief", "Standardised", "Surrogate", "fit_scales", "fit_surrogate", "standardise"]

Vector = NDArray[np.float64]

LOG_PRIORS = {"length": (0.0, 1.0), "linear": (-1.0, 1.5), "amplitude": (0.0, 1.0), "noise": (math.log(0.05), 1.5)}
"""Mean and standard deviation of each scale's logarithm; lengths in units of the median distance of observations."""

FEW = 4
"""Below that many observations scales stay at the means of their priors."""


@dataclass(frozen=True, eq=False)
class Belief:
    """Prediction for some candidates, in units of the standardised scores.

    Attributes:
        mean: Posterior mean, `(candidates,)`.
        deviation: Posterior standard deviation of the score without noise, `(candidates,)`.
    """

    mean: Vector
    deviation: Vector


@dataclass(frozen=True, eq=False)
class Standardised:
    """Scores with zero mean and unit deviation.

    Attributes:
        values: `(gain - shift) / spread`, what lies far below lifted first.
        shift: Mean of the gains.
        spread: Their standard deviation; 1 where all are equal.
    """

    values: Vector
    shift: float
    spread: float


def standardise(gains: Vector, tail: float | int | None = 3.0) -> Standardised:
    """Zero mean and unit deviation; what lies far below the median is lifted first.

    Args:
        gains: Scores, higher is better.
        tail: Nothing counts as lower than so many times the distance from the median to the upper quartile below the
            median. Failed trainings are far worse than poor networks, and would take all of the scale. `None` lifts
            nothing.

    Example:
        >>> standardise(np.array([1.0, 3.0])).values.tolist()
        [-1.0, 1.0]
    """
    if tail is not None and len(gains) > 1:
        middle, upper = np.quantile(gains, [0.5, 0.75])
        if upper > middle:
            gains = np.maximum(gains, middle - tail * (upper - middle))
    shift, spread = float(gains.mean()), float(gains.std())
    spread = spread if spread > 1e-12 * max(1.0, float(np.abs(gains).max())) else 1.0
    return Standardised((gains - shift) / spread, shift, spread)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A Gaussian process conditioned on observed candidates.

    Attributes:
        process: On the Gram matrix of the observations.
        scales: Of the kernel.
        features: Coordinates of the observations.
        centres: Means of the coordinates, by part.
        spread: Mean square of centred coordinates.
        trend: Weights of the linear prior mean; the first is the constant.
    """

    process: GaussianProcess
    scales: KernelScales
    features: Features
    centres: Features
    spread: float
    trend: Vector

    def predict(self, features: Features, covariates: NDArray[np.float64] | None = None) -> Belief:
        """Mean and deviation at other candidates.

        Args:
            features: Their coordinates.
            covariates: What the prior mean is linear in, `(candidates, covariates)`.
        """
        cross = _covariance(pairs_of(features, self.features, self.centres, self.spread), self.scales)
        own = self.scales.amplitude * (1.0 + self.scales.linear * torch.from_numpy(self._own(features)))
        mean = self.process.mean(cross)[:, 0].numpy() + _trend(self.trend, covariates, len(cross))
        return Belief(mean, self.process.variance(cross, own).sqrt().numpy())

    def _own(self, features: Features) -> Vector:
        parts = zip(features, self.centres, strict=True)
        return np.array(sum(((x - c) ** 2).mean(1) for x, c in parts)) / self.spread


def fit_surrogate(
    features: Features,
    targets: Vector,
    *,
    scales: KernelScales,
    variances: Vector | None = None,
    covariates: NDArray[np.float64] | None = None,
    pending: Features | None = None,
    pending_covariates: NDArray[np.float64] | None = None,
) -> Surrogate:
    """Condition on observations at given scales.

    Args:
        features: Coordinates of the observations.
        targets: Standardised scores, `(n,)`.
        scales: Of the kernel, see `fit_scales`.
        variances: Known variance of each evaluation, in units of the standardised scores; none by default.
        covariates: What the prior mean is linear in, `(n, covariates)`; fitted by least squares.
        pending: Coordinates of candidates under way; believed to get their posterior mean.
        pending_covariates: Theirs.

    Returns:
        The conditioned process. Where the Gram matrix is singular, noise is raised tenfold until it is not.
    """
    trend = _least_squares(targets, covariates)
    residual = targets - _trend(trend, covariates, len(targets))
    centres, spread = _moments(features)
    process = _condition(features, residual, variances, scales, centres, spread)
    made = Surrogate(process, scales, features, centres, spread, trend)
    if pending is None or not len(pending[0]):
        return made
    believed = made.predict(pending, pending_covariates).mean - _trend(trend, pending_covariates, len(pending[0]))
    together = tuple(np.concatenate(both) for both in zip(features, pending, strict=True))
    noise = np.concatenate([np.zeros(len(targets)) if variances is None else variances, np.zeros(len(believed))])
    process = _condition(together, np.concatenate([residual, believed]), noise, scales, centres, spread)
    return Surrogate(process, scales, together, centres, spread, trend)


def fit_scales(
    features: Features,
    targets: Vector,
    *,
    variances: Vector | None = None,
    covariates: NDArray[np.float64] | None = None,
    linear: bool = True,
    start: KernelScales | None = None,
    iterations: int = 10,
) -> KernelScales:
    """Scales with the largest marginal likelihood times weak priors on their logarithms.

    Args:
        features: Coordinates of the observations.
        targets: Standardised scores, `(n,)`.
        variances: Known variance of each evaluation.
        covariates: What the prior mean is linear in.
        linear: Fit a linear term; without it its weight is 0.
        start: Scales to start from beside the fixed starts, for instance those of fewer observations.
        iterations: Most steps of L-BFGS from the best of the starts.
    """
    centres, spread = _moments(features)
    pairs = pairs_of(features, features, centres, spread)
    medians = [_median(part) for part in pairs.squared]
    prior = _prior(len(medians), linear)
    if len(targets) < FEW:
        return _scales(prior.means, medians, linear)
    residual = targets - _trend(_least_squares(targets, covariates), covariates, len(targets))
    objective = _Objective(pairs, residual, variances, medians, prior, linear)
    starts = [prior.means + np.array(shift) * prior.deviations for shift in _shifts(len(medians), linear)]
    if start is not None:
        starts = [_point(start, medians, linear), *starts[1::3]]
    first = min(starts, key=objective.value)
    from scipy.optimize import minimize

    bounds = [(m - 3 * s, m + 3 * s) for m, s in zip(prior.means, prior.deviations, strict=True)]
    options = {"maxiter": iterations}
    best = minimize(
        objective.both,
        np.clip(first, *np.transpose(bounds)),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    return _scales(best.x, medians, linear)


@dataclass(frozen=True, eq=False)
class _Prior:
    """Normal priors of the logarithms: lengths, linear weight where it is fitted, amplitude, noise."""

    means: Vector
    deviations: Vector


def _prior(parts: int, linear: bool) -> _Prior:
    names = ["length"] * parts + ["linear"] * linear + ["amplitude", "noise"]
    return _Prior(*(np.array([LOG_PRIORS[name][i] for name in names]) for i in range(2)))


def _shifts(parts: int, linear: bool) -> list[list[float]]:
    """Starts: short, middling and long scales, with little and with much noise."""
    rest = [0.0] * (linear + 1)
    return [[length] * parts + [*rest, noise] for length in (-1.0, 0.0, 1.0) for noise in (-1.5, 0.0, 1.0)]


@dataclass(frozen=True, eq=False)
class _Objective:
    """Minus the log posterior of the scales' logarithms."""

    pairs: Pairs
    targets: Vector
    variances: Vector | None
    medians: list[float]
    prior: _Prior
    linear: bool

    def value(self, point: Vector) -> float:
        with torch.no_grad():
            return float(self._of(torch.from_numpy(point)))

    def both(self, point: Vector) -> tuple[float, Vector]:
        variable = torch.from_numpy(point).requires_grad_()
        value = self._of(variable)
        if not value.requires_grad:
            return float(value), np.zeros_like(point)
        (slope,) = torch.autograd.grad(value, variable)
        return float(value.detach()), slope.numpy()

    def _of(self, point: torch.Tensor) -> torch.Tensor:
        parts = len(self.medians)
        lengths = point[:parts].exp() * torch.tensor(self.medians, dtype=torch.float64)
        weight = point[parts].exp() if self.linear else torch.zeros((), dtype=torch.float64)
        gram = covariance(self.pairs, lengths, weight, point[-2].exp())
        if self.variances is not None:
            gram = gram + torch.diag(torch.from_numpy(self.variances))
        penalty = (((point - torch.from_numpy(self.prior.means)) / torch.from_numpy(self.prior.deviations)) ** 2).sum()
        try:
            evidence = log_evidence(gram, torch.from_numpy(self.targets)[:, None], point[-1].exp())
        except SingularKernelError:
            return torch.tensor(1e10, dtype=torch.float64)
        return 0.5 * penalty - evidence


def _scales(point: Vector, medians: list[float], linear: bool) -> KernelScales:
    parts = len(medians)
    lengths = tuple(float(math.exp(p) * m) for p, m in zip(point[:parts], medians, strict=True))
    weight = float(math.exp(point[parts])) if linear else 0.0
    return KernelScales(lengths, weight, float(math.exp(point[-2])), float(math.exp(point[-1])))


def _point(scales: KernelScales, medians: list[float], linear: bool) -> Vector:
    lengths = [length / median for length, median in zip(scales.lengths, medians, strict=True)]
    rest = [scales.linear] * linear + [scales.amplitude, scales.noise]
    return np.log(np.maximum([*lengths, *rest], 1e-12))


def _median(squared: torch.Tensor) -> float:
    """Median distance between different observations; 1 where all coincide."""
    count = len(squared)
    above = squared[torch.triu(torch.ones(count, count, dtype=torch.bool), diagonal=1)]
    positive = above[above > 1e-12]
    return float(positive.median().sqrt()) if len(positive) else 1.0


def _moments(features: Features) -> tuple[Features, float]:
    centres = tuple(part.mean(0, keepdims=True) for part in features)
    spread = float(sum(((x - c) ** 2).mean() for x, c in zip(features, centres, strict=True)))
    return centres, spread if spread > 1e-12 else 1.0


def _covariance(pairs: Pairs, scales: KernelScales) -> torch.Tensor:
    return covariance(pairs, torch.tensor(scales.lengths, dtype=torch.float64), scales.linear, scales.amplitude)


def _condition(
    features: Features,
    targets: Vector,
    variances: Vector | None,
    scales: KernelScales,
    centres: Features,
    spread: float,
) -> GaussianProcess:
    gram = _covariance(pairs_of(features, features, centres, spread), scales)
    if variances is not None:
        gram = gram + torch.diag(torch.from_numpy(variances))
    noise = (scales.noise + 1e-8) * float(gram.diagonal().mean())
    for _ in range(12):
        try:
            return condition(gram, torch.from_numpy(targets)[:, None], noise)
        except SingularKernelError:
            noise = 10.0 * noise
    return condition(gram, torch.from_numpy(targets)[:, None], noise)


def _least_squares(targets: Vector, covariates: NDArray[np.float64] | None) -> Vector:
    """Constant and slopes of the prior mean.

    Slopes have a standard normal prior, as has the noise of the scores: two networks of nearly equal size say nothing
    about one that is ten times as large.
    """
    if covariates is None or not covariates.shape[1]:
        return np.array([targets.mean()]) if len(targets) else np.zeros(1)
    design = np.concatenate([np.ones((len(targets), 1)), covariates], axis=1)
    shrink = np.diag(np.array([0.0] + [1.0] * covariates.shape[1], dtype=np.float64))
    gram = design.T @ design + shrink + 1e-12 * np.eye(len(shrink))
    return np.asarray(np.linalg.solve(gram, design.T @ targets), dtype=np.float64)


def _trend(weights: Vector, covariates: NDArray[np.float64] | None, count: int) -> Vector:
    constant = np.full(count, weights[0])
    return constant if covariates is None or len(weights) == 1 else constant + covariates @ weights[1:]
