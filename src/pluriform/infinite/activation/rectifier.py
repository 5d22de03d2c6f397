"""Rectifiers: ReLU, leaky ReLU, absolute value."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments, positive_root, safe_root

__all__ = ["Abrelu"]


@dataclass(frozen=True)
class Abrelu(Dual):
    """`negative * min(x, 0) + positive * max(x, 0)`: ReLU, leaky ReLU, absolute value, identity.

        K' = (a - b)^2 s / 2 pi + kappa q12,   kappa = (a^2 + b^2) / 2 - (a - b)^2 theta / 2 pi
        s = sqrt(q11 q22 - q12^2),             theta = atan2(s, q12)

    References:
        Cho & Saul 2009, Kernel Methods for Deep Learning (arc-cosine kernels).
        Tsuchida, Roosta-Khorasani, Gallagher 2018, arXiv:1711.09090 (leaky ReLU).
    """

    negative: float = 0.0
    positive: float = 1.0

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return self.negative * x.clamp(max=0) + self.positive * x.clamp(min=0)

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return (self.positive - self.negative) * positive_root(q) / math.sqrt(2 * math.pi)

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        a, b = self.negative, self.positive
        value, slope = _Bend.apply(q12, q11, q22, (a - b) ** 2 / (2 * math.pi), (a * a + b * b) / 2)
        return Moments(value, slope)

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself."""
        slope = (self.negative**2 + self.positive**2) / 2
        return Moments(slope * q, torch.full_like(q, slope))

    @property
    def odd(self) -> bool:
        """Only the identity."""
        return self.negative == self.positive


@dataclass(frozen=True, eq=False)
class _Arc:
    """`value = bend s + slope q12`, `slope = half - bend theta`, and `s`."""

    value: Tensor
    slope: Tensor
    root: Tensor


def _arc(q12: Tensor, q11: Tensor, q22: Tensor, bend: float, half: float) -> _Arc:
    norms = q11 * q22
    empty = norms <= 0
    root = safe_root(norms - q12 * q12, norms)
    theta = torch.atan2(root, torch.where(empty, 1.0, q12)) + torch.where(empty, math.pi / 2, 0.0)
    slope = torch.add(torch.full_like(theta, half), theta, alpha=-bend)
    return _Arc(torch.addcmul(bend * root, slope, q12), slope, root)


class _Bend(torch.autograd.Function):
    """The arc-cosine moments with their derivatives written out: half the passes over memory.

        dvalue = slope dq12 + bend s / 2 (dq11 / q11 + dq22 / q22)
        dslope = bend / s [dq12 - q12 / 2 (dq11 / q11 + dq22 / q22)]

    Derivatives by `1 / s` are 0 where `s` is.
    """

    @staticmethod
    def forward(ctx: Any, q12: Tensor, q11: Tensor, q22: Tensor, bend: float, half: float) -> tuple[Tensor, Tensor]:
        arc = _arc(q12, q11, q22, bend, half)
        ctx.save_for_backward(q12, q11, q22, arc.slope, arc.root)
        ctx.bend, ctx.half = bend, half
        ctx.set_materialize_grads(False)
        return arc.value, arc.slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        q12, q11, q22, slope, root = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives: through the formulas themselves
            arc = _arc(q12, q11, q22, ctx.bend, ctx.half)
            outputs = [part for part, g in zip((arc.value, arc.slope), gradients, strict=True) if g is not None]
            inputs = [q for q in (q12, q11, q22) if q.requires_grad]
            given = [g for g in gradients if g is not None]
            found = iter(torch.autograd.grad(outputs, inputs, given, create_graph=True, allow_unused=True))
            return *(next(found) if q.requires_grad else None for q in (q12, q11, q22)), None, None
        to_value, to_slope = gradients
        along = across = None
        if to_value is not None:
            along, across = to_value * slope, ctx.bend / 2 * to_value * root
        if to_slope is not None:
            tilt = to_slope * torch.where(root > 0, ctx.bend / root, 0.0)
            along = tilt if along is None else along + tilt
            across = -0.5 * tilt * q12 if across is None else across.addcmul_(tilt, q12, value=-0.5)
        sides = [
            _side(across, q) if needed else None
            for q, needed in zip((q11, q22), ctx.needs_input_grad[1:3], strict=True)
        ]
        return along if ctx.needs_input_grad[0] else None, *sides, None, None


def _side(across: Tensor | None, q: Tensor) -> Tensor | None:
    """The gradient for one variance: summed over what it was broadcast to, over the variance."""
    return None if across is None else across.sum_to_size(q.shape) * torch.where(q > 0, 1 / q, 0.0)
