"""Evidence against the density of SciPy, and its gradients against finite differences."""

import numpy as np
import pytest
import torch

from pluriform.errors import SingularKernelError
from pluriform.gaussian_process.evidence import log_evidence
from pluriform.gaussian_process.exact import condition


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    return 1.7 * torch.exp(-0.5 * torch.cdist(x, x) ** 2), torch.stack([x.sin().sum(1), x.prod(1)], 1)


def density(covariance, y):
    from scipy.stats import multivariate_normal

    return sum(multivariate_normal(np.zeros(len(y)), covariance).logpdf(column) for column in y.T.numpy())


def test_it_is_the_log_density_of_the_targets(problem):
    gram, y = problem
    covariance = gram + 0.1 * 1.7 * torch.eye(12)
    assert float(log_evidence(gram, y, 0.1)) == pytest.approx(density(covariance.numpy(), y))
    assert float(log_evidence(gram, y, 0.1)) == pytest.approx(condition(gram, y, 0.17).log_marginal_likelihood())


def test_a_free_amplitude_is_the_best_one(problem):
    from scipy.optimize import minimize_scalar

    gram, y = problem
    covariance = (gram + 0.1 * 1.7 * torch.eye(12)).numpy()
    best = minimize_scalar(lambda log: -density(np.exp(log) * covariance, y), bounds=(-5, 5), method="bounded")
    free = log_evidence(gram, y, 0.1, free_amplitude=True)
    assert float(free) == pytest.approx(-best.fun, rel=1e-8)
    assert float(log_evidence(7 * gram, y, 0.1, free_amplitude=True)) == pytest.approx(float(free))


@pytest.mark.parametrize("free", [False, True])
def test_gradients(problem, free):
    gram, y = problem

    def function(gram, ridge):
        return log_evidence((gram + gram.T) / 2, y, ridge, free_amplitude=free)

    inputs = (gram.clone().requires_grad_(True), torch.tensor(0.2, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6)


def test_duplicates_without_a_ridge_are_refused():
    with pytest.raises(SingularKernelError, match="with relative ridge 0.*larger ridge"):
        log_evidence(torch.ones(3, 3).double(), torch.ones(3, 1), 0.0)
