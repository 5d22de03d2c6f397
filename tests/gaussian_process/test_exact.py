"""Gaussian-process regression against scikit-learn, brute force and direct solves."""

import psutil
import pytest
import torch

from pluriform.errors import MemoryBudgetError, ShapeError, SingularKernelError
from pluriform.gaussian_process.exact import absolute_ridge, check_memory, condition, spectrum


def rbf(a, b):
    return torch.exp(-0.5 * torch.cdist(a, b) ** 2 / 0.8**2)


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(18, 2, generator=generator, dtype=torch.float64)
    new = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    y = torch.stack([x.sin().sum(1), x.prod(1)], 1)
    return x, new, y


def test_mean_variance_and_evidence_equal_those_of_scikit_learn(problem):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    x, new, y = problem
    process = condition(rbf(x, x), y, 0.05)
    oracle = GaussianProcessRegressor(RBF(0.8), alpha=0.05, optimizer=None).fit(x.numpy(), y[:, 0].numpy())
    mean, covariance = oracle.predict(new.numpy(), return_cov=True)
    cross, own = rbf(new, x), rbf(new, new)
    assert torch.allclose(process.mean(cross)[:, 0], torch.tensor(mean))
    assert torch.allclose(process.covariance(cross, own), torch.tensor(covariance))
    assert torch.allclose(process.variance(cross, own.diagonal()), torch.tensor(covariance).diagonal())
    single = condition(rbf(x, x), y[:, :1], 0.05)
    assert single.log_marginal_likelihood() == pytest.approx(oracle.log_marginal_likelihood_value_)


def test_leave_one_out_equals_leaving_each_out(problem):
    x, _, y = problem
    gram = rbf(x, x)
    held_out = condition(gram, y, 0.05).leave_one_out()
    for i in range(len(x)):
        rest = torch.arange(len(x)) != i
        alone = condition(gram[rest][:, rest], y[rest], 0.05).mean(gram[i, rest][None])[0]
        assert torch.allclose(held_out[i], alone)


@pytest.mark.parametrize("ridge", [0.01, 0.3, 5.0])
def test_one_spectrum_serves_every_ridge(problem, ridge):
    x, _, y = problem
    gram = rbf(x, x)
    basis, process = spectrum(gram, y), condition(gram, y, ridge)
    assert torch.allclose(basis.weights(ridge), process.weights)
    assert torch.allclose(basis.leave_one_out(ridge), process.leave_one_out())
    assert basis.log_marginal_likelihood(ridge) == pytest.approx(process.log_marginal_likelihood())


def test_relative_ridge_scales_with_the_kernel(problem):
    gram = rbf(problem[0], problem[0])
    assert absolute_ridge(3.0 * gram, 0.1) == pytest.approx(0.3)


def test_duplicate_inputs_are_named(problem):
    x, _, y = problem
    twice = torch.cat([x, x[4:5]])
    with pytest.raises(SingularKernelError, match=r"equal inputs, samples 4 and 18, .*ridge=1e-4"):
        condition(rbf(twice, twice), torch.cat([y, y[4:5]]))
    assert condition(rbf(twice, twice), torch.cat([y, y[4:5]]), 1e-4).weights.isfinite().all()


def test_other_singular_kernels_say_so():
    features = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    with pytest.raises(SingularKernelError, match="singular matrix at ridge 0"):
        condition(features @ features.T, torch.ones(3, 1))
    with pytest.raises(SingularKernelError, match="NaN or infinity"):
        condition(torch.full((2, 2), torch.nan), torch.ones(2, 1))
    with pytest.raises(SingularKernelError, match="NaN or infinity"):
        spectrum(torch.full((2, 2), torch.nan), torch.ones(2, 1))


def test_sizes_are_checked():
    with pytest.raises(ShapeError, match=r"got \(2, 3\) and \(2, 1\)"):
        condition(torch.ones(2, 3), torch.ones(2, 1))


def test_memory_is_refused_before_starting(monkeypatch):
    check_memory(10, 3, "ten samples")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**30})())
    with pytest.raises(
        MemoryBudgetError, match=r"82,397 MiB for 3 float64 matrices of 60,000 x 60,000.*fit on at most"
    ):
        check_memory(60_000, 3, "sixty thousand")
