"""Activations by node name against forward hooks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError
from pluriform.graph.features import features, tap
from pluriform.graph.trace import trace
from pluriform.nets.zoo import build

torch.set_num_threads(1)


def hooked(module, inputs, names):
    found = {}
    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found.update({name: out.clone()})
        )
        for name in names
    ]
    module(inputs)
    for handle in handles:
        handle.remove()
    return found


class Net(nn.Module):
    """Writes in place where a later layer would spoil the activation of an earlier one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.body(x))
        y += x
        return self.head(y.mean((2, 3)))


NAMES = ["stem.0", "stem.1", "stem.2", "body", "head"]


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def test_equal_to_hooks_where_layers_write_in_place(net):
    x = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    got, expected = features(net, x, NAMES), hooked(net, x, NAMES)
    assert list(got) == NAMES
    for name in NAMES:
        assert torch.equal(got[name], expected[name]), name


def test_equal_to_hooks_on_a_zoo_network():
    module = build("resnet20", Signature("s", "classification", (3, 16, 16), 2)).eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    names = [
        name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]
    expected = hooked(module, x, names)
    for name, value in features(module, x, names).items():
        assert torch.equal(value, expected[name]), name


def test_functions_the_output_and_other_batch_sizes(net):
    graph = trace(net, torch.zeros(2, 1, 6, 6))
    x = torch.ones(7, 1, 6, 6)
    name = graph.output.inputs[0]
    got = features(graph, x, [graph.output.name, name, "mean"])
    assert torch.equal(got["output"], net(x))
    assert torch.equal(got[name], net(x))
    assert got["mean"].shape == (7, 4)
    assert features(graph, x, "x")["x"].shape == x.shape


def test_what_lies_behind_is_not_computed(net):
    graph = trace(net, torch.zeros(2, 1, 6, 6))
    assert not any(node.target == "head" for node in tap(graph, ["body"]).graph.nodes)


def test_gradients_reach_the_input_and_the_weights(net):
    x = torch.ones(2, 1, 6, 6, requires_grad=True)
    features(net, x, "body")["body"].sum().backward()
    assert x.grad is not None
    assert net.stem[0].weight.grad is not None
    assert net.head.weight.grad is None


def test_weights_and_modes_are_shared(net):
    graph = trace(net, torch.zeros(2, 1, 6, 6))
    tapped = tap(graph, ["stem.1"])
    with torch.no_grad():
        net.stem[0].weight.zero_()
    x = torch.ones(2, 1, 6, 6)
    assert torch.equal(tapped(x)["stem.1"], net.stem[:2](x))


def test_tuples_are_returned_whole():
    class Halves(nn.Module):
        def forward(self, x):
            a, b = x.chunk(2, 1)
            return a + b

    got = features(Halves(), torch.ones(3, 4), ["chunk"])["chunk"]
    assert [part.shape for part in got] == [(3, 2), (3, 2)]


def test_unknown_names_get_suggestions(net):
    with pytest.raises(GraphError, match=r"got 'stem\.O'.*did you mean.*stem\.0"):
        features(net, torch.ones(1, 1, 6, 6), ["stem.O"])
    with pytest.raises(GraphError, match="at least one node; got none"):
        features(net, torch.ones(1, 1, 6, 6), [])
