"""Both parts of a network together are the network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError
from pluriform.graph.cut import cut, suffix
from pluriform.graph.features import features
from pluriform.graph.trace import trace
from pluriform.nets.zoo import build

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.full((2, 1, 1), 0.5))
        self.side = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        batch = x.size(0)
        x = F.relu(self.conv(x)) * self.scale
        x = self.side(x) + x
        return self.head(torch.tanh(x).view(batch, -1))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


WHOLE = ["conv", "relu", "mul", "add", "tanh", "view", "head"]


@pytest.mark.parametrize("after", WHOLE)
def test_prefix_and_suffix_compose_to_the_network(net, after):
    graph, x = trace(net, torch.zeros(2, 1, 4, 4)), torch.randn(5, 1, 4, 4)
    first, second = cut(graph, after), suffix(graph, after)
    torch.testing.assert_close(second.module(first.module(x)), net(x))
    assert torch.equal(first.module(x), features(graph, x, after)[after])
    assert first.output.shape == graph[after].shape
    assert all(not name.startswith("head") for name in first.root.state_dict()) or after == "head"
    assert all(not name.startswith("conv") for name in second.root.state_dict())


def test_copies_do_not_touch_the_network(net):
    graph = trace(net, torch.zeros(2, 1, 4, 4))
    for part in (cut(graph, "add"), suffix(graph, "add")):
        with torch.no_grad():
            for parameter in part.root.parameters():
                parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in net.parameters())


def test_a_branch_around_the_node_is_named(net):
    graph = trace(net, torch.zeros(2, 1, 4, 4))
    with pytest.raises(GraphError, match="a rest that reads side only; got one that also reads mul"):
        suffix(graph, "side")


class Tokens(nn.Module):
    """Attention whose code takes all lengths from its first tensor."""

    def __init__(self):
        super().__init__()
        self.embed, self.mixed = nn.Linear(4, 6), nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.places = nn.Parameter(torch.randn(8, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        most = self.places.size(0)
        x = self.embed(x)
        b, n, _ = x.shape
        x = x + self.places
        for layer in self.mixed:
            split = layer(x).view(b, n, 2, 3).transpose(1, 2)
            x = x + split.transpose(1, 2).reshape(b, n * 1, -1)
        return self.head(x.reshape(b, most, -1).reshape(b, -1)[:, : (n // 2) * 6].view(b, n // 2, 6).mean(1))


@pytest.mark.parametrize("after", ["embed", "add", "add_1", "add_2"])
def test_lengths_of_tensors_before_the_cut_are_known_behind_it(after):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = Tokens().eval(), torch.randn(5, 8, 4)
    graph = trace(net, torch.zeros(2, 8, 4))
    torch.testing.assert_close(suffix(graph, after).module(cut(graph, after).module(x)), net(x))


def test_cut_at_the_output_and_at_the_input(net):
    graph, x = trace(net, torch.zeros(2, 1, 4, 4)), torch.randn(3, 1, 4, 4)
    assert torch.equal(cut(graph, "output").module(x), net(x))
    assert torch.equal(suffix(graph, "x").module(x), net(x))
    with pytest.raises(GraphError, match="expected the name of a node"):
        cut(graph, "nowhere")
    with pytest.raises(GraphError, match="a node with one tensor as output"):
        suffix(graph, "output")


def test_backbone_of_a_zoo_network():
    net = build("resnet20", Signature("s", "classification", (3, 16, 16), 5)).eval()
    graph = trace(net, torch.zeros(2, 3, 16, 16))
    backbone = cut(graph, "pool")
    assert backbone.output.shape == (2, 64, 1, 1)
    assert not any("classifier" in name for name in backbone.root.state_dict())
