"""A nonlinearity between affine maps of a unit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments

__all__ = ["Scaled"]


@dataclass(frozen=True)
class Scaled(Dual):
    """`outer phi(inner x) + shift`.

        K'    = outer^2 K_phi + outer shift (m1 + m2) + shift^2
        kappa = (outer inner)^2 kappa_phi              all at `inner^2` times the moments

    Attributes:
        dual: Of `phi`.
        inner: Factor of the unit.
        outer: Factor of the value.
        shift: Added to the value.
    """

    dual: Dual
    inner: float = 1.0
    outer: float = 1.0
    shift: float = 0.0

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return self.outer * self.dual.phi(self.inner * x) + self.shift

    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]`."""
        return self.outer * self.dual.mean(self.inner**2 * q) + self.shift

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        square = self.inner**2
        known = self.dual.moments(square * q12, square * q11, square * q22)
        means = (self.dual.mean(square * q11) + self.dual.mean(square * q22)) if self.shift else 0.0
        value = self.outer**2 * known.value + self.outer * self.shift * means + self.shift**2
        return Moments(value, (self.outer * self.inner) ** 2 * known.slope)

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself."""
        square = self.inner**2
        known, mean = self.dual.own(square * q), self.dual.mean(square * q) if self.shift else 0.0
        value = self.outer**2 * known.value + 2 * self.outer * self.shift * mean + self.shift**2
        return Moments(value, (self.outer * self.inner) ** 2 * known.slope)

    @property
    def odd(self) -> bool:
        """Whether the function is, shift included: the logistic function less a half is."""
        x = torch.linspace(0.01, 6, 601, dtype=torch.float64)
        return bool(torch.allclose(self.phi(-x), -self.phi(x), rtol=1e-12, atol=1e-12))
