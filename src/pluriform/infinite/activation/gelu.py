"""The Gaussian error linear unit."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments, gram_determinant

__all__ = ["Gelu"]


@dataclass(frozen=True)
class Gelu(Dual):
    """`x Phi(x)`, the exact GELU.

    With `D^2 = (1 + q11)(1 + q22) - q12^2`, `psi = atan2(q12, D)` and `p = (1 + q11)(1 + q22)`:

        K'    = q12/4 + [(q12^2 + q11 q22 D^2) / (p D) + q12 psi] / 2 pi
        kappa = 1/4 + psi / 2 pi + q12 / (2 pi D) [1 / D^2 + (1 - q11 q22) / p + 1]

    References:
        Tsuchida, Pearce, van der Heide, Roosta, Gallagher 2020, arXiv:2002.08517.
    """

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return torch.nn.functional.gelu(x)

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return q / (2 * math.pi * (1 + q)).sqrt()

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        p = (1 + q11) * (1 + q22)
        square = 1 + q11 + q22 + gram_determinant(q12, q11, q22)
        root = square.sqrt()
        psi = torch.atan2(q12, root)
        value = q12 / 4 + ((q12**2 + q11 * q22 * square) / (p * root) + q12 * psi) / (2 * math.pi)
        bracket = 1 / square + (2 + q11 + q22) / p
        return Moments(value, 0.25 + psi / (2 * math.pi) + q12 * bracket / (2 * math.pi * root))
