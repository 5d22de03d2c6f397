"""Sine and cosine."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments

__all__ = ["Sine"]


@dataclass(frozen=True)
class Sine(Dual):
    """`sin(x + phase)`; a phase of pi/2 is the cosine.

    K' = [E- - cos(2 c) E+] / 2,   kappa = [E- + cos(2 c) E+] / 2,   E+- = exp(-+q12 - (q11 + q22) / 2)
    """

    phase: float = 0.0

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return torch.sin(x + self.phase)

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return math.sin(self.phase) * torch.exp(-q / 2)

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        mean = (q11 + q22) / 2
        turn, far = math.cos(2 * self.phase), torch.exp(-q12 - mean)
        near = torch.exp(_apart(q12 - mean, mean))
        above, below = -near * torch.expm1(-2 * q12.clamp(min=0)), far * torch.expm1(2 * q12.clamp(max=0))
        odd = torch.where(q12 >= 0, above, below)  # near - far, precise for small q12
        return Moments((odd + (1 - turn) * far) / 2, (odd + (1 + turn) * far) / 2)

    @property
    def odd(self) -> bool:
        """True for the sine itself."""
        return self.phase == 0.0


def _apart(gap: Tensor, mean: Tensor) -> Tensor:
    """A difference of moments that is 0 where no more than rounding is left; derivatives are those of the formula."""
    rounding = gap > -8 * torch.finfo(gap.dtype).eps * mean
    return gap - torch.where(rounding, gap, 0.0).detach()
