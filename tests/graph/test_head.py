"""Which layer is the last, and another in its place."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError, ShapeError
from pluriform.graph.head import find_head, replace_head
from pluriform.graph.trace import trace
from pluriform.nets.zoo import build

torch.set_num_threads(1)
HEADS = {"mlp": 16, "lenet": 16, "resnet20": 16}


class Squeeze(nn.Module):
    """A 1 x 1 convolution as head, with pooling and flattening behind it, as in SqueezeNet."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 6, 1)

    def forward(self, x):
        return F.log_softmax(F.adaptive_avg_pool2d(self.head(self.body(x)).relu(), 1).flatten(1), 1)


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x) + self.second(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).relu())


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x):
        return self.layer(x).reshape(-1, 2, 3).mean(2)


@pytest.mark.parametrize("name", HEADS)
def test_zoo_networks_get_a_new_width_and_keep_the_rest(name):
    net = build(name, Signature("s", "classification", (3, HEADS[name], HEADS[name]), 5)).eval()
    x = torch.ones(2, 3, HEADS[name], HEADS[name])
    graph = trace(net, x)
    edited = replace_head(graph, 7)
    path = find_head(graph).module
    assert edited.output.shape == (2, 7)
    assert type(edited.root) is type(net)
    for key, tensor in net.state_dict().items():
        if not key.startswith(f"{path}."):
            assert torch.equal(edited.root.state_dict()[key], tensor), key
    assert edited.root.state_dict().keys() == net.state_dict().keys()
    assert edited.module(torch.ones(3, *x.shape[1:])).shape == (3, 7)


def test_convolution_as_head():
    graph = trace(Squeeze(), torch.ones(2, 3, 8, 8))
    edited = replace_head(graph, 11)
    assert find_head(graph).name == "head"
    assert edited.root.head.weight.shape == (11, 4, 1, 1)
    assert edited.module(torch.ones(5, 3, 8, 8)).shape == (5, 11)


def test_same_seed_same_head_within_its_bounds():
    graph = trace(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 3)), torch.ones(1, 4))
    first, second, third = (replace_head(graph, 200, seed=seed).root[1].weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert 0.24 < first.abs().max() <= 0.25
    assert first.requires_grad


def test_the_global_generator_is_not_drawn_from():
    graph, state = trace(Squeeze(), torch.ones(2, 3, 8, 8)), torch.random.get_rng_state()
    replace_head(graph, 3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_bias_type_and_seed_follow_the_old_layer():
    graph = trace(nn.Sequential(nn.Linear(4, 3, bias=False).double()), torch.ones(1, 4, dtype=torch.float64))
    layer = replace_head(graph, 2).root[0]
    assert layer.bias is None
    assert layer.weight.dtype is torch.float64


def test_ambiguous_heads_ask_for_a_name():
    graph = trace(TwoBranches(), torch.ones(1, 4))
    with pytest.raises(GraphError, match=r"got add \(add.*name='first' or 'second'"):
        replace_head(graph, 2)
    with pytest.raises(ShapeError, match="after replace of second"):
        replace_head(graph, 2, name="second")
    with pytest.raises(GraphError, match=r"layer@1 \(linear.*called 2 times"):
        replace_head(trace(Tied(), torch.ones(1, 4)), 2)
    with pytest.raises(GraphError, match="a linear or convolutional layer.*'1', Tanh"):
        replace_head(trace(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.ones(1, 4)), 2, name="1")


def test_named_layer_in_the_middle():
    graph = trace(TwoBranches(), torch.ones(1, 4))
    edited = replace_head(graph, 1, name="second")
    assert edited.root.second.out_features == 1


def test_width_fixed_behind_the_head_is_an_error():
    with pytest.raises(ShapeError, match=r"expected 12 outputs; got shape \(8, 2\)"):
        replace_head(trace(Fixed(), torch.ones(4, 4)), 12)
    with pytest.raises(ShapeError, match="at least one output; got 0"):
        replace_head(trace(Fixed(), torch.ones(4, 4)), 0)


class Foreign(nn.Module):
    """The head lies in a part that cannot be followed."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.part = Jumping()

    def forward(self, x):
        return self.part(self.stem(x))


class Jumping(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x if x.sum() > 0 else -x)


def test_named_head_inside_an_opaque_part():
    graph = trace(Foreign(), torch.ones(2, 4))
    with pytest.raises(GraphError, match=r"got part \(opaque"):
        replace_head(graph, 9)
    edited = replace_head(graph, 9, name="part.head")
    assert edited.root(torch.ones(2, 4)).shape == (2, 9)
    assert type(edited.root) is Foreign
