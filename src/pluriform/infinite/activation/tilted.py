"""`x phi'(x)`: what a trained scale before a nonlinearity contributes."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual
from pluriform.infinite.activation.pieces import Pieces
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.series import Hermite, derivative

__all__ = ["Tilted", "tilted_dual"]

LARGEST_ERROR = 1e-4


@dataclass(frozen=True)
class Tilted(Hermite):
    """`x phi'(x)` of a smooth `phi`, by its Hermite series."""

    dual: Dual = field(default_factory=Abrelu)

    def phi(self, x: Tensor) -> Tensor:
        """The function itself."""
        return x * derivative(self.dual, x)

    @property
    def odd(self) -> bool:
        """Whether `phi` is odd."""
        return self.dual.odd

    @property
    def kink(self) -> None:
        """None: `phi` is smooth."""
        return


def tilted_dual(dual: Dual) -> Dual | None:
    """Moments of `x phi'(x)`, or `None` where `phi` is neither smooth nor a continuous piecewise polynomial.

    Example:
        >>> tilted_dual(Abrelu(0.1, 1.0))
        Abrelu(negative=0.1, positive=1.0)
    """
    if isinstance(dual, Abrelu):
        return dual
    if (pieces := Pieces.of_dual(dual)) is not None:
        slopes = tuple(tuple(np.polynomial.polynomial.polymulx(_slope(piece))) for piece in pieces.coefficients)
        return Pieces(pieces.knots, tuple(tuple(map(float, slope)) for slope in slopes)).dual()
    if isinstance(dual, Hermite) and dual.kink is not None:
        return None
    series = Tilted("tilted", dual=dual)
    bound = series.error(torch.ones(1, dtype=torch.float64))
    return series if float(bound.value) <= LARGEST_ERROR else None


def _slope(piece: tuple[float, ...]) -> np.ndarray:
    return np.polynomial.polynomial.polyder(piece)
