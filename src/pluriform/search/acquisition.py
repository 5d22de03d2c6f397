"""Which candidate to try next, given beliefs about scores; higher is better, of scores and of acquisition alike."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pluriform.errors import ConfigError, explain
from pluriform.search.surrogate import Belief

__all__ = ["ACQUISITIONS", "Acquisition", "acquisition", "expected_improvement", "thompson", "upper_confidence_bound"]

Vector = NDArray[np.float64]
Acquisition = Callable[[Belief, float, np.random.Generator], Vector]
"""Of beliefs, the best score so far and a generator."""

ACQUISITIONS = ("ei", "thompson", "ucb")


def upper_confidence_bound(belief: Belief, beta: float | int = 2.576) -> Vector:
    """`mean + beta * deviation`; for costs this is the lower confidence bound with its sign turned.

    References:
        Auer, Cesa-Bianchi, Fischer 2002, Finite-time Analysis of the Multiarmed Bandit Problem.

    Example:
        >>> upper_confidence_bound(Belief(np.array([1.0]), np.array([2.0])), beta=0.5).tolist()
        [2.0]
    """
    return belief.mean + beta * belief.deviation


def expected_improvement(belief: Belief, best: float | int) -> Vector:
    """`E max(f - best, 0)` for a normal `f`: `s (u Phi(u) + phi(u))` with `u = (mean - best) / s`.

    References:
        Jones, Schonlau, Welch 1998, Efficient Global Optimization of Expensive Black-Box Functions.
    """
    from scipy.special import ndtr

    gap = belief.mean - best
    deviation = np.maximum(belief.deviation, 1e-300)
    u = np.clip(gap / deviation, -1e6, 1e6)
    value = deviation * (u * ndtr(u) + np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi))
    return np.where(belief.deviation > 0, value, np.maximum(gap, 0.0))


def thompson(belief: Belief, generator: np.random.Generator) -> Vector:
    """One draw from the marginal belief of every candidate, each by itself.

    References:
        White, Neiswanger, Savani 2021, BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture
        Search, arXiv:1910.11858 (independent Thompson sampling).
    """
    return belief.mean + belief.deviation * generator.standard_normal(len(belief.mean))


def acquisition(name: str, beta: float | int = 2.576) -> Acquisition:
    """An acquisition by name.

    Args:
        name: `"thompson"`, `"ucb"` or `"ei"`.
        beta: Of the confidence bound.

    Raises:
        ConfigError: Another name.
    """
    if name == "ucb":
        return lambda belief, _best, _generator: upper_confidence_bound(belief, beta)
    if name == "ei":
        return lambda belief, best, _generator: expected_improvement(belief, best)
    if name == "thompson":
        return lambda belief, _best, generator: thompson(belief, generator)
    raise ConfigError(explain(" or ".join(ACQUISITIONS), repr(name), "acquisition", "name one of them"))
