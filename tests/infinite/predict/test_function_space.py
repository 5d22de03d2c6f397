"""Function-space training against networks linear in their weights, trained by torch.optim, and against small steps."""

import pytest
import torch

from pluriform.errors import ConfigError, DivergenceError, ShapeError
from pluriform.infinite.predict.function_space import State, cross_entropy, descend, evolve, squared_error, start
from pluriform.infinite.predict.gradient_flow import gradient_flow, max_learning_rate

N, M, OUTPUTS, FEATURES = 12, 5, 3, 30


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N + M, FEATURES, generator=generator, dtype=torch.float64) / FEATURES**0.5
    labels = torch.randint(OUTPUTS, (N,), generator=generator)
    weights = torch.randn(FEATURES, OUTPUTS, generator=generator, dtype=torch.float64)
    return features, labels, weights


def kernels(features):
    theta = features @ features.T
    return theta[:N, :N], theta[N:, :N]


def trained(problem, loss, steps, rate, momentum=0.0):
    """Outputs at all points of the linear model after gradient descent on its weights."""
    features, _, weights = problem
    leaf = weights.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([leaf], lr=rate, momentum=momentum)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(features[:N] @ leaf).backward()
        optimiser.step()
    return (features @ leaf).detach()


def begin(problem):
    features, _, weights = problem
    outputs = features @ weights
    return start(outputs[:N], outputs[N:])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_equal_those_of_the_optimiser_on_the_weights(problem, momentum):
    features, labels, _ = problem
    ntk, cross = kernels(features)
    loss = cross_entropy(labels)
    made = descend(ntk, loss, begin(problem), 50, cross=cross, learning_rate=0.7, momentum=momentum)
    expected = trained(problem, loss, 50, 0.7, momentum)
    assert torch.allclose(made.train, expected[:N], atol=1e-10)
    assert torch.allclose(made.test, expected[N:], atol=1e-10)


@pytest.mark.parametrize("kind", ["cross-entropy", "own"])
def test_flow_is_the_limit_of_small_steps(problem, kind):
    features, labels, _ = problem
    ntk, cross = kernels(features)
    loss = cross_entropy(labels) if kind == "cross-entropy" else lambda f: (f**4).mean() + f.cosh().mean()
    made = evolve(ntk, loss, begin(problem), 30.0, cross=cross)
    coarse, fine = (trained(problem, loss, steps, 30.0 / steps) for steps in (2000, 4000))
    extrapolated = 2 * fine - coarse
    assert torch.allclose(made.train, extrapolated[:N], atol=2e-5)
    assert torch.allclose(made.test, extrapolated[N:], atol=2e-5)


def test_flow_on_squared_error_is_the_closed_form(problem):
    features, labels, _ = problem
    ntk, cross = kernels(features)
    y = torch.nn.functional.one_hot(labels, OUTPUTS).double()
    state = start(torch.zeros(N, OUTPUTS), torch.zeros(M, OUTPUTS))
    made = evolve(ntk, squared_error(y), state, 200.0, cross=cross, learning_rate=0.5)
    flow = gradient_flow(ntk, ntk, y, time=200.0, learning_rate=0.5)
    assert torch.allclose(made.train, flow.mean(ntk), atol=1e-6)
    assert torch.allclose(made.test, flow.mean(cross), atol=1e-6)


def test_momentum_flow_is_the_limit_of_small_heavy_ball_steps(problem):
    """The equation at rate eta and momentum mu is also that of rate eta c^2 and momentum 1 - c (1 - mu), c to 0."""
    features, labels, _ = problem
    ntk, cross = kernels(features)
    loss, rate, momentum, time = cross_entropy(labels), 0.5, 0.8, 40.0
    made = evolve(ntk, loss, begin(problem), time, cross=cross, learning_rate=rate, momentum=momentum)
    ends = []
    for parts in (200, 400):
        friction = (1 - momentum) / parts
        ends.append(
            descend(
                ntk,
                loss,
                begin(problem),
                int(time) * parts,
                cross=cross,
                learning_rate=rate / parts**2,
                momentum=1 - friction,
            )
        )
    assert torch.allclose(made.train, 2 * ends[1].train - ends[0].train, atol=1e-4)
    assert torch.allclose(made.test, 2 * ends[1].test - ends[0].test, atol=1e-4)
    plain = evolve(ntk, loss, begin(problem), time, cross=cross, learning_rate=rate)
    assert loss(made.train) < 0.9 * loss(plain.train)


@pytest.mark.parametrize("momentum", [None, 0.7])
def test_going_on_from_a_state_equals_going_through(problem, momentum):
    features, labels, _ = problem
    ntk, cross = kernels(features)
    loss = cross_entropy(labels)
    through = evolve(ntk, loss, begin(problem), 20.0, cross=cross, momentum=momentum, tolerance=1e-9)
    half = evolve(ntk, loss, begin(problem), 7.0, cross=cross, momentum=momentum, tolerance=1e-9)
    again = State(half.time, half.train, half.test, half.train_velocity, half.test_velocity)
    end = evolve(ntk, loss, again, 20.0, cross=cross, momentum=momentum, tolerance=1e-9)
    assert end.time == 20.0
    for name in ("train", "test", "train_velocity", "test_velocity"):
        assert torch.allclose(getattr(end, name), getattr(through, name), atol=1e-6)
    steps = descend(ntk, loss, begin(problem), 20, cross=cross, momentum=0.7)
    parts = descend(ntk, loss, descend(ntk, loss, begin(problem), 9, cross=cross, momentum=0.7), 11, cross=cross,
                    momentum=0.7)  # fmt: skip
    assert torch.equal(steps.test, parts.test)
    assert evolve(ntk, loss, end, 20.0, cross=cross) is end


def test_what_cannot_be_is_refused(problem):
    features, labels, _ = problem
    ntk, cross = kernels(features)
    loss, state = cross_entropy(labels), begin(problem)
    with pytest.raises(ShapeError, match=r"kernels \(12, 12\) and \(5, 12\); got \(12, 12\) and None"):
        evolve(ntk, loss, state, 1.0)
    with pytest.raises(ConfigError, match="momentum from 0 to below 1; got 1"):
        descend(ntk, loss, state, 1, cross=cross, momentum=1.0)
    with pytest.raises(ConfigError, match="time of 0 or more; got -1"):
        evolve(ntk, loss, state, -1.0, cross=cross)
    with pytest.raises(ConfigError, match="learning rate above 0; got 0"):
        evolve(ntk, loss, state, 1.0, cross=cross, learning_rate=0.0)
    y = torch.zeros(N, OUTPUTS, dtype=torch.float64)
    rate = 3 * max_learning_rate(ntk, OUTPUTS)
    with pytest.raises(DivergenceError, match="finite outputs"):
        descend(ntk, squared_error(y), state, 2000, cross=cross, learning_rate=rate)
    with pytest.raises(DivergenceError, match="finite path"):
        evolve(ntk, lambda f: -(f**4).sum(), state, 1e6, cross=cross)
