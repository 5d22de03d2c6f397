"""Polynomials, powers among them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments

__all__ = ["Polynomial"]


@dataclass(frozen=True)
class Polynomial(Dual):
    """`sum_k coefficients[k] x^k`.

        K' = sum_l q12^l / l! R_l(q11) R_l(q22),     kappa = sum_l q12^(l-1) / (l-1)! R_l(q11) R_l(q22)
        R_l(q) = E[phi^(l)(u)] = sum_i c_(2i+l) (2i+l)! / (2^i i!) q^i

    The powers have the moments `1, q12, 2 q12^2 + p, 6 q12^3 + 9 q12 p, ...` with `p = q11 q22`.
    """

    coefficients: tuple[float, ...]

    @staticmethod
    def power(exponent: int) -> "Polynomial":
        """`x^exponent`."""
        return Polynomial((0.0,) * exponent + (1.0,))

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        value = torch.zeros_like(x)
        for coefficient in reversed(self.coefficients):
            value = value * x + coefficient
        return value

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return self.derivative_mean(0, q)

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        value = self.derivative_mean(0, q11) * self.derivative_mean(0, q22) + torch.zeros_like(q12)
        slope, power = torch.zeros_like(value), torch.ones_like(q12)
        for order in range(1, len(self.coefficients)):
            both = self.derivative_mean(order, q11) * self.derivative_mean(order, q22)
            slope = slope + both * power / math.factorial(order - 1)
            power = power * q12
            value = value + both * power / math.factorial(order)
        return Moments(value, slope)

    def derivative_mean(self, order: int, q: Tensor) -> Tensor:
        """`R_l(q)`."""
        mean = torch.zeros_like(q)
        for i in reversed(range((len(self.coefficients) - 1 - order) // 2 + 1)):
            k = 2 * i + order
            mean = mean * q + self.coefficients[k] * math.factorial(k) / (2**i * math.factorial(i))
        return mean

    @property
    def odd(self) -> bool:
        """Whether all even coefficients are 0."""
        return not any(self.coefficients[::2])
