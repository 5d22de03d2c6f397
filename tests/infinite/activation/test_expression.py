"""Functions written in several operations: their value, and the closed form that is found."""

import math

import pytest
import torch
import torch.nn.functional as F

from pluriform.infinite.activation.exponential import Exp, Gaussian
from pluriform.infinite.activation.expression import Composite, Expression, dual_of_expression
from pluriform.infinite.activation.pieces import Pieces
from pluriform.infinite.activation.piecewise import Piecewise
from pluriform.infinite.activation.polynomial import Polynomial
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.scaled import Scaled

X = Expression()


def number(value):
    return Expression.number(value)


def call(name, argument, **facts):
    return Expression(name, (argument,), tuple(facts.items()))


def two(name, first, second):
    return Expression(name, (first, second))


FOUND = {
    "residual": (two("add", X, call("relu", X)), Abrelu, lambda x: x + F.relu(x)),
    "square": (two("multiply", X, X), Polynomial, lambda x: x * x),
    "cube of a rectifier": (call("pow", call("relu", X), exponent=3), Piecewise, lambda x: F.relu(x) ** 3),
    "triangle": (call("relu", two("subtract", number(1.0), call("abs", X))), Piecewise, lambda x: F.relu(1 - x.abs())),
    "signed square": (two("multiply", X, call("abs", X)), Piecewise, lambda x: x * x.abs()),
    "parabola above": (
        call("relu", two("subtract", two("multiply", X, X), number(1.0))),
        Piecewise,
        lambda x: F.relu(x * x - 1),
    ),
    "bell": (
        call("exp", call("neg", call("square", two("multiply", number(2.0), X)))),
        Gaussian,
        lambda x: (-4 * x * x).exp(),
    ),
    "growth": (call("exp", two("divide", X, number(2.0))), Exp, lambda x: (x / 2).exp()),
    "wave": (
        two("multiply", number(math.sqrt(2)), call("sin", two("add", two("multiply", number(2.0), X), number(0.5)))),
        Scaled,
        lambda x: math.sqrt(2) * torch.sin(2 * x + 0.5),
    ),
    "sigmoid of erf": (
        two("add", two("multiply", number(0.5), call("erf", two("divide", X, number(2.4)))), number(0.5)),
        Scaled,
        lambda x: 0.5 * torch.erf(x / 2.4) + 0.5,
    ),
    "quick gelu": (
        two("multiply", X, call("sigmoid", two("multiply", number(1.702), X))),
        Composite,
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "root": (call("sqrt", two("add", number(1.0), call("square", X))), Composite, lambda x: (1 + x * x).sqrt()),
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_what_is_found_is_the_function(name):
    expression, kind, phi = FOUND[name]
    dual = dual_of_expression(expression)
    x = torch.linspace(-4, 4, 401, dtype=torch.float64) + 1e-3
    assert isinstance(dual, kind)
    assert torch.allclose(expression(x), phi(x))
    assert torch.allclose(dual.phi(x), phi(x))
    assert dual.odd == bool(torch.allclose(phi(-x), -phi(x)))


@pytest.mark.parametrize("name", sorted(FOUND))
def test_moments_agree_with_a_large_sample(name):
    expression, _, phi = FOUND[name]
    z = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, v = 0.8 * z[0], 0.5 * z[0] + 0.6 * z[1]
    at = [torch.tensor([q], dtype=torch.float64) for q in (0.4, 0.64, 0.61)]
    dual = dual_of_expression(expression)
    products = phi(u) * phi(v)
    slack = 5 * float(products.std()) / 400_000**0.5
    assert float(dual.moments(*at).value) == pytest.approx(float(products.mean()), abs=slack)
    assert float(dual.own(at[1]).value) == pytest.approx(float((phi(u) ** 2).mean()), rel=0.02)
    assert float(dual.mean(at[1])) == pytest.approx(float(phi(u).mean()), abs=0.01)
    at[0].requires_grad_(True)
    moments = dual.moments(*at)
    (slope,) = torch.autograd.grad(moments.value.sum(), at[0])
    assert torch.allclose(slope, moments.slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "expression",
    [
        call("log", X),
        two("divide", number(1.0), X),
        call("exp", call("square", X)),
        call("tanh", call("relu", X)),
        call("gelu", call("abs", X)),
    ],
)
def test_what_has_no_moments_or_an_unknown_kink_is_not_found(expression):
    assert dual_of_expression(expression) is None


def test_pieces_merge_where_nothing_changes():
    absolute = two("add", call("relu", X), call("relu", call("neg", X)))
    assert dual_of_expression(absolute) == Abrelu(-1.0, 1.0)
    assert dual_of_expression(two("subtract", call("relu", X), call("relu", call("neg", X)))) == Polynomial((0.0, 1.0))
    nested = call("clamp", call("relu", X), min=None, max=6.0)
    assert Pieces.of(nested).knots == (0.0, 6.0)


def test_a_common_factor_of_the_unit_is_taken_out():
    bell = call("exp", call("neg", two("multiply", X, X)))
    wide = two("multiply", X, number(12.0))
    scaled = two("multiply", call("exp", call("neg", two("multiply", wide, wide))), call("sin", wide))
    dual, plain = dual_of_expression(scaled), dual_of_expression(two("multiply", bell, call("sin", X)))
    assert isinstance(dual, Scaled)
    assert dual.inner == 12.0
    q = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    small, large = dual.moments(*(q / 144).split(1)), plain.moments(*q.split(1))
    torch.testing.assert_close(small.value, large.value)
    torch.testing.assert_close(small.slope, 144 * large.slope)
