"""The error function."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments, gram_determinant

__all__ = ["Erf"]


@dataclass(frozen=True)
class Erf(Dual):
    """`erf(x)`.

        K' = 2/pi atan2(2 q12, r),   kappa = 4 / (pi r),   r = sqrt((1 + 2 q11)(1 + 2 q22) - 4 q12^2)

    References:
        Williams 1997, Computing with Infinite Networks.
    """

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return torch.erf(x)

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return torch.zeros_like(q)

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        root = (1 + 2 * (q11 + q22) + 4 * gram_determinant(q12, q11, q22)).sqrt()
        return Moments(2 / math.pi * torch.atan2(2 * q12, root), 4 / (math.pi * root))

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself."""
        root = (1 + 4 * q).sqrt()
        return Moments(2 / math.pi * torch.atan2(2 * q, root), 4 / (math.pi * root))

    @property
    def odd(self) -> bool:
        """True."""
        return True
