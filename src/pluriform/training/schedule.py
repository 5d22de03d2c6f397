"""Learning-rate schedules, one factor a step."""

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_factor"]

Schedule = Literal["cosine", "step", "constant", "one-cycle"]

DROPS = (0.5, 0.75)  # "step" divides the rate by ten at these shares of the training.
ONE_CYCLE_START = 0.04  # "one-cycle" starts at this share of the peak.
ONE_CYCLE_RISE = 0.3


def learning_rate_factor(schedule: Schedule, step: int, steps: int, warmup: float = 0.0) -> float:
    """Factor on the peak learning rate at `step` of `steps`.

    A linear rise over the first `warmup` share of the steps, then with t in [0, 1) over the rest:
    cosine (1 + cos(pi t)) / 2; step 1, 0.1 from t = 0.5, 0.01 from t = 0.75; constant 1. One-cycle brings its own rise:
    cosine from 0.04 to 1 over 30 % of the steps, then cosine down to 0.

    Args:
        schedule: Which one.
        step: Steps done so far, from 0.
        steps: Steps of the whole training.
        warmup: Share of the steps for the rise; without effect on one-cycle.

    Returns:
        The factor, in (0, 1].

    References:
        Loshchilov, Hutter 2016, SGDR, arXiv:1608.03983; Smith, Topin 2017, Super-Convergence, arXiv:1708.07120.
    """
    if schedule == "one-cycle":
        rise = max(1, round(ONE_CYCLE_RISE * steps))
        if step < rise:
            return 1 - (1 - ONE_CYCLE_START) * _cosine(step / rise)
        return _cosine((step - rise) / max(1, steps - rise))
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    share = (step - rise) / max(1, steps - rise)
    if schedule == "cosine":
        return _cosine(share)
    return 0.1 ** sum(share >= drop for drop in DROPS) if schedule == "step" else 1.0


def _cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2
