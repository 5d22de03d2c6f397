"""Units by fused kernels against autograd."""

import pytest
import torch
from torch import nn

from pluriform.narrow.fused_unit import fused_unit
from pluriform.narrow.losses import imitation, softened_divergence
from pluriform.narrow.unit import UnitNetwork


def unit(forced: bool, lifted: bool):
    torch.manual_seed(0)
    part = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    if not lifted:
        part.extend([nn.Flatten(), nn.Linear(144, 10)])
    before = None if forced else torch.randn(12, 4)
    return UnitNetwork(part, before, torch.randn(4, 12) / 4, torch.randn(12, 4) if lifted else None, (1, 1)).train()


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in network.parameters()]


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("lifted", [True, False])
def test_losses_and_gradients_of_stretch_and_maps(forced, lifted):
    network, x = unit(forced, lifted), torch.randn(64, 12 if forced else 4, 6, 6)
    chain = fused_unit(network, x)
    if lifted:
        target = torch.randn(64, 12, 6, 6)
        ours, right = chain.squared_error(x, target.flatten(1)), imitation(network(x), target, variance=1.0)
    else:
        target = torch.randn(64, 10)
        ours, right = softened_divergence(chain.outputs(x), target), softened_divergence(network(x), target)
    assert ours.item() == pytest.approx(right.item(), rel=1e-5)
    pairs = zip(gradients(network, ours), gradients(network, right), strict=True)
    assert all((a - b).abs().max() < 1e-4 * b.abs().max() for a, b in pairs)


def test_a_batch_norm_over_one_position_is_left_to_autograd_and_as_it_was():
    """One sample of a vector has no statistics of a batch."""
    part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    network = UnitNetwork(part, None, None, torch.randn(8, 4), (1, 1)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert fused_unit(network, torch.randn(64, 4)) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_units_that_are_no_chains_of_convolutions_are_left_to_autograd():
    linear = UnitNetwork(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), None, None, torch.randn(8, 4), (1, 1))
    assert fused_unit(linear, torch.randn(8, 4)) is None
    norm = UnitNetwork(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), None, None, torch.ones(8, 4), (1, 1))
    assert fused_unit(norm, torch.randn(8, 4, 6, 6)) is None
    tokens = UnitNetwork(nn.Sequential(nn.Linear(4, 4)), None, None, torch.ones(8, 4), (2, 2))
    assert fused_unit(tokens, torch.randn(8, 3, 4)) is None


def test_it_draws_nothing_from_the_global_generator():
    network = unit(False, True)
    state = torch.random.get_rng_state()
    fused_unit(network, torch.zeros(2, 4, 6, 6))
    assert torch.equal(state, torch.random.get_rng_state())
