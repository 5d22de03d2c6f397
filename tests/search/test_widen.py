"""What may lie between the layers that make channels and those that read them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.errors import GraphError
from pluriform.search.morphism import Morph
from pluriform.search.moves import apply, legal_moves
from pluriform.search.start import morphable

torch.set_num_threads(1)


class Lambda(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def conv(inputs, outputs, kernel=3, **more):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


def heads(m, x):
    q, k, v = (part.view(x.shape[0], -1, 2, 4).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
    return x + m.out((q @ k.transpose(-1, -2) / 2).softmax(-1).matmul(v).transpose(1, 2).reshape(x.shape[0], -1, 8))


def computed(m, x):
    """Heads as they are usually written, the length of each computed from the stream."""
    b, t, c = x.shape
    q, k, v = m.qkv(m.norm(x)).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return m.head(x + m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)))


class Attention(nn.Module):
    """`nn.MultiheadAttention` in a residual stream."""

    def __init__(self, norm):
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(8, 6), norm, nn.Linear(6, 3)
        self.attention = nn.MultiheadAttention(6, 3, batch_first=True)

    def forward(self, x):
        x = self.enter(x)
        y = self.norm(x)
        return self.leave(x + self.attention(y, y, y, need_weights=False)[0])


IMAGE, TOKENS = (4, 2, 6, 6), (4, 5, 8)
# name: (module, input shape, place, legal numbers, numbers refused, width afterwards)
CASES = {
    "plain": (nn.Sequential(conv(2, 4), nn.BatchNorm2d(4), nn.GELU(), conv(4, 3), nn.Flatten()), IMAGE, "0", 3, 0, 7),
    "flatten": (nn.Sequential(conv(2, 4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)), IMAGE, "0", 3, 0, 7),
    "depthwise": (
        nn.Sequential(conv(2, 4), conv(4, 4, groups=4), nn.PReLU(4), conv(4, 3), nn.Flatten()), IMAGE, "0", 5, 0, 9,
    ),
    "grouped reader": (nn.Sequential(conv(2, 4), conv(4, 6, groups=2), nn.Flatten()), IMAGE, "0", 2, 3, 6),
    "grouped maker": (
        nn.Sequential(conv(2, 4), conv(4, 8, groups=2), nn.Tanh(), conv(8, 3), nn.Flatten()), IMAGE, "1", 4, 3, 12,
    ),
    "group norm": (nn.Sequential(conv(2, 8), nn.GroupNorm(4, 8), conv(8, 3), nn.Flatten()), IMAGE, "0", 6, 3, 14),
    "instance norm": (
        nn.Sequential(conv(2, 4), nn.InstanceNorm2d(4, affine=True), conv(4, 3), nn.Flatten()), IMAGE, "0", 3, 0, 7,
    ),
    "layer norm": (
        nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)), TOKENS, "0", 6, 3, 12,
    ),
    "rms norm": (nn.Sequential(nn.Linear(8, 6), nn.RMSNorm(6), nn.Linear(6, 3)), TOKENS, "0", 6, 3, 12),
    "one group": (nn.Sequential(conv(2, 4), nn.GroupNorm(1, 4), conv(4, 3), nn.Flatten()), IMAGE, "0", 4, 2, 8),
    "concat": (
        Lambda(
            lambda m, x: m.c(torch.cat([m.a(x), m.b(x), m.a(x)], 1)).flatten(1),
            a=conv(2, 3), b=conv(2, 4), c=conv(10, 3),
        ),
        IMAGE, "a", 2, 0, 5,
    ),
    "residual": (
        Lambda(
            lambda m, x: m.c(F.relu(m.a(x) + m.b(F.relu(m.a(x))))).flatten(1),
            a=conv(2, 4), b=conv(4, 4), c=conv(4, 3),
        ),
        IMAGE, "a", 3, 0, 7,
    ),
    "gate": (
        Lambda(
            lambda m, x: m.c(m.a(x) * torch.sigmoid(m.g(m.a(x).mean((2, 3)))[:, :, None, None])).flatten(1),
            a=conv(2, 4), g=nn.Linear(4, 4), c=conv(4, 3),
        ),
        IMAGE, "a", 3, 0, 7,
    ),
    "halves": (
        Lambda(lambda m, x: m.c(torch.mul(*m.a(x).chunk(2, 1))).flatten(1), a=conv(2, 8), c=conv(4, 3)),
        IMAGE, "a", 3, 0, 14,
    ),
    "split by number": (
        Lambda(lambda m, x: m.c(torch.mul(*m.a(x).split(4, 1))).flatten(1), a=conv(2, 8), c=conv(4, 3)),
        IMAGE, "a", 3, 0, 14,
    ),
    "written lengths": (
        Lambda(lambda m, x: m.c(torch.relu(m.a(x)).view(-1, 144)), a=conv(2, 4), c=nn.Linear(144, 3)),
        IMAGE, "a", 1, 0, 5,
    ),
    "layer of attention": (Attention(nn.Identity()), TOKENS, "enter", 1, 0, 8),
    "attention behind layer norm": (Attention(nn.LayerNorm(6)), TOKENS, "enter", 3, 2, 12),
    "computed lengths": (
        nn.Sequential(
            nn.Linear(8, 8),
            Lambda(
                computed, norm=nn.LayerNorm(8), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), head=nn.Linear(8, 3)
            ),
        ),
        TOKENS, "0", 2, 1, 16,
    ),
    "heads": (Lambda(heads, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), TOKENS, "qkv", 1, 0, 36),
}  # fmt: skip
REFUSED = {
    "softmax": (nn.Sequential(conv(2, 4), nn.Softmax(1), conv(4, 3), nn.Flatten()), IMAGE, "0", "mixes it"),
    "length": (
        Lambda(lambda m, x: m.c(F.normalize(m.a(x), dim=1)).flatten(1), a=conv(2, 4), c=conv(4, 3)),
        IMAGE, "a", "mixes",
    ),
    "shuffle": (nn.Sequential(conv(2, 4), nn.ChannelShuffle(2), conv(4, 3), nn.Flatten()), IMAGE, "0", "passes"),
    "slice": (Lambda(lambda m, x: m.c(m.a(x)[:, :3]).flatten(1), a=conv(2, 4), c=conv(3, 3)), IMAGE, "a", "cuts it"),
    "output": (nn.Sequential(conv(2, 4), nn.ReLU(), nn.Flatten()), IMAGE, "0", "output of the network"),
    "tied to the input": (
        Lambda(lambda m, x: m.c(x + m.a(x)).flatten(1), a=conv(2, 2), c=conv(2, 3)), IMAGE, "a", "input of the network",
    ),
    "norm over both": (
        Lambda(
            lambda m, x: m.c(m.n(torch.cat([m.a(x), m.b(x)], -1))),
            a=nn.Linear(8, 4), b=nn.Linear(8, 4), n=nn.LayerNorm(8), c=nn.Linear(8, 2),
        ),
        TOKENS, "a", "averages it",
    ),
    "norm with dropout": (
        nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.LayerNorm(6), nn.Linear(6, 3)), TOKENS, "0", "draw anew",
    ),
    "norm with random slopes": (
        nn.Sequential(nn.Linear(8, 6), nn.RReLU(), nn.LayerNorm(6), nn.Linear(6, 3)), TOKENS, "0", "draw anew",
    ),
}  # fmt: skip


def prepared(net, shape, settle):
    torch.manual_seed(0)
    inputs = torch.randn(shape, dtype=torch.double)
    return settle(net, inputs), inputs


@pytest.mark.parametrize("name", CASES)
def test_new_channels_change_nothing(name, settle):
    net, shape, place, added, wrong, width = CASES[name]
    net, inputs = prepared(net, shape, settle)
    graph = morphable(net, inputs)
    assert place in {morph.place[0] for morph in legal_moves(graph, ["widen"])}
    child = apply(graph, Morph("widen", (place,), (added,), seed=4))
    layer = child.module.get_submodule(place)
    assert layer.weight.shape[0] == width
    for training in (False, True):
        wanted = copy.deepcopy(net).train(training)(inputs)
        assert torch.allclose(copy.deepcopy(child.module).train(training)(inputs), wanted, rtol=1e-10, atol=1e-10)
    rows = layer.weight.detach().flatten(1)
    copied = name in ("layer norm", "rms norm", "one group", "attention behind layer norm", "computed lengths")
    assert len(rows.unique(dim=0)) == (len(rows) // 2 if copied else len(rows))
    if wrong:
        with pytest.raises(GraphError, match="more channels"):
            apply(graph, Morph("widen", (place,), (wrong,)))


@pytest.mark.parametrize("name", REFUSED)
def test_channels_that_cannot_grow_are_refused_with_the_reason(name):
    net, shape, place, words = REFUSED[name]
    graph = morphable(net, torch.zeros(shape))
    assert place not in {morph.place[0] for morph in legal_moves(graph, ["widen"])}
    with pytest.raises(GraphError, match=words):
        apply(graph, Morph("widen", (place,), (2,)))


def test_old_weights_stay_where_they_are_and_new_columns_are_zero(settle):
    net, inputs = prepared(*CASES["flatten"][:2], settle)
    child = apply(morphable(net, inputs), Morph("widen", ("0",), (2,), seed=1)).module
    assert torch.equal(child.get_parameter("0.weight")[:4], net[0].weight)
    assert torch.equal(child.get_parameter("3.weight")[:, :36], net[3].weight)
    assert torch.equal(child.get_parameter("3.weight")[:, 36:], torch.zeros(3, 18, dtype=torch.double))
    new, old = child.get_parameter("0.weight")[4:].detach(), net[0].weight.detach()
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.5)


def test_seeds_decide_new_weights(settle):
    net, inputs = prepared(*CASES["plain"][:2], settle)
    graph = morphable(net, inputs)
    one, same, other = (
        apply(graph, Morph("widen", ("0",), (3,), seed=seed)).module.get_parameter("0.weight") for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
