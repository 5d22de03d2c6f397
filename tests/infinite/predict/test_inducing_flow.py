"""The flow through inducing samples against the dense flow of the low-rank kernels it stands for."""

import pytest
import torch

from pluriform.infinite.predict.gradient_flow import gradient_flow
from pluriform.infinite.predict.inducing_flow import inducing_flow

N, M, NEW, OUTPUTS = 20, 8, 5, 2


@pytest.fixture(scope="module")
def kernels():
    """K and Theta of train and new points together, full rank, and targets; the first M samples are inducing."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N + NEW, 60, generator=generator, dtype=torch.float64)
    more = torch.randn(N + NEW, 60, generator=generator, dtype=torch.float64)
    k = features @ features.T / 60
    return k, k + more @ more.T / 60, torch.randn(N, OUTPUTS, generator=generator, dtype=torch.float64)


def low_rank(gram):
    return gram[:, :M] @ torch.linalg.solve(gram[:M, :M], gram[:M])


def blocks(k, theta, y):
    for part in (slice(0, 7), slice(7, N)):
        yield k[part, :M], None if theta is None else theta[part, :M], y[part]


@pytest.mark.parametrize("time", [None, 3.0, 200.0])
@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_mean_and_variance_are_those_of_the_low_rank_kernels(kernels, kernel, time):
    k, theta, y = kernels
    if kernel == "nngp":
        theta = None
    low_k, low_theta = low_rank(k), None if theta is None else low_rank(theta)
    made = inducing_flow(k[:M, :M], None if theta is None else theta[:M, :M], blocks(k, theta, y), kernel=kernel).at(
        ridge=0.1, time=time, learning_rate=2.0
    )
    dense = gradient_flow(
        low_k[:N, :N],
        None if low_theta is None else low_theta[:N, :N],
        y,
        ridge=0.1,
        time=time,
        learning_rate=2.0,
        kernel=kernel,
    )
    flowing, low_flowing = (k, low_k) if theta is None else (theta, low_theta)
    assert torch.allclose(made.mean(flowing[N:, :M]), dense.mean(low_flowing[N:, :N]), atol=1e-9)
    own, explained = k[N:, N:].diagonal(), low_k[N:, N:].diagonal()
    expected = own - explained + dense.variance(low_flowing[N:, :N], low_k[N:, :N], explained)
    assert torch.allclose(made.variance(flowing[N:, :M], k[N:, :M], own), expected, atol=1e-9)


def test_with_all_samples_inducing_the_flow_is_exact(kernels):
    k, theta, y = kernels
    train, whole = slice(0, N), (k[:N, :N], theta[:N, :N])
    made = inducing_flow(*whole, [(*whole, y)]).at(ridge=0.05)
    dense = gradient_flow(*whole, y, ridge=0.05)
    assert torch.allclose(made.mean(theta[N:, train]), dense.mean(theta[N:, train]))
    at = theta[N:, train], k[N:, train], k[N:, N:].diagonal()
    assert torch.allclose(made.variance(*at), dense.variance(*at))


def test_time_zero_is_the_prior(kernels):
    k, theta, y = kernels
    made = inducing_flow(k[:M, :M], theta[:M, :M], blocks(k, theta, y)).at(time=0.0)
    assert torch.equal(made.weights, torch.zeros(M, OUTPUTS, dtype=torch.float64))
    own = k[N:, N:].diagonal()
    assert torch.allclose(made.variance(theta[N:, :M], k[N:, :M], own), own)
