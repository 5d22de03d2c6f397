"""Reliability of stated confidences: diagram, expected calibration error, signed gap, temperature."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pluriform.axes import Labels, Probabilities, Scores
from pluriform.metrics.classification import correct, log_probabilities

__all__ = [
    "Reliability",
    "TEMPERATURE_RANGE",
    "calibration_gap",
    "confidence_bins",
    "ece",
    "fit_temperature",
    "reliability",
    "with_temperature",
]

TEMPERATURE_RANGE = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram; the columns have one entry a bin.

    Attributes:
        confidence: Mean of the largest probability in the bin; the middle of the bin where it is empty.
        accuracy: Share of correct samples in the bin; 0 where it is empty.
        count: Samples in the bin.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor

    @property
    def ece(self) -> float:
        """`sum_b (n_b / n) |accuracy_b - confidence_b|`."""
        return float(((self.accuracy - self.confidence).abs() * self.count).sum() / self.count.sum())


def confidence_bins(confidence: Scores, bins: int = 15, adaptive: bool = False) -> Tensor:
    """The bin of every confidence, int64.

    Args:
        confidence: Largest probability of every sample, in 0..1.
        bins: Number of bins.
        adaptive: Bins of equal mass instead of equal width; equal confidences always share a bin.

    Returns:
        Shape `(batch,)`; bins of equal width are open on the left, closed on the right.
    """
    if not adaptive:
        return (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    ordered = confidence.sort().values
    return torch.searchsorted(ordered, confidence.contiguous()) * bins // len(confidence)


def reliability(probabilities: Probabilities, labels: Labels, bins: int = 15, adaptive: bool = False) -> Reliability:
    """The reliability diagram of the most probable class.

    References:
        Guo, Pleiss, Sun, Weinberger, 2017, On calibration of modern neural networks, arXiv 1706.04599.
    """
    confidence = probabilities.double().amax(-1)
    index = confidence_bins(confidence, bins, adaptive)
    count = torch.bincount(index, minlength=bins).double()
    middle = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    share = count.clamp_min(1)
    mean = torch.bincount(index, confidence, bins) / share
    return Reliability(
        torch.where(count > 0, mean, middle), torch.bincount(index, correct(probabilities, labels), bins) / share, count
    )


def ece(probabilities: Probabilities, labels: Labels, bins: int = 15, adaptive: bool = False) -> float:
    """Expected calibration error over `bins` bins of equal width, or of equal mass when `adaptive`."""
    return reliability(probabilities, labels, bins, adaptive).ece


def calibration_gap(probabilities: Probabilities, labels: Labels) -> float:
    """Mean confidence minus accuracy: above 0 over-confident, below 0 under-confident."""
    return float((probabilities.double().amax(-1) - correct(probabilities, labels)).mean())


def with_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """`softmax(log p / T)`, in double precision."""
    return (log_probabilities(probabilities) / temperature).softmax(-1)


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """The temperature `T` that minimises `sum_i NLL_i(T) + log(T)^2 / 2`, `NLL_i` of `softmax(log p_i / T)`.

    The second term is a standard normal prior on `log T`. It weighs like a fraction of one sample, and keeps a handful
    of faultless validation samples from asking for certainty. Found by Brent's bounded search within
    `TEMPERATURE_RANGE`; 1.0 is kept where nothing is better.

    Args:
        probabilities: On validation samples.
        labels: Their classes.

    References:
        Guo, Pleiss, Sun, Weinberger, 2017, On calibration of modern neural networks, arXiv 1706.04599.
    """
    from scipy.optimize import minimize_scalar

    logs = log_probabilities(probabilities)

    def loss(log_temperature: float) -> float:
        terms = functional.cross_entropy(logs / math.exp(log_temperature), labels, reduction="sum")
        return float(terms) + log_temperature**2 / 2

    low, high = map(math.log, TEMPERATURE_RANGE)
    found: Any = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0
