"""Regression metrics against scikit-learn, torch.distributions and a known noise."""

import pytest
import torch
from sklearn.metrics import root_mean_squared_error
from torch.distributions import Normal

from pluriform.metrics.regression import covered, fit_noise, fit_scale, gaussian_nll_terms, normal_quantile, rmse


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(4000, 2, generator=generator), torch.rand(4000, 2, generator=generator) + 0.1
    return mean, variance, mean + variance.sqrt() * torch.randn(4000, 2, generator=generator)


def test_rmse_equals_scikit_learn(case):
    mean, _, y = case
    assert rmse(mean[:, :1], y[:, :1]) == pytest.approx(root_mean_squared_error(y[:, :1], mean[:, :1]))


def test_nll_equals_the_normal_distribution(case):
    mean, variance, y = (part.double() for part in case)
    torch.testing.assert_close(
        gaussian_nll_terms(mean, variance, y), -Normal(mean, variance.sqrt()).log_prob(y).mean(-1)
    )


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_true_variances_cover_their_level(case, level):
    assert float(covered(*case, level).mean()) == pytest.approx(level, abs=0.02)


def test_quantile():
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)


def test_known_noise_is_found_beside_known_variance(case):
    mean, variance, y = case
    noisy = y + 0.7 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    assert fit_noise(mean, variance, noisy) == pytest.approx(0.49, rel=0.1)
    assert fit_noise(mean, torch.zeros_like(variance), noisy) == pytest.approx(rmse(mean, noisy) ** 2, rel=1e-3)


def test_faultless_means_leave_a_tiny_noise():
    mean = torch.arange(5.0)[:, None]
    assert 0 < fit_noise(mean, torch.zeros_like(mean), mean) < 1e-30


def test_scale_of_halved_variances_is_two(case):
    mean, variance, y = case
    assert fit_scale(mean, variance / 2, y) == pytest.approx(2, rel=0.05)
    assert fit_scale(mean, variance, mean) == 1.0
