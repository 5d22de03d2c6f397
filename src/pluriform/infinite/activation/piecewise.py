"""Piecewise polynomials: hard tanh, ReLU6, hard swish, shrinkage, clamps, steps, powers of rectifiers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments
from pluriform.infinite.activation.orthant import TruncatedPair, truncated_mean
from pluriform.infinite.activation.polynomial import Polynomial

__all__ = ["Piecewise"]


@dataclass(frozen=True)
class Piecewise(Dual):
    """`sum_j base_j x^j + sum_i c_i (x - a_i)_+^k_i / k_i!`.

    Products of two terms have closed forms with the orthant probability of a Gaussian pair, so that the moments are
    exact up to rounding for every correlation. The slope leaves out the delta functions of jumps (`k = 0`), as
    automatic differentiation does.

    Attributes:
        terms: `(a, k, c)` of every term: knot, power, factor.
        base: Coefficients of the polynomial on the far left, the constant first.

    Example:
        >>> relu6 = Piecewise(((0.0, 1, 1.0), (6.0, 1, -1.0)))
        >>> relu6.phi(torch.tensor([-1.0, 2.0, 9.0]))
        tensor([0., 2., 6.])
    """

    terms: tuple[tuple[float, int, float], ...]
    base: tuple[float, ...] = ()

    @staticmethod
    def clamp(low: float, high: float, factor: float = 1.0) -> "Piecewise":
        """`factor min(max(x, low), high)`; either side may be infinite."""
        ends = [(low, 1, factor)] if math.isfinite(low) else []
        ends += [(high, 1, -factor)] if math.isfinite(high) else []
        return Piecewise(tuple(ends), (factor * low,) if math.isfinite(low) else (0.0, factor))

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        value = Polynomial(self.base).phi(x)
        for knot, power, factor in self.terms:
            part = (x > knot).to(x.dtype) if power == 0 else (x - knot).clamp(min=0) ** power / math.factorial(power)
            value = value + factor * part
        return value

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return Polynomial(self.base).mean(q) + self._mean(q, 0)

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        pairs = {(a, b): TruncatedPair(q12, q11, q22, a, b) for a, _ in self._by_knot() for b, _ in self._by_knot()}
        value, derivative = self._product_mean(q12, q11, q22, pairs), self._derivative()
        return Moments(value, derivative._product_mean(q12, q11, q22, pairs))

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself: one-dimensional integrals, piece by piece."""
        square, slope = self._square(), self._derivative()._square()
        return Moments(square.mean(q), slope.mean(q))

    @property
    def odd(self) -> bool:
        """Whether the pieces mirror each other."""
        x = torch.linspace(0.01, 10 + max((abs(knot) for knot, *_ in self.terms), default=0), 977, dtype=torch.float64)
        return bool(torch.allclose(self.phi(-x), -self.phi(x), rtol=1e-12, atol=1e-12))

    def _mean(self, q: Tensor, derivative: int) -> Tensor:
        """Mean of a derivative of the terms, delta functions included."""
        total = torch.zeros_like(q)
        for knot, power, factor in self.terms:
            total = total + factor * truncated_mean(power - derivative, q, knot)
        return total

    def _product_mean(
        self, q12: Tensor, q11: Tensor, q22: Tensor, pairs: Mapping[tuple[float, float], TruncatedPair]
    ) -> Tensor:
        """`E[phi(u) phi(v)]`: the polynomial with itself and with each term, and each term with each."""
        base = Polynomial(self.base)
        value = base.moments(q12, q11, q22).value
        for order in range(len(self.base)):
            mixed = base.derivative_mean(order, q11) * self._mean(q22, order)
            mixed = mixed + base.derivative_mean(order, q22) * self._mean(q11, order)
            value = value + q12**order / math.factorial(order) * mixed
        for a, knots in self._by_knot():
            for b, others in self._by_knot():
                for k, c in knots:
                    for m, d in others:
                        value = value + c * d * pairs[a, b].moment(k, m)
        return value

    def _by_knot(self) -> list[tuple[float, list[tuple[int, float]]]]:
        knots = sorted({knot for knot, *_ in self.terms})
        return [(knot, [(power, factor) for at, power, factor in self.terms if at == knot]) for knot in knots]

    def _derivative(self) -> "Piecewise":
        lower = tuple((knot, power - 1, factor) for knot, power, factor in self.terms if power)
        return Piecewise(lower, tuple(j * c for j, c in enumerate(self.base))[1:])

    def _square(self) -> "_Pieces":
        return _Pieces.of(self)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The square of a piecewise polynomial: coefficients of every piece.

    Attributes:
        knots: Between pieces, rising.
        coefficients: Of each piece, the constant first.
    """

    knots: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(function: Piecewise) -> "_Pieces":
        """The square of a function."""
        knots = tuple(sorted({knot for knot, *_ in function.terms}))
        piece = list(function.base) or [0.0]
        squares = [_squared(piece)]
        for knot in knots:
            for at, power, factor in function.terms:
                if at == knot:
                    piece = _added(piece, [factor * c for c in _shifted_power(knot, power)])
            squares.append(_squared(piece))
        return _Pieces(knots, tuple(map(tuple, squares)))

    def mean(self, q: Tensor) -> Tensor:
        """Its mean at variance `q`: the first piece everywhere, then what each knot changes."""
        total = _full_mean(self.coefficients[0], q)
        for knot, before, after in zip(self.knots, self.coefficients, self.coefficients[1:], strict=False):
            change = _added(list(after), [-c for c in before])
            total = total + _upper_mean(change, q, knot)
        return total


def _full_mean(coefficients: tuple[float, ...], q: Tensor) -> Tensor:
    """Mean of a polynomial."""
    total = torch.zeros_like(q)
    for power in range(0, len(coefficients), 2):
        total = total + coefficients[power] * math.prod(range(1, power, 2)) * q ** (power // 2)
    return total


def _upper_mean(coefficients: list[float], q: Tensor, knot: float) -> Tensor:
    """`E[p(u) 1(u > knot)]`, the polynomial written around the knot."""
    total = torch.zeros_like(q)
    for power, coefficient in enumerate(_around(coefficients, knot)):
        if coefficient:
            total = total + coefficient * math.factorial(power) * truncated_mean(power, q, knot)
    return total


def _around(coefficients: list[float], knot: float) -> list[float]:
    """Coefficients in powers of `x - knot`."""
    return [
        sum(math.comb(j, i) * coefficient * knot ** (j - i) for j, coefficient in enumerate(coefficients) if j >= i)
        for i in range(len(coefficients))
    ]


def _shifted_power(knot: float, power: int) -> list[float]:
    """Coefficients of `(x - knot)^power / power!`."""
    return [math.comb(power, i) * (-knot) ** (power - i) / math.factorial(power) for i in range(power + 1)]


def _added(first: list[float], second: list[float]) -> list[float]:
    size = max(len(first), len(second))
    padded = [[*part, *[0.0] * (size - len(part))] for part in (first, second)]
    return [a + b for a, b in zip(*padded, strict=True)]


def _squared(piece: list[float]) -> list[float]:
    square = [0.0] * (2 * len(piece) - 1)
    for i, a in enumerate(piece):
        for j, b in enumerate(piece):
            square[i + j] += a * b
    return square
