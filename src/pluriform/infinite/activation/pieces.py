"""Algebra of piecewise polynomials: what sums, products and compositions of rectifiers, clamps and powers are."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import polynomial as P

from pluriform.infinite.activation.dual import Dual
from pluriform.infinite.activation.named import dual_named
from pluriform.infinite.activation.piecewise import Piecewise
from pluriform.infinite.activation.polynomial import Polynomial
from pluriform.infinite.activation.rectifier import Abrelu

if TYPE_CHECKING:
    from pluriform.infinite.activation.expression import Expression

__all__ = ["Pieces"]

MOST_KNOTS, HIGHEST_POWER = 12, 12
CLOSE = 1e-12
Coefficients = tuple[float, ...]


@dataclass(frozen=True)
class Pieces:
    """A polynomial between each two knots.

    Attributes:
        knots: Rising.
        coefficients: Of each piece from left to right, the constant first; one more than knots.
    """

    knots: tuple[float, ...]
    coefficients: tuple[Coefficients, ...]

    @staticmethod
    def of(expression: "Expression") -> "Pieces | None":
        """An expression as pieces, or `None` where it is something else or has too many."""
        found = _pieces(expression)
        if found is None or len(found.knots) > MOST_KNOTS:
            return None
        return found if all(len(piece) <= HIGHEST_POWER + 1 for piece in found.coefficients) else None

    @staticmethod
    def of_dual(dual: Dual | None) -> "Pieces | None":
        """A rectifier, a polynomial or pieces of them; `None` for others."""
        return _function(dual)

    def dual(self) -> Dual:
        """Its moments."""
        if not self.knots:
            return Polynomial(self.coefficients[0])
        terms = []
        for knot, before, after in zip(self.knots, self.coefficients, self.coefficients[1:], strict=False):
            change = _around(P.polysub(after, before), knot)
            scale = max(1.0, *(abs(c) for c in (*before, *after)))
            terms += [(knot, k, float(c) * math.factorial(k)) for k, c in enumerate(change) if abs(c) > CLOSE * scale]
        base = self.coefficients[0]
        lines = [(*piece, 0.0, 0.0)[:2] for piece in self.coefficients]
        if (
            self.knots == (0.0,)
            and all(len(piece) <= 2 for piece in self.coefficients)
            and not any(c for c, _ in lines)
        ):
            return Abrelu(*(slope for _, slope in lines))
        return Piecewise(tuple(terms), base)

    def joined(self, other: "Pieces", operation: Callable[..., np.ndarray]) -> "Pieces":
        """Piece by piece."""
        knots = _sorted([*self.knots, *other.knots])
        pieces = [operation(self.at(x), other.at(x)) for x in _inside(knots)]
        return _merged(knots, pieces)

    def composed(self, inner: "Pieces") -> "Pieces":
        """This function of another."""
        knots = list(inner.knots)
        edges = (-math.inf, *inner.knots, math.inf)
        for piece, (low, high) in zip(inner.coefficients, itertools.pairwise(edges), strict=True):
            for knot in self.knots:
                roots = P.polyroots(P.polysub(piece, [knot])) if len(piece) > 1 else np.array([])
                real = [float(root.real) for root in roots if abs(root.imag) < 1e-9]
                knots += [root for root in real if low < root < high]
        knots = _sorted(knots)
        pieces = []
        for x in _inside(knots):
            inside = inner.at(x)
            outside = self.at(float(P.polyval(x, inside)))
            total = np.zeros(1)
            for coefficient in reversed(outside):
                total = P.polyadd(P.polymul(total, inside), [coefficient])
            pieces.append(total)
        return _merged(knots, pieces)

    def at(self, x: float) -> Coefficients:
        """The piece around a point."""
        return self.coefficients[sum(knot < x for knot in self.knots)]


def _pieces(expression: "Expression") -> Pieces | None:
    if expression.name == "unit":
        return Pieces((), ((0.0, 1.0),))
    if (value := expression.value) is not None:
        return Pieces((), ((value,),))
    parts = [Pieces.of(part) for part in expression.arguments]
    first = parts[0]
    if first is None or parts[-1] is None:
        return None
    operations = {"add": P.polyadd, "subtract": P.polysub, "multiply": P.polymul}
    if expression.name in operations:
        return first.joined(parts[-1], operations[expression.name])
    if expression.name == "divide":
        divisor = expression.arguments[1].value
        return first.joined(Pieces((), ((1 / divisor,),)), P.polymul) if divisor else None
    if expression.name == "neg":
        return first.joined(Pieces((), ((-1.0,),)), P.polymul)
    outer = _function(dual_named(expression.name, dict(expression.facts)))
    return None if outer is None else outer.composed(first)


def _function(dual: Dual | None) -> Pieces | None:
    if isinstance(dual, Abrelu):
        return Pieces((0.0,), ((0.0, float(dual.negative)), (0.0, float(dual.positive))))
    if isinstance(dual, Polynomial):
        return Pieces((), (dual.coefficients,))
    if not isinstance(dual, Piecewise):
        return None
    knots = tuple(sorted({knot for knot, *_ in dual.terms}))
    pieces = [np.array(dual.base or (0.0,))]
    for knot in knots:
        piece = pieces[-1]
        for at, power, factor in dual.terms:
            if at == knot:
                piece = P.polyadd(piece, factor / math.factorial(power) * P.polypow([-knot, 1.0], power))
        pieces.append(piece)
    return Pieces(knots, tuple(tuple(map(float, piece)) for piece in pieces))


def _around(coefficients: np.ndarray, knot: float) -> np.ndarray:
    """Coefficients in powers of `x - knot`."""
    total = np.zeros(1)
    for coefficient in coefficients[::-1]:
        total = P.polyadd(P.polymul(total, [knot, 1.0]), [coefficient])
    return total


def _sorted(knots: list[float]) -> list[float]:
    kept: list[float] = []
    for knot in sorted(knots):
        if not kept or knot - kept[-1] > 1e-9 * max(1.0, abs(knot)):
            kept.append(knot + 0.0)
    return kept


def _inside(knots: list[float]) -> list[float]:
    """A point of every interval."""
    if not knots:
        return [0.5]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(knots)]
    return [knots[0] - 1, *middles, knots[-1] + 1]


def _merged(knots: list[float], pieces: list[np.ndarray]) -> Pieces:
    """Leave out knots where nothing changes."""
    trimmed = [tuple(map(float, P.polytrim(piece, CLOSE))) for piece in pieces]
    kept = [0, *(i + 1 for i in range(len(knots)) if not _same(trimmed[i], trimmed[i + 1]))]
    return Pieces(tuple(knots[i - 1] for i in kept[1:]), tuple(trimmed[i] for i in kept))


def _same(first: Coefficients, second: Coefficients) -> bool:
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=CLOSE, atol=CLOSE))
