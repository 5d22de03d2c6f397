"""Stacked calls against a loop over the members."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pluriform.errors import GraphError
from pluriform.graph.parameters import StackedWeights, call, call_stacked, stack, unstack, weights_of

torch.set_num_threads(1)


def seeded(make, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


def attention():
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


SHAPES = {mlp: (5, 4), convnet: (5, 2, 6, 6), attention: (2, 5, 8), Tied: (3, 4)}


@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("chunk", [None, 2])
def test_stacked_equals_loop(make, training, chunk):
    modules = [seeded(make, seed).train(training) for seed in range(3)]
    x = torch.randn(SHAPES[make], generator=torch.Generator().manual_seed(9))
    stacked = stack(modules)
    got = call_stacked(modules[0], stacked, x, chunk)
    torch.testing.assert_close(got, torch.stack([module(x) for module in modules]), rtol=1e-5, atol=1e-5)
    for position, module in enumerate(modules):
        for name, buffer in module.named_buffers():
            torch.testing.assert_close(stacked.buffers[name][position], buffer)


def test_gradients_reach_each_member():
    modules = [seeded(mlp, seed) for seed in range(3)]
    stacked, x = stack(modules), torch.ones(2, 4)
    call_stacked(modules[0], stacked, x).square().sum().backward()
    for position, module in enumerate(modules):
        module(x).square().sum().backward()
        torch.testing.assert_close(stacked.parameters["0.weight"].grad[position], module[0].weight.grad)


@settings(max_examples=10, deadline=None)
@given(members=st.integers(1, 4), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_own_inputs_of_each_member(members, batch, seed):
    modules = [seeded(mlp, seed + i) for i in range(members)]
    x = torch.randn(members, batch, 4, generator=torch.Generator().manual_seed(seed))
    got = call_stacked(modules[0], stack(modules), x, shared_inputs=False)
    torch.testing.assert_close(got, torch.stack([module(own) for module, own in zip(modules, x, strict=True)]))


def test_dropout_differs_between_members():
    module = nn.Sequential(nn.Dropout(0.5))
    stacked = StackedWeights({}, {"count": torch.zeros(2)})
    module.register_buffer("count", torch.zeros(()))
    got = call_stacked(module, stacked, torch.ones(4, 50))
    assert not torch.equal(got[0], got[1])


def test_stack_copies_and_unstack_restores():
    modules = [seeded(convnet, seed) for seed in range(2)]
    before = copy.deepcopy(modules[1].state_dict())
    stacked = stack(modules)
    stacked.parameters["0.weight"].data.zero_()
    assert torch.equal(modules[1][0].weight, before["0.weight"])
    restored = unstack(modules[0], stack(modules), 1)
    assert type(restored) is type(modules[0])
    assert all(torch.equal(restored.state_dict()[name], value) for name, value in before.items())


def test_frozen_parameters_stay_frozen():
    module = mlp()
    module[0].weight.requires_grad_(False)
    stacked = stack([module, module])
    assert not stacked.parameters["0.weight"].requires_grad
    assert stacked.parameters["2.weight"].requires_grad


def test_call_with_one_set_of_weights():
    first, second = seeded(mlp, 0), seeded(mlp, 1)
    x = torch.ones(2, 4)
    torch.testing.assert_close(call(first, weights_of(second), x), second(x))
    mixed = call(first, {"2.bias": second[2].bias}, (x,))
    torch.testing.assert_close(mixed, first(x) - first[2].bias + second[2].bias)


def test_errors_say_what_to_do():
    module = mlp()
    with pytest.raises(GraphError, match="expected at least one module; got none"):
        stack([])
    with pytest.raises(GraphError, match=r"2.bias of shape \(5,\), not \(3,\) \(member 1\)"):
        stack([module, nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))])
    with pytest.raises(GraphError, match="3.weight in addition"):
        stack([module, nn.Sequential(*mlp(), nn.Linear(3, 3))])
    with pytest.raises(GraphError, match="a weight of the module; got a name that it does not have"):
        call(module, {"nothing": torch.ones(1)}, torch.ones(1, 4))
    with pytest.raises(GraphError, match="expected a member from 0 to 1; got 2"):
        unstack(module, stack([module, module]), 2)
    with pytest.raises(GraphError, match="a leading axis of 2 members"):
        call_stacked(module, stack([module, module]), torch.ones(3, 4), shared_inputs=False)
    norm = nn.Sequential(nn.BatchNorm1d(4, momentum=None))
    with pytest.raises(GraphError, match="batch norm 0.*set its momentum"):
        call_stacked(norm, stack([norm, norm]), torch.ones(3, 4))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        x = self.layer(x)
        return x if x.sum() > 0 else -x


def test_data_dependent_network_is_named():
    module = Branching()
    with pytest.raises(GraphError, match=r"several members at once.*call\(module, stacked.member\(i\), inputs\)"):
        call_stacked(module, stack([module, module]), torch.ones(1, 4))


class Twice(nn.Module):
    """One layer at two places, and a third layer with its weight."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again = nn.Sequential(self.layer, nn.Tanh())
        self.other.weight = self.layer.weight

    def forward(self, x):
        return self.other(self.again(torch.tanh(self.layer(x))))


def test_a_layer_at_two_places_is_replaced_at_both_and_stays_as_it_was():
    module, inputs = seeded(Twice, 0), torch.randn(5, 4)
    before = {name: tensor.detach().clone() for name, tensor in weights_of(module).items()}
    own = list(module.parameters())
    others = weights_of(seeded(Twice, 1))
    moved = seeded(Twice, 1)
    assert torch.allclose(call(module, others, inputs), moved(inputs))
    members = call_stacked(module, stack([module, moved]), inputs)
    assert torch.allclose(members[1], moved(inputs), atol=1e-6)
    assert all(a is b for a, b in zip(own, module.parameters(), strict=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(module).items())
