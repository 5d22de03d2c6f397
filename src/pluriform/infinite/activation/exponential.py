"""Exponentials of the unit and of its square."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments, gram_determinant

__all__ = ["Exp", "Gaussian"]


@dataclass(frozen=True)
class Exp(Dual):
    """`exp(rate x)`.

    K' = exp(rate^2 [(q11 + q22) / 2 + q12]),   kappa = rate^2 K'
    """

    rate: float = 1.0

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return torch.exp(self.rate * x)

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return torch.exp(self.rate**2 * q / 2)

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        value = torch.exp(self.rate**2 * ((q11 + q22) / 2 + q12))
        return Moments(value, self.rate**2 * value)


@dataclass(frozen=True)
class Gaussian(Dual):
    """`exp(-rate x^2)`, rate above 0.

    K' = 1 / D,   kappa = 4 rate^2 q12 / D^3,   D^2 = (1 + 2 rate q11)(1 + 2 rate q22) - 4 rate^2 q12^2

    References:
        Williams 1997, Computing with Infinite Networks.
    """

    rate: float = 1.0

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return torch.exp(-self.rate * x**2)

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return (1 + 2 * self.rate * q).rsqrt()

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        b = 2 * self.rate
        value = (1 + b * (q11 + q22) + b * b * gram_determinant(q12, q11, q22)).rsqrt()
        return Moments(value, b * b * q12 * value**3)

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself."""
        value = (1 + 4 * self.rate * q).rsqrt()
        return Moments(value, 4 * self.rate**2 * q * value**3)
