"""Accuracy, negative log-likelihood and Brier score of class probabilities.

Each comes as a term for every sample (what a bootstrap reweights) and as the mean over samples in double precision.
"""

import torch
from torch import Tensor

from pluriform.axes import Labels, Members, Probabilities, Scores

__all__ = ["LOG_FLOOR", "accuracy", "brier", "brier_terms", "correct", "log_probabilities", "nll", "nll_terms"]

LOG_FLOOR = torch.finfo(torch.float32).tiny


def correct(probabilities: Probabilities, labels: Labels) -> Scores:
    """1 where the most probable class is the label, else 0."""
    return (probabilities.argmax(-1) == labels).double()


def log_probabilities(probabilities: Probabilities | Members) -> Tensor:
    """Natural logarithm in double precision; exact zeros are read as `LOG_FLOOR`, the smallest normal float32."""
    return probabilities.double().clamp_min(LOG_FLOOR).log()


def nll_terms(probabilities: Probabilities, labels: Labels) -> Scores:
    """`-log p_y` in nats; a probability of exactly 0 counts as 1.2e-38 (87.3 nats), nothing else is altered."""
    return -log_probabilities(probabilities.gather(1, labels[:, None])).squeeze(1)


def brier_terms(probabilities: Probabilities, labels: Labels) -> Scores:
    """`sum_c (p_c - 1[y = c])^2`, in 0..2, neither halved nor divided by the number of classes."""
    p = probabilities.double()
    return (p * p).sum(-1) - 2 * p.gather(1, labels[:, None]).squeeze(1) + 1


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of samples whose most probable class is the label."""
    return float(correct(probabilities, labels).mean())


def nll(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels in nats."""
    return float(nll_terms(probabilities, labels).mean())


def brier(probabilities: Probabilities, labels: Labels) -> float:
    """Mean Brier score.

    References:
        Brier, 1950, Verification of forecasts expressed in terms of probability.
    """
    return float(brier_terms(probabilities, labels).mean())
