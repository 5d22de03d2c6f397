import copy

import pytest
import torch
from torch import nn

from pluriform.energy.normalisation import eval_parts, prepared
from pluriform.errors import ConfigError


def convolutional(channels=6):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 36, 10)
    )


def kinds(network):
    return [type(part).__name__ for part in network.modules()]


def test_a_network_without_batch_norm_is_itself(net):
    for policy in ("refuse", "freeze", "group", "train"):
        assert prepared(net, policy, smooth=False) is net


def test_batch_norm_is_refused_by_name_with_advice():
    with pytest.raises(ConfigError, match=r"BatchNorm at 1 .*normalisation='group'.*'freeze'.*'train'"):
        prepared(convolutional(), "refuse", smooth=False)
    many = nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(5)))
    with pytest.raises(ConfigError, match="BatchNorm at 0, 1, 2 and 2 more"):
        prepared(many, "refuse", smooth=False)


@pytest.mark.parametrize("channels", [1, 6, 7, 8, 24, 64])
def test_group_norm_takes_channels_scale_and_shift(channels):
    network = convolutional(channels)
    nn.init.normal_(network[1].weight)
    nn.init.normal_(network[1].bias)
    network[1].bias.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    found = prepared(network, "group", smooth=False)
    norm = found[1]
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_channels == channels
    assert channels % norm.num_groups == 0
    assert torch.equal(norm.weight, network[1].weight)
    assert torch.equal(norm.bias, network[1].bias)
    assert norm.weight is not network[1].weight
    assert (norm.weight.requires_grad, norm.bias.requires_grad) == (True, False)
    assert isinstance(network[1], nn.BatchNorm2d)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    inputs = torch.rand(5, 1, 8, 8)
    assert torch.allclose(found(inputs)[:1], found(inputs[:1]), atol=1e-5)


def test_batch_norm_of_tables_leaves_something_to_see():
    """A group of one feature would turn every input into zero."""
    for features in (4, 8, 64):
        found = prepared(nn.Sequential(nn.Linear(3, features), nn.BatchNorm1d(features)), "group", smooth=False)
        outputs = found(torch.randn(50, 3))
        assert float(outputs.detach().std(0).min()) > 0.01, features
    eight = prepared(nn.BatchNorm1d(8), "group", smooth=False)
    assert float(eight(torch.randn(50, 8)).detach().abs().mean()) > 0.1


def test_group_norm_has_the_type_of_the_network():
    network = convolutional().double()
    found = prepared(network, "group", smooth=False)
    assert found(torch.rand(2, 1, 8, 8).double()).dtype == torch.float64


def test_group_norm_without_scale():
    found = prepared(nn.Sequential(nn.BatchNorm2d(4, affine=False)), "group", smooth=False)
    assert found[0].weight is None


def test_a_network_that_is_one_layer():
    assert isinstance(prepared(nn.BatchNorm2d(4), "group", smooth=False), nn.GroupNorm)
    assert isinstance(prepared(nn.ReLU(), "refuse", smooth=True), nn.SiLU)


def test_kinks_become_smooth_in_a_copy():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Sequential(nn.LeakyReLU(0.2), nn.Tanh()))
    found = prepared(network, "refuse", smooth=True)
    assert kinds(found) == ["Sequential", "Linear", "SiLU", "Sequential", "SiLU", "Tanh"]
    assert isinstance(network[1], nn.ReLU)
    assert torch.equal(found[0].weight, network[0].weight)


def test_a_module_at_several_places_is_exchanged_at_all_of_them():
    relu, norm = nn.ReLU(), nn.BatchNorm1d(4)
    network = nn.Sequential(nn.Linear(4, 4), norm, relu, nn.Linear(4, 4), norm, relu)
    found = prepared(network, "group", smooth=True)
    assert [type(part).__name__ for part in found] == ["Linear", "GroupNorm", "SiLU"] * 2
    assert found[1] is found[4]


def test_tied_weights_stay_tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    found = prepared(network, "refuse", smooth=True)
    assert found[2].weight is found[0].weight
    assert found[2].weight is not network[0].weight


def test_the_parts_that_stay_in_evaluation_mode():
    network = convolutional()
    assert eval_parts(network, "freeze") == [network[1]]
    assert [eval_parts(network, policy) for policy in ("refuse", "group", "train")] == [[], [], []]


def test_statistics_that_are_not_kept_cannot_be_frozen():
    network = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ConfigError, match="running statistics"):
        prepared(network, "freeze", smooth=False)
