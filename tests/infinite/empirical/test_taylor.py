import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError
from pluriform.infinite.empirical import empirical_ntk, linearize, taylor
from pluriform.infinite.predict.gradient_flow import gradient_flow

spec = importlib.util.spec_from_file_location("networks", Path(__file__).parent / "networks.py")
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)


def moved(net, amount, seed=1):
    """A copy with every trainable parameter shifted."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            if p.requires_grad:
                p += amount * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return other


@pytest.mark.parametrize("name", ["mlp", "residual", "tied", "frozen", "tokens"])
def test_the_linearised_network_is_the_limit_of_secants(name):
    net, x, _ = networks.build(name)
    flat = linearize(net)
    torch.testing.assert_close(flat(x), net(x))
    step = 1e-6
    near = moved(net, step)
    flat.network.load_state_dict(near.state_dict())
    slope = (flat(x) - net(x)) / step
    torch.testing.assert_close(slope, (near(x) - moved(net, -step)(x)) / (2 * step), rtol=1e-5, atol=1e-6)


def test_each_degree_of_a_polynomial_network_adds_its_term_and_the_last_is_exact():
    class Square(nn.Module):
        def forward(self, x):
            return x**2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), Square(), nn.Linear(4, 2)).double()
    x, far = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double(), moved(net, 0.7)
    errors = []
    for degree in range(4):
        expansion = taylor(net, degree)
        expansion.network.load_state_dict(far.state_dict())
        errors.append(float((expansion(x) - far(x)).detach().abs().max()))
    assert errors[3] < 1e-12 < 1e-3 < min(errors[:3])
    # along a line t the value is a cubic in t, whose coefficients are the terms
    ts = torch.linspace(-1, 1, 4, dtype=torch.float64)
    start, end = dict(net.named_parameters()), dict(far.named_parameters())
    values = torch.stack(
        [torch.func.functional_call(net, {k: start[k] + t * (end[k] - start[k]) for k in start}, (x,)) for t in ts]
    )
    coefficients = torch.linalg.solve(torch.vander(ts, increasing=True), values.flatten(1)).reshape(4, 5, 2)
    quadratic = taylor(net, 2)
    quadratic.network.load_state_dict(far.state_dict())
    torch.testing.assert_close(quadratic(x), coefficients[:3].sum(0))


def test_training_the_linearised_network_follows_gradient_flow_of_the_empirical_kernel():
    net, x, x_new = networks.build("mlp")
    generator = torch.Generator().manual_seed(3)
    targets = torch.randn(len(x), 3, generator=generator, dtype=torch.float64)
    start, start_new = net(x).detach(), net(x_new).detach()
    flat, rate, steps = linearize(net), 2e-3, 1000
    optimiser = torch.optim.SGD(flat.parameters(), rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (((flat(x) - targets) ** 2).sum() / (2 * targets.numel())).backward()
        optimiser.step()
    # the kernel couples outputs: samples and outputs together are the points of the flow
    kernel = empirical_ntk(net, x).transpose(1, 2).reshape(12, 12)
    cross = empirical_ntk(net, x_new, x).transpose(1, 2).reshape(9, 12)
    residual = (targets - start).reshape(12, 1)
    flow = gradient_flow(kernel, kernel, residual, time=rate * steps)
    expected = start_new + flow.mean(cross).reshape(3, 3)
    assert float((expected - start_new).norm()) > 0.1
    torch.testing.assert_close(flat(x_new).detach(), expected, rtol=2e-3, atol=2e-3)
    closer = (flat(x_new).detach() - expected).norm() / (expected - start_new).norm()
    assert float(closer) < 5e-3


def test_only_trainable_parameters_move_and_the_module_is_left_alone():
    net, x, _ = networks.build("frozen")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flat = linearize(net)
    flat(x).sum().backward()
    assert {name for name, p in flat.named_parameters() if p.grad is not None} == {
        f"network.{name}" for name, p in net.named_parameters() if p.requires_grad
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_params0_moves_the_point_of_expansion():
    net, x, _ = networks.build("mlp")
    origin = moved(net, 0.3)
    flat = linearize(net, dict(origin.named_parameters()))
    tangent = {name: p.detach() - dict(origin.named_parameters())[name].detach() for name, p in net.named_parameters()}
    step = 1e-6
    plus, minus = copy.deepcopy(origin), copy.deepcopy(origin)
    with torch.no_grad():
        for name, direction in tangent.items():
            plus.get_parameter(name).add_(step * direction)
            minus.get_parameter(name).sub_(step * direction)
    expected = origin(x) + (plus(x) - minus(x)) / (2 * step)
    torch.testing.assert_close(flat(x), expected, rtol=1e-5, atol=1e-6)


def test_faults_are_said():
    with pytest.raises(ConfigError, match="degree of 0 or more; got -1"):
        taylor(nn.Linear(2, 1), -1)
    with pytest.raises(ConfigError, match="evaluation mode; got dropout in training mode"):
        linearize(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    with pytest.raises(ConfigError, match="got scale of shape"):
        linearize(nn.Linear(2, 1), {"scale": torch.ones(1)})
