"""Regression: root mean squared error, Gaussian log-likelihood and the coverage of central intervals."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["covered", "fit_noise", "fit_scale", "gaussian_nll_terms", "normal_quantile", "rmse", "squared_errors"]

Values = Float[Tensor, "batch outputs"]
Terms = Float[Tensor, "batch"]


def squared_errors(mean: Values, targets: Values) -> Terms:
    """Squared error of every sample, averaged over its outputs, in squared target units."""
    return (mean.double() - targets.double()).square().mean(-1)


def rmse(mean: Values, targets: Values) -> float:
    """Root of the mean squared error, in target units."""
    return float(squared_errors(mean, targets).mean().sqrt())


def gaussian_nll_terms(mean: Values, variance: Values, targets: Values) -> Terms:
    """`(log(2 pi v) + (y - m)^2 / v) / 2` in nats, averaged over the outputs of each sample.

    Args:
        mean: Predictive means.
        variance: Of the predictive distribution, noise included, above 0.
        targets: What was observed.
    """
    v = variance.double()
    return ((2 * math.pi * v).log() + (targets.double() - mean.double()).square() / v).mean(-1) / 2


def normal_quantile(level: float) -> float:
    """Half-width, in standard deviations, of the central interval that holds the share `level` of a Gaussian."""
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))


def covered(mean: Values, variance: Values, targets: Values, level: float) -> Terms:
    """Share of a sample's outputs inside the central Gaussian interval of probability `level`."""
    half = normal_quantile(level) * variance.double().sqrt()
    return ((targets.double() - mean.double()).abs() <= half).double().mean(-1)


def fit_noise(mean: Values, variance: Values, targets: Values) -> float:
    """The noise variance that, added to `variance`, maximises the Gaussian likelihood; fit it on validation samples.

    Args:
        mean: Predictive means.
        variance: Of the latent means; 0 where the form knows none.
        targets: What was observed.

    Returns:
        Variance in squared target units, at least 1e-9 of the mean squared error.
    """
    from scipy.optimize import minimize_scalar

    scale = max(float(squared_errors(mean, targets).mean()), torch.finfo(torch.float32).tiny)

    def loss(log_share: float) -> float:
        return float(gaussian_nll_terms(mean, variance.double() + scale * math.exp(log_share), targets).mean())

    found: Any = minimize_scalar(
        loss, bounds=(math.log(1e-9), math.log(10.0)), method="bounded", options={"xatol": 1e-5}
    )
    return scale * math.exp(float(found.x))


def fit_scale(mean: Values, variance: Values, targets: Values) -> float:
    """The factor on all variances of greatest Gaussian likelihood: `mean((y - m)^2 / v)`; 1 where that is 0.

    Above 1 the stated variances are too small, below 1 too large. Fit it on validation samples.
    """
    return float(((targets.double() - mean.double()).square() / variance.double()).mean()) or 1.0
