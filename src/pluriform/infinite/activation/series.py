"""Hermite series: moments of any nonlinearity from coefficients that depend on one variance only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments, positive_root
from pluriform.infinite.activation.piecewise import Piecewise
from pluriform.infinite.activation.smooth import FUNCTIONS

__all__ = ["Hermite", "SeriesError", "derivative"]

MOST_TERMS = 512
COUNTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, MOST_TERMS)
PANELS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 13.0)
NODES = 32
HIGH = 0.9
CHUNK = 4096
LEAST = 1e-10
"""Slopes at variances below this are those at this one: the coefficients behind them would be rounding errors."""


@dataclass(frozen=True, eq=False)
class SeriesError:
    """Bounds on what truncation takes from a moment, relative to that of a unit with itself.

    Attributes:
        value: Of `E[phi(u) phi(v)]`.
        slope: Of `E[phi'(u) phi'(v)]`.
    """

    value: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Hermite(Dual):
    """Any nonlinearity by its Hermite series.

        K' = sum_l a_l(q11) a_l(q22) rho^l,      kappa = sum_l d_l(q11) d_l(q22) rho^l
        a_l(q) = E[phi(sqrt(q) z) h_l(z)],       d_l = sqrt((l + 1) / q) a_(l+1),     rho = q12 / sqrt(q11 q22)

    with normalised Hermite polynomials `h_l`. Where `phi` has a kink at 0, a piecewise polynomial with the same kink is
    taken off and its moments, known in closed form, are added, so that the series converges fast up to `rho = 1`. The
    number of terms is chosen from the largest variance so that `error` stays below the tolerance.

    Attributes:
        name: In `FUNCTIONS`.
        parameters: Of the function.
        tolerance: Of truncation, relative.

    References:
        O'Donnell 2014, Analysis of Boolean Functions, section 11.2 (Hermite expansions).
        Han, Zandieh, Lee, Novak, Xiao, Karbasi 2022, Fast Neural Kernel Embeddings for General Activations,
        arXiv:2209.04121.

    Example:
        >>> q = torch.tensor([2.0], dtype=torch.float64)
        >>> bool(Hermite("tanh").error(q).value < 1e-8)
        True
    """

    name: str
    parameters: tuple[float, ...] = ()
    tolerance: float = 1e-8

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return FUNCTIONS[self.name].phi(x, *self.parameters)

    @property
    def odd(self) -> bool:
        """Whether the function is odd."""
        return FUNCTIONS[self.name].odd

    @property
    def kink(self) -> Piecewise | None:
        """The piecewise polynomial that is taken off."""
        jumps = FUNCTIONS[self.name].jumps(*self.parameters)
        return Piecewise(tuple((0.0, k, jump) for k, jump in enumerate(jumps, 1) if jump)) if jumps else None

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        nodes, weights = _quadrature(q)
        return (self.phi(positive_root(q)[..., None] * nodes) * weights).sum(-1).to(q.dtype)

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself, by quadrature on both sides of 0."""
        nodes, weights = _quadrature(q)
        x = positive_root(q.double())[..., None] * nodes
        value, slope = self.phi(x) ** 2, derivative(self, x) ** 2
        return Moments(*((part * weights).sum(-1).to(q.dtype) for part in (value, slope)))

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs: few terms for all, and all terms for those of high correlation."""
        roots = tuple(positive_root(q.double()) for q in (q11, q22))
        rho, kink = _correlation(q12, q11, q22), self.kink
        most = torch.stack([q11.detach().max(), q22.detach().max()])
        count, few = self.terms(most), self.terms(most, HIGH)
        duals = (self,) if kink is None else (self, kink)
        pairs = [tuple(_coefficients(dual, root, count) for root in roots) for dual in duals]
        bends = [
            tuple(_slope_coefficients(dual, root, own) for root, own in zip(roots, pair, strict=True))
            for dual, pair in zip(duals, pairs, strict=True)
        ]
        value, slope = _sums(rho, pairs, bends, few)
        if few < count:
            high = rho.detach().abs() > HIGH
            value, slope = _with_high(value, slope, rho, pairs, bends, high)
        if kink is not None:
            closed = kink.moments(q12, q11, q22)
            value, slope = value + closed.value, slope + closed.slope
        return Moments(value, slope)

    def terms(self, q: Tensor, rho: float = 1.0) -> int:
        """Number of terms for variances up to the largest of `q` and correlations up to `rho`; fewer in float32."""
        if q.device.type == "meta":
            return COUNTS[0]
        wanted = max(self.tolerance, 8 * torch.finfo(q.dtype).eps)
        tails = torch.cat(self._tails(q.detach().max().reshape(1)), 1).amax(1)
        return next((count for count in COUNTS[:-1] if float(tails[count]) * rho**count <= wanted), MOST_TERMS)

    def error(self, q: Tensor) -> SeriesError:
        """Bounds on the truncation error between units of one variance, for any correlation.

        What the terms left out hold, up to the last that is ever computed, and how far all computed terms are from the
        one-dimensional integral at correlation 1, where the series converges slowest.
        """
        flat = q.detach().double().reshape(-1)
        last = min(self.terms(q), MOST_TERMS - 1)
        own, pairs = self.own(flat), self.moments(flat, flat, flat)
        bounds = [
            (tail[last] + (got / whole - 1).abs()).reshape(q.shape)
            for tail, got, whole in zip(
                self._tails(flat), (pairs.value, pairs.slope), (own.value, own.slope), strict=True
            )
        ]
        return SeriesError(*bounds)

    def _tails(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """What terms from each number on hold, `(terms, *q)`, relative to the whole (Cauchy-Schwarz)."""
        root = q.detach().double().clamp(min=LEAST).sqrt()
        whole, kink = self.own(root**2), self.kink
        full = _coefficients(self, root, MOST_TERMS)
        bent = torch.zeros_like(full) if kink is None else _coefficients(kink, root, MOST_TERMS)
        found = []
        for total, parts in ((whole.value, (full - bent, bent)), (whole.slope, _slopes((full - bent, bent), root))):
            rest, kinked = (part.square().flip(-1).cumsum(-1).flip(-1) for part in parts)
            found.append(((rest + 2 * (rest * kinked).sqrt()) / total[..., None]).movedim(-1, 0))
        return found[0], found[1]


def _slopes(parts: tuple[Tensor, Tensor], root: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.arange(parts[0].shape[-1], dtype=root.dtype, device=root.device).sqrt()
    first, second = (part * order / root[..., None] for part in parts)
    return first, second


def derivative(dual: Dual, x: Tensor) -> Tensor:
    """`phi'(x)`, differentiable where `x` is."""
    with torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(dual.phi(at).sum(), at, create_graph=x.requires_grad)
    return slope


def _correlation(q12: Tensor, q11: Tensor, q22: Tensor) -> Tensor:
    norms = q11 * q22
    return torch.where(norms > 0, q12 * torch.where(norms > 0, norms, 1.0).rsqrt(), 0.0)


def _coefficients(dual: Dual, root: Tensor, count: int) -> Tensor:
    """`a_l` at standard deviations `root`, `(*root, count)`."""
    nodes, _ = _quadrature(root)
    return dual.phi(root[..., None] * nodes) @ _basis(count).to(root.device)


Pair = tuple[Tensor, ...]


def _slope_coefficients(dual: Dual, root: Tensor, own: Tensor) -> Tensor:
    """`d_l` at standard deviations `root` with coefficients `own`, `(*root, count - 1)`."""
    least = math.sqrt(LEAST)
    if root.device.type != "meta" and float(root.detach().min()) < least:
        root = root.clamp(min=least)
        own = _coefficients(dual, root, own.shape[-1])
    order = torch.arange(1, own.shape[-1], dtype=torch.float64, device=root.device).sqrt()
    return own[..., 1:] * order / root[..., None]


def _sums(rho: Tensor, pairs: Sequence[Pair], bends: Sequence[Pair], count: int) -> tuple[Tensor, Tensor]:
    """Value and slope of the first pairs of coefficients, less those of the second where there are any."""
    value, slope = torch.zeros_like(rho), torch.zeros_like(rho)
    for sign, parts, slopes in zip((1, -1), pairs, bends, strict=False):
        value = value + sign * _PowerSum.apply(rho, *(part[..., :count].to(rho.dtype) for part in parts))
        slope = slope + sign * _PowerSum.apply(rho, *(part[..., :count].to(rho.dtype) for part in slopes))
    return value, slope


def _with_high(
    value: Tensor, slope: Tensor, rho: Tensor, pairs: Sequence[Pair], bends: Sequence[Pair], high: Tensor
) -> tuple[Tensor, Tensor]:
    """All terms where the correlation is high; entry by entry where that is rare."""
    count = pairs[0][0].shape[-1]
    chosen = high.expand(value.shape).nonzero(as_tuple=True)
    if len(chosen[0]) > value.numel() // 4:
        return _sums(rho, pairs, bends, count)
    for at in zip(*(index.split(CHUNK) for index in chosen), strict=True):
        some, bent = (
            [tuple(part.expand(*value.shape, part.shape[-1])[at] for part in parts) for parts in group]
            for group in (pairs, bends)
        )
        exact = _sums(rho[at], some, bent, count)
        value, slope = (whole.index_put(at, part) for whole, part in zip((value, slope), exact, strict=True))
    return value, slope


class _PowerSum(torch.autograd.Function):
    """`sum_l a_l b_l rho^l` by Horner's rule, keeping no intermediate sums for the gradient."""

    @staticmethod
    def forward(ctx: Any, rho: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(rho, a, b)
        return _horner(rho, a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        rho, a, b = ctx.saved_tensors
        order = torch.arange(1, a.shape[-1], dtype=a.dtype, device=a.device)
        along = gradient * _PowerSum.apply(rho, a[..., 1:] * order, b[..., 1:]) if a.shape[-1] > 1 else None
        sides: list[Tensor | None] = [None, None]
        for place, (own, other) in enumerate(((a, b), (b, a))):
            if ctx.needs_input_grad[place + 1]:
                parts, power = [], gradient
                for term in other.unbind(-1):
                    parts.append((power * term).sum_to_size(own.shape[:-1]))
                    power = power * rho
                sides[place] = torch.stack(parts, -1)
        return along, *sides


def _horner(rho: Tensor, a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros_like(rho) + a[..., -1] * b[..., -1]
    if torch.is_grad_enabled() and any(part.requires_grad for part in (rho, a, b)):
        for left, right in zip(a.unbind(-1)[-2::-1], b.unbind(-1)[-2::-1], strict=True):
            total = torch.addcmul(left * right, total, rho)
        return total
    for left, right in zip(a.unbind(-1)[-2::-1], b.unbind(-1)[-2::-1], strict=True):
        total.mul_(rho).addcmul_(left, right)
    return total


def _quadrature(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes of the standard normal distribution, and weights with its density."""
    nodes, weights = _nodes()
    density = weights * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    return torch.as_tensor(nodes, device=like.device), torch.as_tensor(density, device=like.device)


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre panels on both sides of 0, finer near it, where functions bend."""
    unit, weights = np.polynomial.legendre.leggauss(NODES)
    centres, halves = np.add(PANELS[1:], PANELS[:-1]) / 2, np.diff(PANELS) / 2
    right = (centres[:, None] + halves[:, None] * unit).ravel()
    along = (halves[:, None] * weights).ravel()
    return np.concatenate([-right[::-1], right]), np.concatenate([along[::-1], along])


@cache
def _basis(count: int) -> Tensor:
    """`h_l(z) p(z) weight`, `(nodes, count)`; the root of the density goes first so that nothing overflows."""
    nodes, weights = _nodes()
    half = np.exp(-(nodes**2) / 4) / math.sqrt(math.sqrt(2 * math.pi))
    columns = [half, nodes * half]
    for order in range(1, count - 1):
        columns.append((nodes * columns[-1] - math.sqrt(order) * columns[-2]) / math.sqrt(order + 1))
    return torch.as_tensor(np.stack(columns, 1) * (half * weights)[:, None])
