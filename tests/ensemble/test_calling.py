"""The ways to compute networks that differ in their weights: outputs, gradients, running statistics."""

import copy
import re

import pytest
import torch
from torch import nn

from pluriform.ensemble.calling import (
    MOST_MULTIPLICATIONS,
    Calling,
    by_count,
    call_members,
    laid_out,
    multiplications,
    split_members,
    takes_channels_last,
)
from pluriform.errors import GraphError
from pluriform.graph.parameters import call_stacked, stack, unstack, weights_of

MEMBERS = 5
WAYS = {
    "vmap": Calling("vmap", MEMBERS),
    "chunk": Calling("chunk", 2),
    "loop": Calling("loop", 1),
    "channels-last": Calling("loop", 1, True),
}


class Attention(nn.Module):
    """Multi-head attention and a whole transformer layer on six tokens."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = x.reshape(len(x), 6, 8)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.layer(tokens).mean(1))


class Tied(nn.Module):
    """The embedding is the output layer, too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.body = nn.Linear(6, 6)
        self.out = nn.Linear(6, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x):
        index = (x.flatten(1)[:, :4].abs() * 3).long() % 7
        return self.out(self.body(self.embedding(index)).tanh().mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x.reshape(len(x), 6, 8))[0][:, -1])


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))


def conv():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2), nn.Flatten(), nn.Linear(4, 3)
    )


def norms():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)
    )


NETWORKS = {"mlp": mlp, "conv": conv, "norms": norms, "attention": Attention, "tied": Tied}


def case(make, dtype):
    """A network, five other sets of weights for it, and images."""
    torch.manual_seed(0)
    members = [make().to(dtype) for _ in range(MEMBERS)]
    return members, torch.randn(7, 3, 4, 4, dtype=dtype)


def tolerance(dtype):
    return {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_way_computes_the_networks_themselves(name, dtype, way):
    """Outputs and gradients against each network called as an ordinary module."""
    members, x = case(NETWORKS[name], dtype)
    template = NETWORKS[name]().to(dtype).eval()
    weights = stack(members).parameters
    outputs = call_members(template, weights, x, WAYS[way])
    target = torch.randn(outputs.shape, dtype=dtype)
    (outputs * target).sum().backward()
    expected = torch.stack([member.eval()(x) for member in members])
    (expected * target).sum().backward()
    torch.testing.assert_close(outputs, expected, **tolerance(dtype))
    for position, member in enumerate(members):
        for own, parameter in member.named_parameters():
            torch.testing.assert_close(weights[own].grad[position], parameter.grad, **tolerance(dtype))
    assert all(parameter.grad is None for parameter in template.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["mlp", "norms"])
def test_members_with_inputs_of_their_own(name, way):
    members, _ = case(NETWORKS[name], torch.float64)
    inputs = torch.randn(MEMBERS, 4, 3, 4, 4, dtype=torch.float64)
    found = call_members(members[0].eval(), stack(members).parameters, inputs, WAYS[way], shared_inputs=False)
    for member, x, own in zip(members, inputs, found, strict=True):
        torch.testing.assert_close(own, member.eval()(x), **tolerance(torch.float64))


@pytest.mark.parametrize("way", WAYS)
def test_running_statistics_are_each_members_own(way):
    """In training mode the stacked statistics move as in ordinary modules, and those of the template stay."""
    members, x = case(norms, torch.float64)
    template = norms().double().train()
    before = copy.deepcopy(template.state_dict())
    stacked = stack(members)
    weights = {name: tensor.detach() for name, tensor in stacked.parameters.items()} | stacked.buffers
    found = call_members(template, weights, x, WAYS[way])
    expected = torch.stack([member.train()(x) for member in members])
    torch.testing.assert_close(found, expected, **tolerance(torch.float64))
    for position, member in enumerate(members):
        for name, buffer in member.named_buffers():
            torch.testing.assert_close(stacked.buffers[name][position], buffer)
    assert all(torch.equal(tensor, template.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("way", ["vmap", "chunk", "loop"])
def test_dropout_draws_a_mask_for_each_member(way):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 400), nn.Dropout(0.5))
    weights = stack([network] * MEMBERS).parameters
    outputs = call_members(network.train(), weights, torch.randn(2, 3, 4, 4), WAYS[way])
    assert outputs.shape == (MEMBERS, 2, 400)
    zeros = outputs == 0
    assert abs(float(zeros.float().mean()) - 0.5) < 0.06
    assert all(not torch.equal(zeros[0], zeros[i]) for i in range(1, MEMBERS))


def test_an_lstm_takes_the_loop_and_says_why():
    members, x = case(Recurrent, torch.float64)
    weights = {name: tensor.detach() for name, tensor in stack(members).parameters.items()}
    calling = by_count(members[0], weights, x, MEMBERS)
    assert calling.way == "loop"
    assert "cannot be computed for several members at once" in calling.reason
    found = call_members(members[0], weights, x, calling)
    torch.testing.assert_close(found, torch.stack([member(x) for member in members]), **tolerance(torch.float64))
    with pytest.raises(GraphError, match="several members at once"):
        call_members(members[0], weights, x, WAYS["vmap"])


@pytest.mark.parametrize("way", ["vmap", "chunk", "loop"])
def test_weights_that_are_not_named_stay_those_of_the_template(way):
    members, x = case(conv, torch.float64)
    last = {name: tensor for name, tensor in stack(members).parameters.items() if name.startswith("5.")}
    found = call_members(members[0], last, x, WAYS[way])
    for position, own in enumerate(found):
        expected = copy.deepcopy(members[0])
        expected[5].load_state_dict(members[position][5].state_dict())
        torch.testing.assert_close(own, expected(x), **tolerance(torch.float64))


def test_what_members_share_is_computed_once():
    """Only the last layer differs: the body runs on one batch, not on one a member, and gets the summed gradient."""
    members, x = case(conv, torch.float64)
    template = members[0]
    stacked = stack(members)
    last = {name: tensor for name, tensor in stacked.parameters.items() if name.startswith("5.")}
    whole = {
        name: tensor if name in last else tensor[:1].expand_as(tensor) for name, tensor in stacked.parameters.items()
    }
    batched = []
    template[0].register_forward_hook(lambda _, args, out: batched.append(torch._C._functorch.is_batchedtensor(out)))
    partial = call_stacked(template, type(stacked)({}, last), x)
    assert batched == [False]
    full = call_stacked(template, type(stacked)({}, whole), x)
    assert batched == [False, True]
    torch.testing.assert_close(partial, full, **tolerance(torch.float64))
    partial.square().sum().backward()
    alone = [copy.deepcopy(template) for _ in members]
    for position, module in enumerate(alone):
        module.zero_grad()
        module[5].load_state_dict(members[position][5].state_dict())
        module(x).square().sum().backward()
    for name, parameter in template.named_parameters():
        if name not in last:
            torch.testing.assert_close(parameter.grad, sum(dict(m.named_parameters())[name].grad for m in alone))


def test_partial_weights_of_another_architecture_are_refused():
    module = mlp()
    with pytest.raises(GraphError, match=r"weights of one architecture.*nothing in addition"):
        call_members(module, {"nothing": torch.zeros(2, 3)}, torch.zeros(1, 48), WAYS["vmap"])
    with pytest.raises(GraphError, match=r"1\.bias of shape \(9,\), not \(8,\)"):
        call_members(module, {"1.bias": torch.zeros(2, 9)}, torch.zeros(1, 48), WAYS["vmap"])


def test_split_members_gives_all_of_them_in_order():
    weights = {"a": torch.arange(10).view(5, 2), "b": torch.arange(5)}
    parts = split_members(weights, 2)
    assert [len(part["a"]) for part in parts] == [2, 2, 1]
    for name, tensor in weights.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def test_multiplications_of_known_layers():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 5)).train()
    count = multiplications(network, torch.randn(2, 3, 4, 4))
    assert count == 2 * (6 * 3 * 9 * 16 + 96 * 5)
    assert all(part.training for part in network.modules())
    assert torch.equal(network[1].running_mean, torch.zeros(6))


@pytest.mark.parametrize(("batch", "way"), [(1, "vmap"), (2000, "chunk"), (10**6, "loop")])
def test_small_networks_are_computed_together_and_large_ones_in_a_loop(batch, way):
    network = nn.Linear(10, 4)
    weights = stack([network] * 8).parameters
    calling = by_count(network, weights, torch.zeros(batch, 10), 8)
    assert (calling.way == "loop") == (40 * batch > MOST_MULTIPLICATIONS)
    assert calling.way == way
    assert 1 <= calling.chunk <= 8


def test_shared_layers_are_not_computed_again_for_every_member():
    network = nn.Sequential(nn.Linear(10, 5000), nn.ReLU(), nn.Linear(5000, 3))
    weights = stack([network] * 4).parameters
    x = torch.zeros(100, 10)
    assert by_count(network, weights, x, 4).autograd().way == "loop"
    calling = by_count(network, {name: part for name, part in weights.items() if name.startswith("2.")}, x, 4)
    assert calling.way == "vmap"
    assert "shared" in calling.reason
    assert "not fused: all networks share 0.weight" in calling.reason


def differences(found, expected):
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_chains_are_fused_where_nothing_is_differentiated(name):
    members, x = case(NETWORKS[name], torch.float32)
    weights = {own: tensor.detach() for own, tensor in stack(members).parameters.items()}
    calling = by_count(members[0], weights, x, MEMBERS)
    assert (calling.way, calling.autograd().way) == ("fused", "chunk")
    expected = torch.stack([member(x) for member in members])
    fused = call_members(members[0], weights, x, calling)
    assert fused.grad_fn is None
    assert differences(fused, expected) < 1e-6
    inputs = x.clone().requires_grad_()
    found = call_members(members[0], weights, inputs, calling)
    found.sum().backward()
    known = x.clone().requires_grad_()
    torch.stack([member(known) for member in members]).sum().backward()
    torch.testing.assert_close(inputs.grad, known.grad)
    with torch.no_grad():
        assert torch.equal(call_members(members[0], weights, inputs, calling), fused)
        own = call_members(members[0], weights, x.expand(MEMBERS, *x.shape), calling, shared_inputs=False)
    assert torch.equal(own, fused)


def test_a_network_that_is_no_chain_is_not_fused():
    members, x = case(norms, torch.float32)
    weights = {own: tensor.detach() for own, tensor in stack(members).parameters.items()}
    calling = by_count(members[0].eval(), weights, x, MEMBERS)
    assert calling.way == "vmap"
    assert re.search(r"not fused: 1 \(batch_norm.* is not in this engine", calling.reason)
    with pytest.raises(GraphError, match=r"fused kernels compute.*batch_norm"):
        call_members(members[0], weights, x, Calling("fused", 2))


def test_only_images_and_filters_are_laid_out():
    last = WAYS["channels-last"]
    image = torch.randn(2, 3, 5, 4)
    assert laid_out(image, last).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(laid_out(image, last), image)
    single = torch.randn(2, 1, 5, 4)
    assert laid_out(single, last).stride()[1:] == (1, 4, 1)
    assert laid_out(image, WAYS["loop"]) is image
    row = torch.randn(2, 3)
    assert laid_out(row, last) is row
    once = laid_out(image, last)
    assert laid_out(once, last) is once


def test_which_networks_take_channels_last():
    x = torch.randn(2, 3, 4, 4)
    network = conv()
    assert takes_channels_last(network, x)
    assert network[0].weight.is_contiguous()
    assert not takes_channels_last(mlp(), x)


def test_a_calling_is_plain_json_and_back():
    calling = Calling("chunk", 3, False, "why")
    assert Calling(**calling.to_json()) == calling


def test_unstacked_weights_are_the_members():
    members, _ = case(norms, torch.float32)
    stacked = stack(members)
    made = unstack(members[0], stacked, 3)
    assert all(torch.equal(tensor, weights_of(members[3])[name]) for name, tensor in weights_of(made).items())
