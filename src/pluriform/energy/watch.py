"""Signs that the joint training runs away."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Watch"]

LIMITS = {"loss": 1e5, "cross_entropy": 100.0, "largest_score": 1e4, "input_gradient": 1e5, "reach": 100.0}
WINDOW = 200
ENOUGH = 50
DEVIATIONS = 30.0
LEAST_SPREAD = 1.0


class Watch:
    """Looks at the figures of every step; a figure is one number a step, by name.

    `loss` must be finite and below 1e5; `cross_entropy`, of which guessing gives the logarithm of the number of
    classes, below 100; `largest_score` (of |log p(x)|, up to its constant) below 1e4; `input_gradient` below 1e5 and
    `reach` of the chains below 100, in units of [-1, 1]; and the `gap` of the scores of data and chains within 30
    median absolute deviations, taken as at least 1, of its median over the last 200 steps.

    Attributes:
        gaps: The last gaps in a ring, NaN where there is none yet; changed in place.
        seen: Number of gaps taken in; changed in place.
    """

    def __init__(self) -> None:
        self.gaps = torch.full((WINDOW,), math.nan, dtype=torch.float64)
        self.seen = torch.zeros((), dtype=torch.int64)

    def check(self, figures: Mapping[str, Tensor]) -> str | None:
        """What is wrong, in words, or `None`."""
        known = [name for name in (*LIMITS, "gap") if name in figures]
        values = torch.stack([figures[name].detach().float().mean() for name in known]).tolist()
        found = dict(zip(known, values, strict=True))
        fault = self._limit(found) or self._drift(found.get("gap", 0.0))
        if fault is None and "gap" in found:
            self.gaps[int(self.seen) % WINDOW] = found["gap"]
            self.seen += 1
        return fault

    def _limit(self, found: Mapping[str, float]) -> str | None:
        for name, value in found.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            if abs(value) > LIMITS.get(name, math.inf):
                return f"{name} is {value:.3g}, above {LIMITS[name]:g}"
        return None

    def _drift(self, gap: float) -> str | None:
        if int(self.seen) < ENOUGH:
            return None
        past = self.gaps[~self.gaps.isnan()]
        median = float(past.median())
        spread = max(LEAST_SPREAD, float((past - median).abs().median()))
        if abs(gap - median) <= DEVIATIONS * spread:
            return None
        return f"gap is {gap:.3g}, {abs(gap - median) / spread:.0f} deviations from its median {median:.3g}"

    def forget(self) -> None:
        """Start anew, as after a roll-back."""
        self.gaps.fill_(math.nan)
        self.seen.zero_()
