"""Elementwise functions that a user wrote of several: as an expression, and as the moments of one nonlinearity."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual
from pluriform.infinite.activation.exponential import Exp, Gaussian
from pluriform.infinite.activation.named import dual_named
from pluriform.infinite.activation.pieces import Pieces
from pluriform.infinite.activation.scaled import Scaled
from pluriform.infinite.activation.series import Hermite
from pluriform.infinite.activation.trigonometric import Sine

__all__ = ["Composite", "Expression", "dual_of_expression"]

LARGEST_ERROR = 1e-4
MOST_ARGUMENTS = 64


@dataclass(frozen=True)
class Expression:
    """The unit, a number, or an operation on expressions.

    Attributes:
        name: `"unit"`, `"number"`, `"add"`, `"subtract"`, `"multiply"`, `"divide"`, or a function of torch.
        arguments: Of the operation.
        facts: Parameters of the function, by name; the value of a number.
    """

    name: str = "unit"
    arguments: tuple["Expression", ...] = ()
    facts: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def number(value: float) -> "Expression":
        """A constant."""
        return Expression("number", (), (("value", float(value)),))

    @property
    def value(self) -> float | None:
        """Of a number."""
        return dict(self.facts)["value"] if self.name == "number" else None

    @property
    def size(self) -> int:
        """Operations, numbers and units."""
        return 1 + sum(part.size for part in self.arguments)

    @property
    def bends(self) -> int:
        """How many functions it holds."""
        own = self.name not in ("unit", "number", "add", "subtract", "multiply", "divide", "neg")
        return own + sum(part.bends for part in self.arguments)

    @property
    def units(self) -> int:
        """How often the unit occurs."""
        return (self.name == "unit") + sum(part.units for part in self.arguments)

    def __call__(self, x: Tensor) -> Tensor:
        """Its value at `x`."""
        if self.name == "unit":
            return x
        if (number := self.value) is not None:
            return torch.full_like(x, number)
        parts = [part(x) for part in self.arguments]
        if self.name in ("add", "subtract", "multiply", "divide"):
            return getattr(torch, self.name)(*parts)
        if (dual := dual_named(self.name, dict(self.facts))) is not None:
            return dual.phi(parts[0])
        return getattr(torch, self.name)(parts[0], *(value for name, value in self.facts if name == "exponent"))


@dataclass(frozen=True)
class Composite(Hermite):
    """A smooth expression by its Hermite series."""

    expression: Expression = Expression()

    def phi(self, x: Tensor) -> Tensor:
        """The nonlinearity itself."""
        return self.expression(x)

    @property
    def odd(self) -> bool:
        """Whether the expression is odd, at many places."""
        x = torch.linspace(0.01, 6, 601, dtype=torch.float64)
        return bool(torch.allclose(self.phi(-x), -self.phi(x), rtol=1e-12, atol=1e-12))

    @property
    def kink(self) -> None:
        """None: expressions with kinks are refused, or piecewise polynomials."""
        return


def dual_of_expression(expression: Expression) -> Dual | None:
    """The moments of an expression: in closed form where we know it, by series where it is smooth, else `None`.

    Example:
        >>> x = Expression()
        >>> dual_of_expression(Expression("pow", (Expression("relu", (x,)),), (("exponent", 2),)))
        Piecewise(terms=((0.0, 2, 2.0),), base=(0.0,))
        >>> dual_of_expression(Expression("exp", (Expression("neg", (Expression("multiply", (x, x)),)),)))
        Gaussian(rate=1.0)
    """
    if expression.size > MOST_ARGUMENTS:
        return None
    if (pieces := Pieces.of(expression)) is not None:
        return pieces.dual()
    outer, shift, core = _peeled(expression)
    known = _function_of_affine(core)
    if known is not None:
        return _scaled(known, 1.0, outer, shift)
    if _kinked(expression):
        return None
    factors = _factors(expression)
    if len(factors) == 1 and (factor := factors.pop()) not in (0.0, 1.0):
        inner = dual_of_expression(_unscaled(expression))
        return None if inner is None else _scaled(inner, factor)
    series = Composite("expression", expression=expression)
    bound = series.error(torch.ones(1, dtype=torch.float64))
    return series if float(bound.value) <= LARGEST_ERROR and float(bound.slope) <= LARGEST_ERROR else None


def _factors(expression: Expression) -> set[float]:
    """What the unit is multiplied with, wherever it occurs."""
    if expression.name == "unit":
        return {1.0}
    if (factor := _factor(expression)) is not None:
        return {factor}
    return set().union(*(_factors(part) for part in expression.arguments))


def _factor(expression: Expression) -> float | None:
    """Of the unit times a number."""
    if expression.name not in ("multiply", "divide"):
        return None
    first, second = expression.arguments
    if first.name == "unit" and second.value is not None:
        return second.value if expression.name == "multiply" else 1 / (second.value or math.nan)
    return first.value if expression.name == "multiply" and second.name == "unit" else None


def _unscaled(expression: Expression) -> Expression:
    """The same function of the unit that is already multiplied."""
    if _factor(expression) is not None:
        return Expression()
    return replace(expression, arguments=tuple(_unscaled(part) for part in expression.arguments))


def _peeled(expression: Expression) -> tuple[float, float, Expression]:
    """Factor, constant, and what is left between."""
    outer, shift = 1.0, 0.0
    while True:
        name, parts = expression.name, expression.arguments
        numbers = [part.value for part in parts]
        if name == "neg":
            outer, expression = -outer, parts[0]
        elif name in ("add", "subtract") and numbers[1] is not None:
            shift, expression = shift + outer * (numbers[1] if name == "add" else -numbers[1]), parts[0]
        elif name in ("add", "subtract") and numbers[0] is not None:
            shift, outer, expression = shift + outer * numbers[0], outer if name == "add" else -outer, parts[1]
        elif name in ("multiply", "divide") and numbers[1] is not None:
            outer, expression = outer * (numbers[1] if name == "multiply" else 1 / numbers[1]), parts[0]
        elif name == "multiply" and numbers[0] is not None:
            outer, expression = outer * numbers[0], parts[1]
        else:
            return outer, shift, expression


def _function_of_affine(core: Expression) -> Dual | None:
    """Closed forms of `f(b x + c)`, and of exponentials of `a x^2 + c`."""
    if len(core.arguments) != 1 or (inside := Pieces.of(core.arguments[0])) is None or inside.knots:
        return None
    c, b, a = (*inside.coefficients[0], 0.0, 0.0)[:3]
    if len(inside.coefficients[0]) > 3 or (a and b):
        return None
    dual = dual_named(core.name, dict(core.facts))
    if isinstance(dual, Exp):
        factor = float(torch.tensor(dual.rate * c, dtype=torch.float64).exp())
        if a > 0:
            return None
        known: Dual = Gaussian(-a * dual.rate) if a else Exp(dual.rate * b)
        return _scaled(known, 1.0, factor)
    if a or dual is None:
        return None
    if isinstance(dual, Sine):
        return _scaled(Sine(dual.phase + c), b)
    return _scaled(dual, b) if c == 0 else None


def _scaled(dual: Dual, inner: float, outer: float = 1.0, shift: float = 0.0) -> Dual:
    """Between affine maps, where there are any."""
    if (outer, shift) == (1.0, 0.0) and inner == 1.0:
        return dual
    if isinstance(dual, Scaled) and inner == 1.0:
        return Scaled(dual.dual, dual.inner, outer * dual.outer, outer * dual.shift + shift)
    return Scaled(dual, inner, outer, shift)


def _kinked(expression: Expression) -> bool:
    """Whether a function in it bends sharply somewhere."""
    if expression.name not in ("unit", "number", "add", "subtract", "multiply", "divide"):
        dual = dual_named(expression.name, dict(expression.facts))
        pieces = Pieces.of(Expression(expression.name, (Expression(),), expression.facts))
        if pieces is not None:
            smooth = not pieces.knots
        else:
            smooth = dual is None or not (isinstance(dual, Hermite) and dual.kink)
        if not smooth:
            return True
    return any(_kinked(part) for part in expression.arguments)
