"""A network computed by the fused kernels against automatic differentiation, and when it is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.fused import network as network_file
from pluriform.fused.network import FusedNetwork, fused_network, fusing_pays
from pluriform.graph.parameters import weights_of

SHAPE = (2, 6, 9)
NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(108, 41), nn.ReLU(), nn.Linear(41, 13, bias=False), nn.LeakyReLU(0.2), nn.Linear(13, 4)
    ),
    "convs": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 7, 3, stride=2, padding=2, bias=False),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(42, 4),
    ),
    "overlapping pools": lambda: nn.Sequential(
        nn.Conv2d(2, 9, (2, 3), padding=(0, 2), dilation=(2, 1)),
        nn.SiLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(9, 6, (2, 3)),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(24, 4),
    ),
}
MUCH = 10**15


def made(name):
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def exact(network, x, y):
    """Outputs and the gradient of the summed cross-entropy in float64."""
    plain, point = copy.deepcopy(network).double(), x.double().requires_grad_()
    outputs = plain(point)
    (gradient,) = torch.autograd.grad(F.cross_entropy(outputs, y, reduction="sum"), point)
    return outputs.detach(), gradient


@pytest.mark.parametrize("samples", [1, 9, 50, 100])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_network(name, samples):
    network = made(name)
    fused = fused_network(network, torch.zeros(1, *SHAPE), MUCH)
    assert isinstance(fused, FusedNetwork)
    x, y = torch.randn(samples, *SHAPE), torch.arange(samples) % 4
    outputs, gradient = exact(network, x, y)
    point = x.clone().requires_grad_()
    found = fused(point)
    loss = F.cross_entropy(found, y, reduction="sum")
    (first,) = torch.autograd.grad(loss, point, retain_graph=True)
    (second,) = torch.autograd.grad(loss, point)
    assert torch.allclose(found.double(), outputs, atol=1e-5)
    assert torch.allclose(first.double(), gradient, atol=1e-5)
    assert torch.equal(first, second)
    with torch.no_grad():
        assert torch.equal(fused(x), found)


def test_passes_do_not_disturb_one_another():
    network = made("convs")
    fused = fused_network(network, torch.zeros(1, *SHAPE), MUCH)
    x, y = torch.randn(30, *SHAPE), torch.arange(30) % 4
    parts = [x[:20].clone().requires_grad_(), x[20:].clone().requires_grad_()]
    outputs = [fused(part) for part in parts]
    for part, found, labels in zip(reversed(parts), reversed(outputs), (y[20:], y[:20]), strict=True):
        (gradient,) = torch.autograd.grad(F.cross_entropy(found, labels, reduction="sum"), part)
        assert torch.allclose(gradient.double(), exact(network, part.detach(), labels)[1], atol=1e-5)


def test_it_follows_the_weights_in_whatever_memory():
    network = made("convs")
    fused = fused_network(network, torch.zeros(1, *SHAPE), MUCH)
    x, y = torch.randn(10, *SHAPE), torch.arange(10) % 4
    for change in (lambda weight: weight.mul_(1.3), lambda weight: weight.set_((weight * 0.7).clone())):
        with torch.no_grad():
            for weight in weights_of(network).values():
                change(weight)
            found = fused(x)
        assert torch.allclose(found.double(), exact(network, x, y)[0], atol=1e-5)


def test_what_it_does_not_compute_goes_to_the_network(monkeypatch):
    network = made("mlp")
    fused = fused_network(network, torch.zeros(1, *SHAPE), MUCH)
    assert fused(torch.zeros(0, *SHAPE)).shape == (0, 4)
    x = torch.randn(5, *SHAPE).requires_grad_()
    monkeypatch.setattr(network_file, "MOST_KEPT", 100)
    assert torch.equal(fused(x), network(x))


def test_a_second_derivative_is_refused():
    fused = fused_network(made("mlp"), torch.zeros(1, *SHAPE), MUCH)
    x = torch.randn(5, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(fused(x).logsumexp(1).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_little_work_large_layers_and_other_networks_stay_as_they_are(monkeypatch):
    example, network = torch.zeros(1, *SHAPE), made("mlp")
    assert fused_network(network, example, 1000) is network
    assert not fusing_pays(network, example, 1000)
    assert fusing_pays(network, example, MUCH)
    residual = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    assert fused_network(residual, example, MUCH) is residual
    pooled = nn.Sequential(nn.AvgPool2d((1, 2)), nn.Flatten(), nn.Linear(48, 2)).eval()
    assert fused_network(pooled, example, MUCH) is pooled
    monkeypatch.setattr(network_file, "MOST_PRODUCTS", 100)
    assert fused_network(network, example, MUCH) is network


def test_the_mode_of_a_network_stays():
    network = made("mlp").train()
    assert fusing_pays(network, torch.zeros(1, *SHAPE), MUCH)
    assert all(part.training for part in network.modules())
