"""The mixer and its pre-training: errors before and after, the floor of exact samples, dependence between layers."""

import math

import pytest
import torch
from torch import nn

from pluriform.ensemble.hypergan.mixer import (
    SAMPLES_A_DIMENSION,
    Independent,
    Mixer,
    cross_covariance,
    gaussian_divergence,
    moment_error,
    pretrain,
)


def normal(count, layers, size, seed=0):
    return torch.randn(count, layers, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixer(noise=32, layers=3, size=8, hidden=64):
    torch.manual_seed(0)
    return Mixer(noise, layers, size, hidden)


def test_codes_do_not_depend_on_their_companions():
    network, noise = mixer(), torch.randn(6, 32)
    assert network(noise).shape == (6, 3, 8)
    torch.testing.assert_close(network(noise[2:3]), network(noise)[2:3], rtol=1e-5, atol=1e-6)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())


def test_without_a_mixer_codes_are_the_noise():
    plain, noise = Independent(3, 4), torch.randn(5, 12)
    assert plain.noise_size == 12
    assert torch.equal(plain(noise).flatten(1), noise)
    assert cross_covariance(normal(20_000, 3, 4)) < 0.01


@pytest.mark.parametrize(("count", "size"), [(1000, 4), (200, 16)])
def test_error_of_exact_samples_is_the_floor(count, size):
    """(d + 1) / (n - 1) for the covariance and 1 / n for the mean."""
    errors = [float(moment_error(normal(count, 2, size, seed))) for seed in range(60)]
    floor = (size + 1) / (count - 1) + 1 / count
    assert sum(errors) / len(errors) == pytest.approx(floor, rel=0.06)


def test_errors_of_known_codes():
    codes = normal(50, 2, 3)
    expected = []
    for layer in range(2):
        own = codes[:, layer]
        covariance = torch.cov(own.T)
        expected.append(((covariance - torch.eye(3)).square().sum() + own.mean(0).square().sum()) / 3)
    assert float(moment_error(codes)) == pytest.approx(float(sum(expected) / 2), rel=1e-10)
    assert float(moment_error(torch.ones(9, 1, 4))) == pytest.approx(2)  # No variance, mean one.


def test_divergence_is_that_of_torch_and_grows_as_codes_gather():
    codes = normal(400, 2, 3) * torch.tensor([0.5, 1.0, 2.0]) + 0.3
    expected = []
    for layer in range(2):
        own = codes[:, layer]
        fitted = torch.distributions.MultivariateNormal(own.mean(0), torch.cov(own.T, correction=0))
        prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
        expected.append(torch.distributions.kl_divergence(fitted, prior) / 3)
    assert float(gaussian_divergence(codes)) == pytest.approx(float(sum(expected) / 2), rel=1e-3)
    gathered = [float(gaussian_divergence(codes * scale)) for scale in (1, 0.1, 0.03)]
    assert gathered[0] < gathered[1] < gathered[2]


def test_divergence_of_fewer_codes_than_dimensions_is_finite():
    codes = normal(4, 2, 9).float().requires_grad_()
    gaussian_divergence(codes).backward()
    assert codes.grad.isfinite().all()


@pytest.mark.parametrize("codes", [torch.full((20, 2, 3), math.nan), 1e6 * torch.ones(20, 2, 3).cumsum(0)])
def test_divergence_of_codes_without_a_covariance_is_no_number(codes):
    """So that the loop can say that training diverged, instead of an error of linear algebra."""
    assert gaussian_divergence(codes).isnan()


def test_cross_covariance_of_known_codes():
    first = normal(40_000, 1, 5)
    same = torch.cat([first, first, normal(40_000, 1, 5, 1)], 1)  # One pair of three is the same: ||I||^2 / d = 1.
    assert cross_covariance(same) == pytest.approx(1 / 3, rel=0.03)
    assert cross_covariance(first) == 0


@pytest.mark.parametrize(("noise", "layers", "size", "hidden"), [(64, 3, 16, 128), (32, 1, 8, 64), (20, 10, 8, 32)])
def test_pretraining_reaches_twice_the_floor(noise, layers, size, hidden):
    """Also where all codes together are longer than the last hidden layer, and for a single layer."""
    network = mixer(noise, layers, size, hidden)
    with torch.no_grad():
        before = float(moment_error(network(torch.randn(16 * size, noise))))
    found = pretrain(network, torch.Generator().manual_seed(1))
    assert 0.8 < before < 1.1
    assert found.floor == pytest.approx((size + 1) / (SAMPLES_A_DIMENSION * size - 1))
    assert found.error <= 2 * found.floor
    assert 10 < found.steps <= 300
    with torch.no_grad():
        codes = network(torch.randn(4000, noise, generator=torch.Generator().manual_seed(2)))
    assert float(moment_error(codes)) < 2.5 * found.floor
    if layers == 1:
        assert found.cross_covariance == 0
    else:
        assert found.cross_covariance > 0.2
        assert cross_covariance(codes) > 0.2
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pretraining_draws_from_its_generator_alone():
    networks = [mixer(), mixer()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    results = [pretrain(network, torch.Generator().manual_seed(1)) for network in networks]
    assert results[0] == results[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True))
    assert math.isfinite(results[0].error)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "size", "layers", "most"), [(256, 64, 3, 75), (256, 128, 3, 130)])
def test_pretraining_at_the_sizes_of_the_paper(noise, size, layers, most):
    """About 50 and 85 steps from an error near 0.93; layers stay correlated."""
    torch.manual_seed(0)
    network = Mixer(noise, layers, size, 512)
    with torch.no_grad():
        assert 0.88 < float(moment_error(network(torch.randn(16 * size, noise)))) < 0.98
    found = pretrain(network, torch.Generator().manual_seed(1))
    assert found.steps < most
    assert 0.5 < found.cross_covariance < 0.8
