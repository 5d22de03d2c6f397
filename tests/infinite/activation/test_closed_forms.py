"""Closed forms of nonlinearities against quadrature and automatic differentiation."""

import itertools
import math

import numpy as np
import pytest
import torch

from pluriform.infinite.activation.erf import Erf
from pluriform.infinite.activation.gelu import Gelu
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.rule import activation
from pluriform.infinite.activation.trigonometric import Sine
from pluriform.infinite.kernel import Kernel

SMOOTH = {
    "erf": (Erf(), torch.erf),
    "gelu": (Gelu(), torch.nn.functional.gelu),
    "sin": (Sine(), torch.sin),
    "cos": (Sine(math.pi / 2), torch.cos),
}
BENT = {
    "relu": (Abrelu(), torch.relu),
    "leaky": (Abrelu(0.1, 1.0), lambda x: torch.nn.functional.leaky_relu(x, 0.1)),
    "abs": (Abrelu(-1.0, 1.0), torch.abs),
    "identity": (Abrelu(1.0, 1.0), lambda x: x),
}
ALL = SMOOTH | BENT
TRIPLES = [(0.3, 1.0, 0.7), (-0.8, 1.5, 0.6), (1.2, 1.5, 1.1), (0.0, 0.5, 2.0)]


def tensors(triple):
    return [torch.tensor([q], dtype=torch.float64) for q in triple]


def polar(phi, q12, q11, q22):
    """E[phi(u) phi(v)] in polar coordinates, angles split where piecewise-linear functions bend."""
    rho = q12 / math.sqrt(q11 * q22)
    bends = sorted(
        {0.0, 2 * math.pi}
        | {math.pi * k / 2 for k in (1, 3)}
        | {float(np.arctan2(-rho, math.sqrt(1 - rho**2)) + math.pi * k) % (2 * math.pi) for k in range(2)}
    )
    nodes, weights = np.polynomial.legendre.leggauss(60)
    angles = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in itertools.pairwise(bends)])
    along = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(bends)])
    radii, radial = (nodes + 1) * 5.5, weights * 5.5
    r, t = np.meshgrid(radii, angles, indexing="ij")
    density = radial[:, None] * along[None] * r * np.exp(-(r**2) / 2) / (2 * math.pi)
    # u bends at cos = 0, v at rho cos + sqrt(1 - rho^2) sin = 0
    u = math.sqrt(q11) * r * np.cos(t)
    v = math.sqrt(q22) * r * (rho * np.cos(t) + math.sqrt(1 - rho**2) * np.sin(t))
    return float((density * phi(torch.tensor(u)).numpy() * phi(torch.tensor(v)).numpy()).sum())


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("triple", TRIPLES)
def test_value_equals_quadrature(name, triple):
    dual, phi = ALL[name]
    assert float(dual.moments(*tensors(triple)).value) == pytest.approx(polar(phi, *triple), abs=1e-9)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("triple", TRIPLES)
def test_slope_is_the_derivative_in_the_covariance(name, triple):
    q12, q11, q22 = tensors(triple)
    q12.requires_grad_(True)
    moments = ALL[name][0].moments(q12, q11, q22)
    (gradient,) = torch.autograd.grad(moments.value.sum(), q12)
    assert torch.allclose(gradient, moments.slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ALL))
def test_one_argument_form_is_the_limit_of_equal_inputs(name):
    q = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    own, pairs = ALL[name][0].own(q), ALL[name][0].moments(q, q, q)
    assert torch.allclose(own.value, pairs.value, rtol=1e-7)
    assert torch.allclose(own.slope, pairs.slope, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_nan_in_values_or_gradients_at_equal_and_at_zero_inputs(name):
    q = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    moments = ALL[name][0].moments(q[:, None] * q[None], q[:, None] ** 2, q[None] ** 2)
    (moments.value.sum() + moments.slope.sum()).backward()
    assert torch.cat([moments.value, moments.slope]).isfinite().all()
    assert q.grad.isfinite().all()


def test_absolute_value_is_a_sum_of_two_rectifiers():
    q12, q11, q22 = tensors(TRIPLES[0])
    relu, mirrored = (Abrelu().moments(sign * q12, q11, q22).value for sign in (1, -1))
    assert torch.allclose(Abrelu(-1.0, 1.0).moments(q12, q11, q22).value, 2 * (relu + mirrored))


def test_odd_nonlinearities_keep_mean_zero_and_none_stays_gaussian():
    one = torch.ones(1, 1, dtype=torch.float64)
    record = Kernel(one, one, one[0], one[0], gaussian=True, zero_mean=True)
    assert activation(record, Erf()).zero_mean
    assert activation(record, Sine()).zero_mean
    assert not activation(record, Abrelu()).zero_mean
    assert not activation(record, Sine(math.pi / 2)).zero_mean
    assert not activation(record, Erf()).gaussian


@pytest.mark.parametrize("dual", [Abrelu(), Abrelu(-1.0, 1.0), Abrelu(0.2, 1.5)])
def test_written_derivatives_of_the_rectifier_are_right_to_second_order(dual):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    def both(x, y):
        moments = dual.moments(x @ y.T, (x**2).sum(1)[:, None], (y**2).sum(1)[None])
        return moments.value, moments.slope

    assert torch.autograd.gradcheck(both, (x, y))
    assert torch.autograd.gradgradcheck(both, (x, y))


def test_equal_inputs_met_on_different_sides_lose_no_digits():
    q = torch.tensor([1.7], dtype=torch.float64)
    nudged = q * (1 + 4e-16)
    moments = Abrelu().moments(q, q, nudged)
    assert float(moments.slope) == 0.5
    assert float(moments.value) == pytest.approx(0.85, rel=1e-15)
