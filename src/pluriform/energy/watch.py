"""Signs that the joint training runs away, or that what it had learned is gone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Watch"]

LIMITS = {"loss": 1e5, "cross_entropy": 100.0, "largest_score": 1e4, "input_gradient": 1e5, "reach": 100.0}
WINDOW = 200
ENOUGH = 50


@dataclass(frozen=True)
class _Drift:
    """How far a figure may be from its median: so many median absolute deviations, which count as at least `spread`."""

    deviations: float
    spread: float
    falls: bool  # Whether a fall counts too.


DRIFTS = {"gap": _Drift(30.0, 1.0, falls=True), "cross_entropy": _Drift(8.0, 0.1, falls=False)}


class Watch:
    """Looks at the figures of every step; a figure is one number a step, by name.

    `loss` must be finite and below 1e5; `cross_entropy`, of which guessing gives the logarithm of the number of
    classes, below 100; `largest_score` (of |log p(x)|, up to its constant) below 1e4; `input_gradient` below 1e5 and
    `reach` of the chains below 100, in units of [-1, 1]. The `gap` of the scores of data and chains must be within 30
    median absolute deviations, taken as at least 1, of its median over the last 200 good steps, and the cross-entropy
    at most 8 of its own, taken as at least 0.1, above its median: a step too far can leave a network that guesses
    and whose energies are quiet.

    Attributes:
        state: The last good gaps and cross-entropies in rings, NaN where there is none yet, and the number of good
            steps; changed in place.
    """

    def __init__(self) -> None:
        self.state = {name: torch.full((WINDOW,), math.nan, dtype=torch.float64) for name in DRIFTS}
        self.state["seen"] = torch.zeros((), dtype=torch.int64)

    def check(self, figures: Mapping[str, Tensor]) -> str | None:
        """What is wrong, in words, or `None`."""
        known = [name for name in (*LIMITS, "gap") if name in figures]
        values = torch.stack([figures[name].detach().float().mean() for name in known]).tolist()
        found = dict(zip(known, values, strict=True))
        watched = [name for name in DRIFTS if name in found]
        fault = self._limit(found) or next(filter(None, (self._drift(name, found[name]) for name in watched)), None)
        if fault is None and watched:
            for name in watched:
                self.state[name][int(self.state["seen"]) % WINDOW] = found[name]
            self.state["seen"] += 1
        return fault

    def _limit(self, found: Mapping[str, float]) -> str | None:
        for name, value in found.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            if abs(value) > LIMITS.get(name, math.inf):
                return f"{name} is {value:.3g}, above {LIMITS[name]:g}"
        return None

    def _drift(self, name: str, value: float) -> str | None:
        if int(self.state["seen"]) < ENOUGH:
            return None
        past, most = self.state[name], DRIFTS[name]
        past = past[~past.isnan()]
        if not len(past):
            return None
        median = float(past.median())
        spread = max(most.spread, float((past - median).abs().median()))
        away = value - median
        if (abs(away) if most.falls else away) <= most.deviations * spread:
            return None
        return f"{name} is {value:.3g}, {abs(away) / spread:.0f} deviations from its median {median:.3g}"
