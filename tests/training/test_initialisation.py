import copy

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError
from pluriform.training.initialisation import reinitialise


class Own(nn.Module):
    """Layers below, a parameter of its own, and the last word on the initialisation."""

    def __init__(self):
        super().__init__()
        self.below = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.scale = nn.Parameter(torch.full((1,), 7.0))

    def reset_parameters(self):
        nn.init.constant_(self.below[0].weight, 0.25)


def test_the_seed_decides_and_torch_stays_as_it_is():
    nets = [nn.Sequential(nn.Linear(4, 4), nn.Conv1d(1, 2, 3)) for _ in range(3)]
    state = torch.get_rng_state()
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        reinitialise(net, seed)
    assert torch.equal(state, torch.get_rng_state())
    first, second, third = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_outer_module_has_the_last_word_and_uncovered_parameters_stay():
    net = Own()
    net.below[1].running_mean.fill_(9)
    bias = net.below[0].bias.clone()
    reinitialise(net, 0)
    assert (net.below[0].weight == 0.25).all()
    assert not torch.equal(bias, net.below[0].bias)
    assert (net.below[1].running_mean == 0).all()
    assert net.scale.item() == 7.0


def test_frozen_layers_stay():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    before = copy.deepcopy(net)
    reinitialise(net, 0)
    assert torch.equal(net[0].weight, before[0].weight)
    assert not torch.equal(net[1].weight, before[1].weight)


def test_attention_is_covered():
    net = nn.MultiheadAttention(4, 2)
    before = net.in_proj_weight.clone()
    reinitialise(net, 0)
    assert not torch.equal(before, net.in_proj_weight)


def test_nothing_to_draw():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

    with pytest.raises(ConfigError, match=r"reset_parameters\(\); got Bare"):
        reinitialise(Bare(), 0)


def test_parameters_that_no_reset_reaches_are_drawn_alike_and_constants_kept():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(0.02 * torch.randn(500) + 3)
            self.scale = nn.Parameter(torch.full((4,), 0.1))
            self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(30, 40))

    net = Embedded()
    given = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    reinitialise(net, 0)
    first = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    assert torch.equal(net.scale, given["scale"])
    for name in ("position", "linear.parametrizations.weight.original1"):
        assert not torch.equal(first[name], given[name])
        assert abs(float(first[name].std() / given[name].std()) - 1) < 0.15
    reinitialise(net, 0)
    assert torch.equal(net.linear.bias, first["linear.bias"])


def test_weights_that_already_are_what_the_seed_draws_stay_so():
    net = nn.Linear(5, 5)
    reinitialise(net, 3)
    before = net.weight.detach().clone()
    reinitialise(net, 3)
    assert torch.equal(net.weight, before)
