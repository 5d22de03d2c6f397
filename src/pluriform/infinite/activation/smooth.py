"""Nonlinearities without an elementary closed form, by name, and their kinks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FUNCTIONS", "Shape"]

JUMPS = 4
"""Derivatives whose jumps are taken off at a kink: more converge faster, but grow too large at variances above 10."""


def _smooth(*_: float) -> tuple[float, ...]:
    return ()


@dataclass(frozen=True)
class Shape:
    """A function of a unit and of its parameters.

    Attributes:
        phi: The function.
        jumps: Jumps of its first, second, ... derivative at 0; none where it is smooth.
        odd: Whether `phi(-x) = -phi(x)`.
    """

    phi: Callable[..., Tensor]
    jumps: Callable[..., tuple[float, ...]] = _smooth
    odd: bool = False


def _exponential(alpha: float, scale: float, rate: float) -> tuple[float, ...]:
    """Jumps of `scale x` above 0 and `scale alpha (exp(rate x) - 1)` below."""
    slope = (scale * (1 - alpha * rate),)
    return slope + tuple(-scale * alpha * rate**k for k in range(2, JUMPS + 1))


SELU = 1.6732632423543772, 1.0507009873554805

FUNCTIONS: dict[str, Shape] = {
    "tanh": Shape(torch.tanh, odd=True),
    "sigmoid": Shape(torch.sigmoid),
    "softplus": Shape(lambda x, beta=1.0: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta),
    "silu": Shape(F.silu),
    "mish": Shape(F.mish),
    "logsigmoid": Shape(F.logsigmoid),
    "gelu_tanh": Shape(lambda x: F.gelu(x, approximate="tanh")),
    "tanhshrink": Shape(lambda x: x - torch.tanh(x), odd=True),
    "atan": Shape(torch.atan, odd=True),
    "asinh": Shape(torch.asinh, odd=True),
    "sinh": Shape(torch.sinh, odd=True),
    "cosh": Shape(torch.cosh),
    "expm1": Shape(torch.expm1),
    "elu": Shape(lambda x, alpha=1.0: F.elu(x, alpha), lambda alpha=1.0: _exponential(alpha, 1.0, 1.0)),
    "celu": Shape(lambda x, alpha=1.0: F.celu(x, alpha), lambda alpha=1.0: _exponential(alpha, 1.0, 1 / alpha)),
    "selu": Shape(F.selu, lambda: _exponential(*SELU, 1.0)),
    "softsign": Shape(
        F.softsign,
        lambda: tuple(math.factorial(k) * ((-1.0) ** (k - 1) - 1) for k in range(1, JUMPS + 1)),
        odd=True,
    ),
}
