"""Moments of every nonlinearity against quadrature, split where it bends, and automatic differentiation."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pluriform.infinite.activation.erf import Erf
from pluriform.infinite.activation.exponential import Exp, Gaussian
from pluriform.infinite.activation.gelu import Gelu
from pluriform.infinite.activation.named import NAMED, dual_named
from pluriform.infinite.activation.piecewise import Piecewise
from pluriform.infinite.activation.polynomial import Polynomial
from pluriform.infinite.activation.series import Hermite
from pluriform.infinite.activation.trigonometric import Sine

TRIPLES = [(0.3, 1.0, 0.7), (-0.8, 1.5, 0.6), (1.2, 1.5, 1.1), (0.0, 0.5, 2.0), (2.9, 3.0, 3.1)]
FACTS = {
    "leaky_relu": {"negative_slope": 0.2},
    "rrelu": {"lower": 0.1, "upper": 0.3},
    "gelu": {"approximate": "tanh"},
    "pow": {"exponent": 3},
    "clamp": {"min": -0.5, "max": None},
    "hardtanh": {"min_val": -1.0, "max_val": 1.5},
    "softshrink": {"lambd": 0.4},
    "hardshrink": {"lambd": 0.4},
    "threshold": {"threshold": 0.3, "value": -0.7},
    "softplus": {"beta": 2.0},
    "elu": {"alpha": 0.7},
    "celu": {"alpha": 0.7},
}
WRITTEN = {
    "rrelu": lambda x: F.leaky_relu(x, 0.2),
    "pow": lambda x: x**3,
    "softplus": lambda x: torch.log1p(torch.exp(2 * x)) / 2,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "tanhshrink": lambda x: x - torch.tanh(x),
}
KINKS = {
    "relu6": (0.0, 6.0),
    "clamp": (-0.5,),
    "hardtanh": (-1.0, 1.5),
    "hardsigmoid": (-3.0, 3.0),
    "hardswish": (-3.0, 3.0),
    "softshrink": (-0.4, 0.4),
    "hardshrink": (-0.4, 0.4),
    "threshold": (0.3,),
}
JUMPS = {"sign", "hardshrink", "threshold"}


def written(name):
    """The function as PyTorch has it."""
    if name in WRITTEN:
        return WRITTEN[name]
    places = [place for place in (F, torch) if hasattr(place, name)]
    return lambda x: getattr(places[0], name)(x, **FACTS.get(name, {}))


def tensors(triple):
    return [torch.tensor([q], dtype=torch.float64) for q in triple]


def panels(cuts, nodes=24, reach=12.0, width=2.0):
    """Gauss-Legendre nodes on [-reach, reach] and weights of the normal density, all cuts (*, count) between panels."""
    unit, weights = np.polynomial.legendre.leggauss(nodes)
    cuts = np.clip(np.asarray(cuts, dtype=float), -reach, reach)
    fixed = np.arange(-reach, reach + 1e-9, width)
    edges = np.sort(np.concatenate([np.broadcast_to(fixed, (*cuts.shape[:-1], len(fixed))), cuts], -1))
    centres, halves = (edges[..., 1:] + edges[..., :-1]) / 2, np.diff(edges) / 2
    z = (centres[..., None] + halves[..., None] * unit).reshape(*cuts.shape[:-1], -1)
    w = (halves[..., None] * weights).reshape(z.shape)
    return z, w * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def brute(phi, q12, q11, q22, kinks=(0.0,)):
    """E[phi(u) phi(v)]: v given u inside, both split at the kinks."""
    rest, kinks = math.sqrt(q22 - q12**2 / q11), np.array(kinks)
    z, w = panels(np.concatenate([kinks / math.sqrt(q11), kinks * math.sqrt(q11) / q12 if q12 else []]))
    u = math.sqrt(q11) * z
    mean = (q12 / q11 * u)[:, None]
    e, v = panels((kinks - mean) / rest, nodes=20)
    inner = (phi(torch.as_tensor(mean + rest * e)).numpy() * v).sum(1)
    return float((w * phi(torch.as_tensor(u)).numpy()) @ inner)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_function_is_the_one_of_torch(name):
    dual = dual_named(name, FACTS.get(name, {}))
    x = torch.linspace(-7, 7, 501, dtype=torch.float64) + 1e-3
    assert torch.allclose(dual.phi(x), written(name)(x), rtol=1e-12, atol=1e-12)
    assert dual.odd == bool(torch.allclose(dual.phi(-x), -dual.phi(x), atol=1e-12))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_value_equals_quadrature(name):
    dual = dual_named(name, FACTS.get(name, {}))
    for triple in TRIPLES[:4]:
        expected = brute(written(name), *triple, KINKS.get(name, (0.0,)))
        assert float(dual.moments(*tensors(triple)).value) == pytest.approx(expected, rel=2e-8, abs=1e-9)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_mean_and_own_moments_equal_quadrature(name):
    dual, phi = dual_named(name, FACTS.get(name, {})), written(name)
    for q in (0.4, 2.5):
        z, w = panels([k / math.sqrt(q) for k in KINKS.get(name, (0.0,))])
        x = torch.as_tensor(math.sqrt(q) * z).requires_grad_()
        value = phi(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
        at = torch.tensor([q], dtype=torch.float64)
        assert float(dual.mean(at)) == pytest.approx(float(value.detach().numpy() @ w), abs=1e-11)
        assert float(dual.own(at).value) == pytest.approx(float(value.detach().numpy() ** 2 @ w), rel=1e-11)
        assert float(dual.own(at).slope) == pytest.approx(float(slope.numpy() ** 2 @ w), rel=1e-7)  # 1/6 is single


@pytest.mark.parametrize("name", sorted(set(NAMED) - JUMPS))
@pytest.mark.parametrize("triple", TRIPLES)
def test_slope_is_the_derivative_in_the_covariance(name, triple):
    q12, q11, q22 = tensors(triple)
    q12.requires_grad_(True)
    moments = dual_named(name, FACTS.get(name, {})).moments(q12, q11, q22)
    (gradient,) = torch.autograd.grad(moments.value.sum(), q12)
    assert torch.allclose(gradient, moments.slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_pairs_come_close_to_a_unit_with_itself(name):
    """Up to correlation 1, where a series converges slowest."""
    dual = dual_named(name, FACTS.get(name, {}))
    q = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    own, pairs = dual.own(q), dual.moments(q, q, q)
    assert torch.allclose(own.value, pairs.value, rtol=1e-7)
    slack = 5e-5 if name == "softsign" else 1e-6
    assert torch.allclose(own.slope, pairs.slope, rtol=slack)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_no_nan_in_values_or_gradients_at_equal_and_at_zero_inputs(name):
    q = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    dual = dual_named(name, FACTS.get(name, {}))
    moments = dual.moments(q[:, None] * q[None], q[:, None] ** 2, q[None] ** 2)
    (moments.value.sum() + moments.slope.sum()).backward()
    assert torch.cat([moments.value, moments.slope]).isfinite().all()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("name", ["tanh", "elu", "hardtanh", "hardswish", "exp", "pow", "softshrink"])
def test_gradients_in_all_variances(name):
    dual = dual_named(name, FACTS.get(name, {}))
    q12 = torch.tensor([[0.3, -0.2], [0.1, 0.5]], dtype=torch.float64, requires_grad=True)
    q11 = torch.tensor([[1.0], [0.8]], dtype=torch.float64, requires_grad=True)
    q22 = torch.tensor([[0.9, 1.3]], dtype=torch.float64, requires_grad=True)

    def both(*q):
        moments = dual.moments(*q)
        return moments.value, moments.slope

    assert torch.autograd.gradcheck(both, (q12, q11, q22), atol=1e-6)


@pytest.mark.parametrize("dual", [Exp(0.4), Gaussian(0.7), Polynomial((0.3, -1.0, 0.5, 0.2)), Polynomial.power(5)])
def test_other_closed_forms(dual):
    for triple in TRIPLES:
        q12, q11, q22 = tensors(triple)
        q12.requires_grad_(True)
        moments = dual.moments(q12, q11, q22)
        (gradient,) = torch.autograd.grad(moments.value.sum(), q12)
        assert torch.allclose(gradient, moments.slope, rtol=1e-10)
        if triple != TRIPLES[-1]:
            assert float(moments.value.detach()) == pytest.approx(brute(dual.phi, *triple), rel=1e-9)
        assert torch.allclose(dual.own(q11).value, dual.moments(q11, q11, q11).value)
    z, w = panels([])
    assert float(dual.mean(torch.tensor([1.0]))) == pytest.approx(float(dual.phi(torch.as_tensor(z)).numpy() @ w))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_powers_of_the_rectifier_have_the_arc_cosine_moments(n):
    dual = Piecewise(((0.0, n, float(math.factorial(n))),))
    q12, q11, q22 = tensors(TRIPLES[0])
    t = torch.acos(q12 / (q11 * q22).sqrt())
    s, c, p = torch.sin(t), torch.cos(t), math.pi - t
    angular = [
        p,
        s + p * c,
        3 * s * c + p * (1 + 2 * c**2),
        4 * s**3 + 15 * s * c**2 + p * (9 * s**2 * c + 15 * c**3),
    ][n]
    assert torch.allclose(dual.moments(q12, q11, q22).value, (q11 * q22) ** (n / 2) * angular / (2 * math.pi))


def test_a_polynomial_below_a_knot():
    """x |x| bends at 0 and has a square on both sides."""
    dual = Piecewise(((0.0, 2, 4.0),), (0.0, 0.0, -1.0))
    for triple in TRIPLES[:4]:
        assert float(dual.moments(*tensors(triple)).value) == pytest.approx(
            brute(lambda x: x * x.abs(), *triple), abs=1e-9
        )


def test_the_error_of_a_series_bounds_what_is_seen():
    for name, q in itertools.product(("tanh", "sigmoid", "selu", "mish"), (0.5, 2.0, 8.0)):
        dual, loose = Hermite(name), Hermite(name, tolerance=1e-3)
        at = torch.tensor([q], dtype=torch.float64)
        assert loose.terms(at) <= dual.terms(at)
        bound, own = loose.error(at), dual.own(at)
        for rho in (-0.9, 0.5, 0.99, 1.0):
            exact, rough = (d.moments(rho * at, at, at) for d in (dual, loose))
            assert float((exact.value - rough.value).abs() / own.value) <= float(bound.value) + 1e-9
            assert float((exact.slope - rough.slope).abs() / own.slope) <= float(bound.slope) + 1e-6
        assert float(dual.error(at).value) < 1e-6


def test_single_precision_takes_fewer_terms_and_keeps_its_digits():
    q = torch.tensor([2.0])
    dual = Hermite("tanh")
    assert dual.terms(q) < dual.terms(q.double())
    single, double = (dual.moments(x / 2, x, x) for x in (q, q.double()))
    assert single.value.dtype == torch.float32
    assert torch.allclose(single.value.double(), double.value, rtol=1e-5)


@pytest.mark.parametrize("name", ["tanh", "softsign", "sinh"])
@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e-20])
def test_series_of_tiny_variances_are_those_of_the_slope_at_zero(name, scale):
    q11, q22, rho = scale * torch.tensor([1.0, 2.0]).double(), scale * torch.tensor([3.0, 0.5]).double(), 0.4
    q12 = rho * (q11 * q22).sqrt()
    found = Hermite(name).moments(q12, q11, q22)
    torch.testing.assert_close(found.value, q12, rtol=0.01, atol=0.0)
    torch.testing.assert_close(found.slope, torch.ones(2).double(), rtol=0.01, atol=0.0)


@pytest.mark.parametrize(("dual", "scale"), [(Sine(), 1e6), (Sine(1.0), 1e6), (Erf(), 1e7), (Gelu(), 1e7)])
def test_equal_inputs_of_large_variance_in_float32(dual, scale):
    q = scale * torch.linspace(1, 2, 50)
    near = q * (1 + torch.tensor([-1.0, 0.0, 1.0]).repeat(17)[:50] * 1e-7)
    got, exact = dual.moments(near, q, q), dual.own(q.double())
    torch.testing.assert_close(got.value.double(), exact.value, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(got.slope.double(), exact.slope, rtol=1e-3, atol=0.0)


def test_sine_of_tiny_variances():
    q = torch.tensor([1e-12]).double()
    assert float(Sine().moments(0.3 * q, q, q).value / (0.3 * q)) == pytest.approx(1.0, abs=1e-11)
