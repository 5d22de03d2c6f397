"""Truncated moments of a centred Gaussian pair `(u, v)`: what piecewise polynomials are made of.

    M_km = E[(u - a)_+^k / k!  (v - b)_+^m / m!]        T_m = E[(v - b)_+^m / m!]

The power 0 is the step and the power -1 the delta function. Integration by parts gives all from the orthant probability
`M_00 = P(u > a, v > b)` and from moments of `v` given `u = a`:

    k M_km = q11 M_(k-2)m + q12 M_(k-1)(m-1) - a M_(k-1)m
"""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.infinite.activation.dual import safe_root

__all__ = ["TruncatedPair", "orthant", "truncated_mean"]

NODES = 13


def truncated_mean(m: int, q: Tensor, b: Tensor | float) -> Tensor:
    """`T_m(b)` at variance `q`; the density at `b` for m = -1, its derivatives below."""
    q = q.clamp(min=torch.finfo(q.dtype).tiny ** 0.2)
    if m < -1:
        return ((m + 2) * truncated_mean(m + 2, q, b) + b * truncated_mean(m + 1, q, b)) / q
    if m == -1:
        return torch.exp(-(b**2) / (2 * q)) * (2 * math.pi * q).rsqrt()
    if m == 0:
        return torch.erfc(b * (2 * q).rsqrt()) / 2
    return (q * truncated_mean(m - 2, q, b) - b * truncated_mean(m - 1, q, b)) / m


@dataclass(frozen=True, eq=False)
class TruncatedPair:
    """The pair, and where it is cut.

    Attributes:
        q12: Covariance.
        q11: Variance of u.
        q22: Variance of v.
        a: Where u is cut.
        b: Where v is cut.
        known: Moments found so far.
    """

    q12: Tensor
    q11: Tensor
    q22: Tensor
    a: float
    b: float
    known: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def moment(self, k: int, m: int) -> Tensor:
        """`M_km`, k and m at least -1 but not both."""
        if (k, m) not in self.known:
            self.known[k, m] = self._derived(k, m)
        return self.known[k, m]

    def _derived(self, k: int, m: int) -> Tensor:
        if k == m == 0:
            return orthant(self.q12, self.q11, self.q22, self.a, self.b)
        if k == -1:
            return _given(m, self.q12, self.q11, self.q22, self.a, self.b)
        if m == -1:
            return _given(k, self.q12, self.q22, self.q11, self.b, self.a)
        if k == 0:
            total = self.q22 * self.moment(0, m - 2) + self.q12 * self.moment(-1, m - 1)
            return (total - self.b * self.moment(0, m - 1)) / m
        total = self.q11 * self.moment(k - 2, m) + self.q12 * self.moment(k - 1, m - 1)
        return (total - self.a * self.moment(k - 1, m)) / k


def _given(m: int, q12: Tensor, q11: Tensor, q22: Tensor, a: float, b: float) -> Tensor:
    """`E[delta(u - a) (v - b)_+^m / m!]`: the density of u at a, times a moment of v given `u = a`."""
    filled = torch.where(q11 > 0, q11, 1.0)
    left = safe_root(q11 * q22 - q12 * q12, q11 * q22) ** 2 / filled
    return truncated_mean(-1, q11, a) * truncated_mean(m, left, b - q12 * a / filled)


def orthant(q12: Tensor, q11: Tensor, q22: Tensor, a: float, b: float) -> Tensor:
    """`P(u > a, v > b)` to rounding, differentiable."""
    return _Orthant.apply(q12, q11, q22, a, b)


class _Orthant(torch.autograd.Function):
    """`dP/dq12` is the joint density, and `dP/dq11 = E[delta'(u - a) 1(v > b)] / 2`."""

    @staticmethod
    def forward(ctx: Any, q12: Tensor, q11: Tensor, q22: Tensor, a: float, b: float) -> Tensor:
        ctx.save_for_backward(q12, q11, q22)
        ctx.cuts = a, b
        return _probability(q12, q11, q22, a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        q12, q11, q22 = ctx.saved_tensors
        a, b = ctx.cuts
        density = _joint_density(q12, q11, q22, a, b)
        sides = [
            (gradient * _variance_slope(q12, one, other, here, there, density) if needed else None, one)
            for one, other, here, there, needed in (
                (q11, q22, a, b, ctx.needs_input_grad[1]),
                (q22, q11, b, a, ctx.needs_input_grad[2]),
            )
        ]
        reduced = [None if part is None else part.sum_to_size(q.shape) for part, q in sides]
        return (gradient * density).sum_to_size(q12.shape), *reduced, None, None


def _joint_density(q12: Tensor, q11: Tensor, q22: Tensor, a: float, b: float) -> Tensor:
    root = safe_root(q11 * q22 - q12 * q12, q11 * q22)
    filled = torch.where(root > 0, root, 1.0)
    exponent = (a * a * q22 - 2 * a * b * q12 + b * b * q11) / (2 * filled**2)
    return torch.where(root > 0, torch.exp(-exponent) / (2 * math.pi * filled), 0.0)


def _variance_slope(q12: Tensor, q11: Tensor, q22: Tensor, a: float, b: float, density: Tensor) -> Tensor:
    filled = torch.where(q11 > 0, q11, 1.0)
    return torch.where(q11 > 0, (a * _given(0, q12, q11, q22, a, b) - q12 * density) / (2 * filled), 0.0)


def _probability(q12: Tensor, q11: Tensor, q22: Tensor, a: float, b: float) -> Tensor:
    """By Owen's T function.

        P = [Q(h) + Q(k)] / 2 - T(h, a_h) - T(k, a_k) - 1/2 where h and k differ in sign
        h = a / sigma1,   k = b / sigma2

    References:
        Owen 1956, Tables for Computing Bivariate Normal Probabilities, Annals of Mathematical Statistics 27.
    """
    norms = q11 * q22
    root = safe_root(norms - q12 * q12, norms)
    theta = torch.atan2(root, torch.where(norms > 0, q12, 0.0)) + torch.where(norms > 0, 0.0, math.pi / 2)
    if a == 0 and b == 0:
        return (math.pi - theta) / (2 * math.pi)
    tiny = torch.finfo(norms.dtype).tiny * 1e20
    sigma1, sigma2 = q11.clamp(min=tiny).sqrt(), q22.clamp(min=tiny).sqrt()
    h, k = torch.broadcast_tensors(a / sigma1, b / sigma2)
    rho, sine = torch.cos(theta), torch.sin(theta).clamp(min=tiny)
    differ = (h < 0) != (k < 0)
    total = (_tail(h) + _tail(k)) / 2 - _owen(h, (k - rho * h) / sine) - _owen(k, (h - rho * k) / sine)
    return (total - torch.where(differ, 0.5, 0.0)).clamp(0, 1)


def _tail(x: Tensor) -> Tensor:
    return torch.erfc(x / math.sqrt(2)) / 2


def _owen(h: Tensor, ah: Tensor) -> Tensor:
    """Owen's T function of `h` and `a`, given as the product `a h`, which stays finite at h = 0."""
    sign = torch.where((h < 0) == (ah < 0), 1.0, -1.0)
    h, ah = h.abs(), ah.abs()
    steep = ah > h
    near = _owen_near(torch.where(steep, ah, h), torch.where(steep, h / ah, torch.where(h > 0, ah / h, 0.0)))
    far = (_tail(h) + _tail(ah)) / 2 - _tail(h) * _tail(ah) - near
    return sign * torch.where(steep, far, near)


def _owen_near(h: Tensor, a: Tensor) -> Tensor:
    """`T(h, a) = 1/2 pi integral_0^a exp(-h^2 (1 + x^2) / 2) / (1 + x^2) dx` for a in [0, 1], by Gauss-Legendre."""
    nodes, weights = _legendre()
    total = torch.zeros_like(h)
    half = -(h**2) / 2
    for node, weight in zip(nodes, weights, strict=True):
        square = 1 + (a * node) ** 2
        total = total + weight * torch.exp(half * square) / square
    return total * a / (2 * math.pi)


@cache
def _legendre() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return tuple(map(float, (nodes + 1) / 2)), tuple(map(float, weights / 2))
