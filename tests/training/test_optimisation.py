import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError
from pluriform.training.optimisation import autocast_of, clip_gradients, make_optimizer
from pluriform.training.recipe import Recipe


def gradients(scale):
    parameters = [nn.Parameter(torch.zeros(3, 2, 2)), nn.Parameter(torch.zeros(3, 5))]
    for parameter in parameters:
        parameter.grad = scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return parameters


def test_clipping_agrees_with_torch():
    ours, oracle = gradients(5.0), gradients(5.0)
    clip_gradients(ours, 1.0)
    nn.utils.clip_grad_norm_(oracle, 1.0)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, oracle, strict=True))


def test_members_are_clipped_each_by_itself():
    ours, oracle = gradients(0.5), gradients(0.5)
    clip_gradients(ours, 1.0, members=3)
    for member in range(3):
        alone = [nn.Parameter(p[member].detach().clone()) for p in oracle]
        for parameter, stacked in zip(alone, oracle, strict=True):
            parameter.grad = stacked.grad[member].clone()
        nn.utils.clip_grad_norm_(alone, 1.0)
        assert all(torch.allclose(a.grad, b.grad[member], atol=1e-6) for a, b in zip(alone, ours, strict=True))


def test_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    assert make_optimizer(net, Recipe()).param_groups[0]["params"] == list(net[1].parameters())
    with pytest.raises(ConfigError, match="trainable parameters; got none"):
        make_optimizer(net.requires_grad_(False), Recipe())


def test_rates_of_submodules_are_groups_of_their_own():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    groups = make_optimizer(net, Recipe(), {"1": 10.0, "2.bias": 0.5}).param_groups
    found = {group["factor"]: group["params"] for group in groups}
    assert found.keys() == {1.0, 10.0, 0.5}
    assert found[10.0] == list(net[1].parameters())
    assert found[0.5] == [net[2].bias]
    assert len(found[1.0]) == 3


def test_bfloat16_comes_from_fabric():
    x = torch.randn(4, 4)
    with autocast_of(Recipe(precision="bf16"), torch.device("cpu"))():
        assert (x @ x).dtype == torch.bfloat16
    with autocast_of(Recipe(), torch.device("cpu"))():
        assert (x @ x).dtype == torch.float32
