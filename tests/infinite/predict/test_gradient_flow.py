"""The closed-form flow against explicit small steps, linear solves and sampled ensembles."""

import pytest
import torch

from pluriform.errors import ConfigError
from pluriform.gaussian_process.exact import condition
from pluriform.infinite.predict.gradient_flow import gradient_flow, max_learning_rate

N, M, OUTPUTS = 9, 4, 2


@pytest.fixture(scope="module")
def kernels():
    """K and Theta of train and new points together, from random features, and targets."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N + M, 40, generator=generator, dtype=torch.float64)
    more = torch.randn(N + M, 40, generator=generator, dtype=torch.float64)
    k = features @ features.T / 40
    return k, k + more @ more.T / 40, torch.randn(N, OUTPUTS, generator=generator, dtype=torch.float64)


def split(matrix):
    return matrix[:N, :N], matrix[N:, :N], matrix[N:, N:]


def descend(theta, start, targets, time, steps=4000):
    """Explicit Euler steps of df/dt = -Theta_.X (f_X - Y) / |y| from any start, all points at once."""
    f = start.clone()
    for _ in range(steps):
        f = f - time / steps * theta[:, :N] @ (f[:N] - targets) / targets.numel()
    return f


@pytest.mark.parametrize("time", [0.5, 20.0])
def test_mean_follows_small_explicit_steps(kernels, time):
    k, theta, y = kernels
    flow = gradient_flow(split(k)[0], split(theta)[0], y, time=time)
    explicit = descend(theta, torch.zeros(N + M, OUTPUTS, dtype=torch.float64), y, time)
    assert torch.allclose(flow.mean(split(theta)[1]), explicit[N:], atol=2e-3)
    assert torch.allclose(flow.mean(theta[:N, :N]), explicit[:N], atol=2e-3)


@pytest.mark.parametrize("time", [0.5, 20.0])
def test_covariance_is_that_of_descended_samples(kernels, time):
    """Descent is affine in the start, so the covariance is G K G' with G read off unit starts."""
    k, theta, y = kernels
    zero = torch.zeros_like(y[:, :1])
    gain = descend(theta, torch.eye(N + M, dtype=torch.float64), zero.expand(N, N + M) * 0, time * (N + M) / OUTPUTS)
    expected = (gain @ k @ gain.T)[N:, N:]
    flow = gradient_flow(split(k)[0], split(theta)[0], y, time=time)
    covariance = flow.covariance(split(theta)[1], split(k)[1], split(k)[2])
    assert torch.allclose(covariance, expected, atol=3e-3)
    assert torch.allclose(flow.variance(split(theta)[1], split(k)[1], split(k)[2].diagonal()), covariance.diagonal())
    assert torch.linalg.eigvalsh(covariance)[0] > 0


def test_start_is_the_prior_and_a_long_time_is_infinity(kernels):
    k, theta, y = kernels
    at = [split(theta)[1], split(k)[1], split(k)[2]]
    start = gradient_flow(split(k)[0], split(theta)[0], y, time=0.0)
    assert torch.equal(start.mean(at[0]), torch.zeros(M, OUTPUTS, dtype=torch.float64))
    assert torch.allclose(start.covariance(*at), at[2])
    late, end = (gradient_flow(split(k)[0], split(theta)[0], y, time=t) for t in (1e6, None))
    assert torch.allclose(late.mean(at[0]), end.mean(at[0]))
    assert torch.allclose(late.covariance(*at), end.covariance(*at))
    assert torch.allclose(end.mean(at[0]), at[0] @ torch.linalg.solve(split(theta)[0], y))


def test_the_last_layer_trained_to_the_end_is_the_posterior(kernels):
    k, _, y = kernels
    train, cross, own = split(k)
    flow = gradient_flow(train, None, y, kernel="nngp", ridge=0.1)
    process = condition(train, y, 0.1)
    assert torch.allclose(flow.mean(cross), process.mean(cross))
    assert torch.allclose(flow.covariance(cross, cross, own), process.covariance(cross, own))
    late = gradient_flow(train, None, y, kernel="nngp", ridge=0.1, time=1e6)
    assert torch.allclose(late.covariance(cross, cross, own), process.covariance(cross, own))


def test_last_layer_covariance_at_finite_time_is_that_of_descended_samples(kernels):
    k, _, y = kernels
    time = 5.0
    gain = descend(k, torch.eye(N + M, dtype=torch.float64), torch.zeros(N, N + M).double(), time * (N + M) / OUTPUTS)
    train, cross, own = split(k)
    flow = gradient_flow(train, None, y, kernel="nngp", time=time)
    assert torch.allclose(flow.covariance(cross, cross, own), (gain @ k @ gain.T)[N:, N:], atol=3e-3)


def test_half_the_largest_rate_converges_and_three_times_diverges(kernels):
    _, theta, y = kernels
    train = split(theta)[0]
    for factor, test in ((0.5, lambda ratio: ratio < 0.5), (3.0, lambda ratio: ratio > 10)):
        rate, f = factor * max_learning_rate(train, OUTPUTS), torch.zeros_like(y)
        for _ in range(30):
            f = f - rate * train @ (f - y) / y.numel()
        assert test(float(((f - y) ** 2).sum() / (y**2).sum()))


def test_negative_times_are_refused(kernels):
    k, theta, y = kernels
    with pytest.raises(ConfigError, match="time of 0 or more; got -1"):
        gradient_flow(split(k)[0], split(theta)[0], y, time=-1.0)


def test_leave_one_out_equals_leaving_each_out_at_the_end(kernels):
    k, theta, y = kernels
    k, theta = k[:N, :N], theta[:N, :N]
    held_out = gradient_flow(k, theta, y, ridge=0.2).leave_one_out(y)
    for i in range(N):
        rest = torch.arange(N) != i
        alone = gradient_flow(k[rest][:, rest], theta[rest][:, rest], y[rest], ridge=0.2)
        assert torch.allclose(held_out[i], alone.mean(theta[i, rest][None])[0])


@pytest.mark.parametrize("factor", [0.01, 0.6, 0.95])
def test_discrete_steps_are_those_of_gradient_descent(kernels, factor):
    k, theta, y = kernels
    rate = factor * max_learning_rate(split(theta)[0], OUTPUTS)
    explicit = descend(theta, torch.zeros(N + M, OUTPUTS, dtype=torch.float64), y, 7 * rate, steps=7)
    flow = gradient_flow(split(k)[0], split(theta)[0], y, time=7, learning_rate=rate, discrete=True)
    assert torch.allclose(flow.mean(split(theta)[1]), explicit[N:], atol=1e-12)
    unit = torch.eye(N + M, dtype=torch.float64)
    gain = descend(theta, unit, torch.zeros(N, N + M).double(), 7 * rate * (N + M) / OUTPUTS, steps=7)
    covariance = flow.covariance(split(theta)[1], split(k)[1], split(k)[2])
    assert torch.allclose(covariance, (gain @ k @ gain.T)[N:, N:], atol=1e-12)


def test_small_discrete_steps_become_the_flow_and_large_ones_are_refused(kernels):
    k, theta, y = kernels
    train, rate = (split(k)[0], split(theta)[0]), max_learning_rate(split(theta)[0], OUTPUTS)
    flow = gradient_flow(*train, y, time=100, learning_rate=1e-5 * rate)
    steps = gradient_flow(*train, y, time=100, learning_rate=1e-5 * rate, discrete=True)
    assert torch.allclose(flow.weights, steps.weights, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"largest that converges; got 1.1 times"):
        gradient_flow(*train, y, time=100, learning_rate=1.1 * rate, discrete=True)
    with pytest.raises(ConfigError, match=r"whole number of steps; got 2.5"):
        gradient_flow(*train, y, time=2.5, discrete=True)
