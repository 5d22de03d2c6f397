"""Selective prediction: the error that remains when the least confident samples are refused."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.axes import Scores

__all__ = ["RiskCoverage", "aurc", "risk_coverage"]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Selective risk against coverage, one entry a sample.

    Attributes:
        coverage: `k / n` for `k = 1..n`.
        risk: Mean error of the `k` most confident samples.
    """

    coverage: Tensor
    risk: Tensor


def risk_coverage(confidence: Scores, errors: Scores) -> RiskCoverage:
    """The risk-coverage curve; samples of equal confidence count with their mean error, whatever their order.

    Args:
        confidence: Higher is kept longer, shape `(batch,)`.
        errors: 1 for a wrong sample, 0 for a right one, shape `(batch,)`.
    """
    _, group, count = torch.unique(-confidence, return_inverse=True, return_counts=True)
    shared = torch.bincount(group, errors.double()) / count
    kept = torch.arange(1, len(errors) + 1, dtype=torch.float64)
    return RiskCoverage(kept / len(errors), shared.repeat_interleave(count).cumsum(0) / kept)


def aurc(confidence: Scores, errors: Scores) -> float:
    """Area under the risk-coverage curve: the mean of the selective risks over `k = 1..n`.

    References:
        Geifman, Uziel, El-Yaniv, 2019, Bias-reduced uncertainty estimation for deep neural classifiers,
        arXiv 1805.08206.
    """
    return float(risk_coverage(confidence, errors).risk.mean())
