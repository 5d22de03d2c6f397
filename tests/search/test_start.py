"""Starting networks: what writes into its input, what depends on the mode, what cannot be read."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.errors import GraphError, UnsupportedOpError
from pluriform.graph.fingerprint import fingerprint
from pluriform.search.morphism import Morph
from pluriform.search.moves import apply, legal_moves, replay
from pluriform.search.start import morphable

torch.set_num_threads(1)


class Net(nn.Module):
    """A small network whose middle is given."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.second, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("shift", torch.rand(4, 1, 1))
        self.middle = middle

    def forward(self, x):
        return self.head(self.middle(self, self.conv(x)).mean((2, 3)))


def read_twice(net, y):
    pooled = F.max_pool2d(y, 1)
    return net.relu(y) + pooled


def read_after(net, y):
    z = net.relu(y)
    return z * 2 + y


def added_in_place(net, y):
    y += net.scale
    return torch.relu_(net.norm(y)).mul_(0.5)


def with_function(net, y):
    return F.elu(F.relu(y, inplace=True), 1.0, True) + net.shift


def called_twice(net, y):
    return net.relu(net.norm(net.relu(net.norm(y)))) + y


def second_twice(net, y):
    return net.second(net.relu(net.second(y)))


def without_padding(net, y):
    return torch.cat([net.second(y), y[:, :, 1:-1, 1:-1]], 1)[:, :4]


MIDDLES = [read_twice, read_after, added_in_place, with_function, called_twice, second_twice, without_padding]
INPUTS = torch.randn(4, 2, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def outputs(module, training):
    with torch.no_grad():
        return copy.deepcopy(module).train(training)(INPUTS.clone())


@pytest.mark.parametrize("middle", MIDDLES)
def test_what_writes_in_place_or_is_shared_keeps_its_function_under_all_moves(middle):
    net = Net(middle).double()
    before = fingerprint(net)
    graph = morphable(net, INPUTS)
    assert fingerprint(net) == before
    assert net.relu.inplace
    first = {}
    for morph in legal_moves(graph):
        first[morph.operation, morph.place[0]] = morph
    assert len({operation for operation, _ in first}) >= 3
    for morph in first.values():
        child = apply(graph, morph).module
        for training in (False, True):
            assert torch.allclose(outputs(net, training), outputs(child, training), rtol=1e-10, atol=1e-10), morph


def test_functional_dropout_follows_the_mode():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 64), nn.Linear(64, 3)

        def forward(self, x):
            return self.two(F.dropout(torch.relu(self.one(x)), 0.5, self.training))

    net, inputs = Dropping(), torch.randn(5, 8)
    child = apply(morphable(net.train(), inputs), Morph("widen", ("one",), (8,))).module
    assert torch.allclose(child.eval()(inputs), net.eval()(inputs), atol=1e-6)
    assert torch.equal(child(inputs), child(inputs))
    assert not torch.equal(child.train()(inputs), child(inputs))
    assert [layer.p for layer in child.modules() if isinstance(layer, nn.Dropout)] == [0.5]


def test_the_mode_of_the_user_is_kept():
    for training in (False, True):
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)).train(training)
        graph = apply(morphable(net, torch.zeros(2, 4)), Morph("deepen_branch", ("2",), (8, 1)))
        assert {graph.submodule(node).training for node in graph.nodes if node.module} == {training}


def test_a_network_that_is_another_one_in_training_mode_is_refused_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            x = self.layer(x)
            return x * 2 if self.training else torch.relu(x)

    with pytest.raises(GraphError, match=r"mul.*test_start.py.*differs between"):
        morphable(Two(), torch.zeros(2, 4))


def test_numbers_that_depend_on_the_mode_are_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) * (0.5 if self.training else 1.0)

    with pytest.raises(GraphError, match="one code for training and evaluation"):
        morphable(Scaled(), torch.zeros(2, 4))


class Unreadable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if float(x.detach().sum()) > -1e9 else x


def test_a_network_that_cannot_be_read_is_refused_by_name():
    with pytest.raises(UnsupportedOpError, match=r"Unreadable|network.*black box"):
        morphable(Unreadable(), torch.zeros(2, 4))


def test_a_part_that_cannot_be_read_is_a_black_box_and_the_rest_moves():
    net = nn.Sequential(nn.Linear(4, 4), Unreadable(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    inputs = torch.randn(3, 4, dtype=torch.double)
    graph = morphable(net, inputs)
    moves = legal_moves(graph)
    assert {morph.operation for morph in moves} >= {"widen", "deepen", "deepen_branch"}
    with pytest.raises(GraphError, match="fixed"):
        apply(graph, Morph("widen", ("0",), (2,)))
    for morph in moves:
        assert torch.allclose(apply(graph, morph).module(inputs), net(inputs), atol=1e-10)


def test_computed_weights_stay_as_they_are():
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    graph = morphable(net, torch.zeros(2, 2, 6, 6))
    places = {morph.place for morph in legal_moves(graph, ["widen", "grow_kernel"])}
    assert ("0",) not in places
    with pytest.raises(GraphError, match="computed from"):
        apply(graph, Morph("grow_kernel", ("0",), (5, 5)))


def test_flags_and_types_travel_with_their_layers():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(torch.bfloat16)
    net[0].weight.requires_grad_(False)
    graph = morphable(net, torch.zeros(2, 4, dtype=torch.bfloat16))
    child = replay(graph, [Morph("widen", ("0",), (4,)), Morph("deepen_branch", ("1",), (8, 1))]).module
    assert not child.get_parameter("0.weight").requires_grad
    assert child.get_parameter("0.bias").requires_grad
    assert child.get_parameter("2.weight").requires_grad
    assert {parameter.dtype for parameter in child.parameters()} == {torch.bfloat16}


def test_weights_are_not_shared_with_the_parent():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = morphable(net, torch.zeros(2, 4))
    child = apply(graph, Morph("deepen", ("1",), (1,)))
    with torch.no_grad():
        for parameter in child.module.parameters():
            parameter.zero_()
    assert float(net[0].weight.detach().abs().sum()) > 0
    assert float(graph.module.get_parameter("0.weight").detach().abs().sum()) > 0


def test_a_network_without_a_batch_or_with_two_inputs_moves():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x, y):
            return self.head(torch.relu(self.left(x) + self.right(y)))

    net, inputs = Pair().double(), (torch.randn(3, 4).double(), torch.randn(3, 3).double())
    graph = morphable(net, inputs)
    for morph in legal_moves(graph):
        assert torch.allclose(apply(graph, morph).module(*inputs), net(*inputs), atol=1e-10), morph


def test_a_second_skip_of_the_same_kind_is_not_offered():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    graph = morphable(net, torch.zeros(2, 4))
    assert {morph.place for morph in legal_moves(graph, ["add_skip"])} == {("1", "3")}
    child = apply(graph, Morph("add_skip", ("1", "3")))
    places = {morph.place for morph in legal_moves(child, ["add_skip"])}
    assert ("1", "add1_add") not in places
    again = apply(child, Morph("deepen_branch", ("add1_add",), (8, 1)))
    assert ("1", "branch1_add") not in {morph.place for morph in legal_moves(again, ["add_skip"])}


def test_a_network_without_legal_moves_is_refused_by_node_and_reason():
    with pytest.raises(GraphError, match=r"0 \(linear.*an output of the network.*hidden layer"):
        morphable(nn.Sequential(nn.Linear(4, 2)), torch.zeros(2, 4))
    with pytest.raises(GraphError, match=r"softmax"):
        morphable(nn.Softmax(1), torch.zeros(2, 4))


def test_a_copy_that_computes_something_else_is_refused():
    class Signs(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.hidden(x))
            return self.out(x) + (-2) ** (2 * torch.ones_like(x[:, :3]))  # Traced as -(2 ** ...).

    with pytest.raises(GraphError, match=r"a copy that computes .* differ by up to 8 \(search from Signs\)"):
        morphable(Signs(), torch.randn(4, 5))


def test_networks_that_draw_numbers_are_read_and_generators_left_alone():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(torch.relu(self.hidden(x + torch.randn_like(x))))

    network, x = Noisy(), torch.ones(4, 5)
    before = torch.get_rng_state()
    assert len(legal_moves(morphable(network, x))) > 0
    assert torch.equal(torch.get_rng_state(), before)
