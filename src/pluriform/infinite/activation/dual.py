"""`Dual`: closed-form second moments of a nonlinearity.

    K' = E[phi(u) phi(v)]        Theta' = kappa Theta,  kappa = E[phi'(u) phi'(v)] = dK'/dq12

where `(u, v)` is a centred Gaussian pair with variances `q11`, `q22` and covariance `q12`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dual", "Moments", "gram_determinant", "positive_root", "safe_root"]


@dataclass(frozen=True, eq=False)
class Moments:
    """`value = E[phi(u) phi(v)]` and `slope = E[phi'(u) phi'(v)]`."""

    value: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Dual(ABC):
    """Second moments of one nonlinearity."""

    @abstractmethod
    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""

    @abstractmethod
    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs; the three broadcast."""

    @abstractmethod
    def mean(self, q: Tensor) -> Tensor:
        """`E[phi(u)]` at variance `q`."""

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself, at variance `q`: the one-argument form."""
        return self.moments(q, q, q)

    @property
    def odd(self) -> bool:
        """Whether `phi(-x) = -phi(x)`, so that the output has mean zero."""
        return False


def safe_root(square: Tensor, norms: Tensor) -> Tensor:
    """Square root that is 0, with derivative 0, where no more than rounding is left of a difference of `norms`.

    Equal inputs on both sides then give exactly 0 and not the root of a rounding error.
    """
    positive = square > 8 * torch.finfo(square.dtype).eps * norms
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def positive_root(q: Tensor) -> Tensor:
    """Square root of a variance, with derivative 0 at 0."""
    positive = q > 0
    return torch.where(positive, torch.where(positive, q, 1.0).sqrt(), 0.0)


def gram_determinant(q12: Tensor, q11: Tensor, q22: Tensor) -> Tensor:
    """`q11 q22 - q12^2`, 0 where no more than rounding is left; derivatives are those of the formula."""
    norms = q11 * q22
    square = norms - q12 * q12
    positive = square > 8 * torch.finfo(square.dtype).eps * norms
    return square - torch.where(positive, 0.0, square).detach()
