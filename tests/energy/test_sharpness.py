import copy

import pytest
import torch
from torch import nn

from pluriform.energy.sharpness import ascent
from pluriform.graph.parameters import call


@pytest.fixture
def setting():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 3)).double()
    inputs, targets = torch.randn(10, 4).double(), torch.arange(10) % 3
    return network, inputs, lambda logits: nn.functional.cross_entropy(logits, targets)


def moves(network, raised):
    return {name: raised[name].detach() - p.detach() for name, p in network.named_parameters() if name in raised}


def gradients(network, loss):
    own = dict(network.named_parameters())
    return dict(zip(own, torch.autograd.grad(loss, list(own.values()), allow_unused=True), strict=True))


@pytest.mark.parametrize("rho", [0.01, 0.3])
def test_the_plain_form_goes_rho_up_the_gradient(setting, rho):
    network, inputs, loss = setting
    found = moves(network, ascent(network, loss(network(inputs)), rho))
    wanted = gradients(network, loss(network(inputs)))
    norm = torch.cat([g.flatten() for g in wanted.values()]).norm()
    assert float(torch.cat([move.flatten() for move in found.values()]).norm()) == pytest.approx(rho, rel=1e-9)
    assert all(torch.allclose(found[name], rho * wanted[name] / norm, atol=1e-12) for name in wanted)


@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_the_adaptive_form_scales_with_the_weights(setting, rho):
    network, inputs, loss = setting
    found = moves(network, ascent(network, loss(network(inputs)), rho))
    wanted, own = gradients(network, loss(network(inputs))), dict(network.named_parameters())
    norm = torch.cat([(own[name].abs() * g).flatten() for name, g in wanted.items()]).norm()
    assert all(torch.allclose(found[name], rho * own[name] ** 2 * wanted[name] / norm, atol=1e-9) for name in wanted)
    divided = torch.cat([(found[name] / own[name]).flatten() for name in wanted if bool((own[name] != 0).all())])
    assert float(divided.detach().norm()) <= rho * (1 + 1e-9)


def test_the_loss_rises(setting):
    network, inputs, loss = setting
    network.eval()
    raised = ascent(network, loss(network(inputs)), 0.1)
    assert bool(loss(call(network, raised, inputs)) > loss(network(inputs)))


def test_gradients_there_reach_the_weights_of_the_network(setting):
    network, inputs, loss = setting
    network.eval()
    raised = ascent(network, loss(network(inputs)), 0.1)
    assert all(p.grad is None for p in network.parameters())
    loss(call(network, raised, inputs)).backward()
    moved = copy.deepcopy(network)
    moved.load_state_dict({name: raised.get(name, t).detach() for name, t in network.state_dict().items()})
    loss(moved(inputs)).backward()
    for mine, other in zip(network.parameters(), moved.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-12)


def test_running_statistics_are_counted_once(setting):
    network, inputs, loss = setting
    raised = ascent(network, loss(network(inputs)), 0.1)
    kept = network[1].running_mean.clone()
    call(network, raised, inputs)
    assert torch.equal(network[1].running_mean, kept)
    assert int(network[1].num_batches_tracked) == 1


def test_a_flat_loss_moves_nothing():
    network = nn.Linear(3, 2)
    raised = ascent(network, network(torch.zeros(1, 3)).sum() * 0, 0.1)
    assert all(torch.equal(raised[name], p) for name, p in network.named_parameters())


def test_frozen_and_unused_parameters_stay():
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "spare": nn.Linear(3, 2)})
    network["used"].bias.requires_grad_(False)
    raised = ascent(network, network["used"](torch.ones(1, 3)).square().sum(), 0.1)
    assert "used.bias" not in raised
    assert torch.equal(raised["spare.weight"], network["spare"].weight)
    assert not torch.equal(raised["used.weight"], network["used"].weight)


def test_tied_weights_move_together():
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    inputs = torch.randn(4, 3)
    raised = ascent(network, network(inputs).square().sum(), 0.3)
    weight = raised["0.weight"]
    wanted = nn.functional.linear(
        torch.tanh(nn.functional.linear(inputs, weight, raised["0.bias"])), weight, raised["2.bias"]
    )
    assert torch.allclose(call(network, raised, inputs), wanted, atol=1e-6)
