"""Fused chains against autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.training.fused_chain import FusedChain, fused_chain


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in net.parameters()]


@pytest.mark.parametrize("samples", [7, 64])
@pytest.mark.parametrize(
    "loss",
    [
        lambda found, target: F.kl_div(found.log_softmax(1), target.softmax(1), reduction="batchmean"),
        lambda found, target: 3 * (found - target).abs().sum(),
    ],
)
def test_outputs_and_gradients_of_any_loss(samples, loss):
    net, x, target = network(), torch.randn(samples, 2, 8, 8), torch.randn(samples, 3)
    chain = FusedChain(net, x)
    assert torch.allclose(chain.outputs(x), net(x), atol=1e-5)
    ours, right = gradients(net, loss(chain.outputs(x), target)), gradients(net, loss(net(x), target))
    assert all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max())) for a, b in zip(ours, right, strict=True)
    )


def test_squared_errors_of_activations():
    net, x = network()[:4].append(nn.Flatten()), torch.randn(64, 2, 8, 8)
    target = torch.randn(64, 36)
    chain = FusedChain(net, x)
    assert chain.squared_error(x, target).item() == pytest.approx(F.mse_loss(net(x), target).item(), rel=1e-5)
    ours, right = (gradients(net, 5 * loss) for loss in (chain.squared_error(x, target), F.mse_loss(net(x), target)))
    assert all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max())) for a, b in zip(ours, right, strict=True)
    )


def test_only_chains_with_convolutions_of_bounded_size_are_taken():
    x = torch.randn(4, 2, 8, 8)
    assert fused_chain(network(), x, 1e6) is not None
    assert fused_chain(network(), x, 10) is None
    assert fused_chain(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), x, 1e6) is None
    assert fused_chain(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), x, 1e6) is None
