"""Self-attention: the finite layer, the rule against sums over tokens, and what is refused."""

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, ShapeError, UnsupportedOpError
from pluriform.infinite.attention import attention_weights
from pluriform.infinite.features import input_kernel
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.self_attention import GlobalSelfAttention


def tokens(n=3, count=4, width=6):
    return torch.randn(n, count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Reader(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention, self.head = attention, nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.attention(x)[:, 0])


@pytest.mark.parametrize("normalise", ["softmax", "identity", "abs", "relu"])
def test_the_kernel_is_a_sum_over_tokens(normalise):
    x = tokens()
    overrides = {"attention.query": (0.7, 0.0), "attention.value": (1.3, 0.0), "attention.output": (0.9, 0.2)}
    net = Reader(GlobalSelfAttention(6, 5, width=8, normalise=normalise))
    kernel = kernel_of(net, x, overrides={**overrides, "head": (1.0, 0.0)})(x)
    moments = torch.einsum("ipc,jqc->ijpq", x, x) / 6
    weights = torch.stack([attention_weights(0.7 * moments[i, i], normalise)[0] for i in range(3)])
    mixed = 0.9 * 1.3 * torch.einsum("ip,ijpq,jq->ij", weights, moments, weights)
    assert torch.allclose(kernel.nngp, mixed + 0.2)
    assert torch.allclose(kernel.ntk, 2 * mixed + 0.2 + kernel.nngp)


def test_frozen_parts_add_nothing_to_the_ntk():
    x = tokens()
    net = Reader(GlobalSelfAttention(6, 5, width=8))
    net.attention.requires_grad_(False)
    kernel = kernel_of(net, x, bias_var=0.1)(x)
    assert torch.allclose(kernel.ntk, kernel.nngp)
    trained = Reader(GlobalSelfAttention(6, 5, width=8))
    with pytest.raises(UnsupportedOpError, match="frozen queries in the standard"):
        kernel_of(trained, x, parameterization="standard")
    trained.attention.query.requires_grad_(False)
    standard = kernel_of(trained, x, parameterization="standard")(x)
    moments = input_kernel(x, x, same=True, ntk=False, channel_axis=-1).nngp
    weights = torch.stack([attention_weights(2.0 * moments[i, i], "softmax")[0] for i in range(3)])
    mixed = torch.einsum("ip,ijpq,jq->ij", weights, moments, weights)
    # head: 5 * 4 mixed + 1; values: 6 * 2 * 2; output: 8 * 2 * 2 and its bias 2
    assert torch.allclose(standard.ntk, (5 * 4 + 6 * 4 + 8 * 4) * mixed + 3)


def test_two_batches_agree_with_one():
    x = tokens()
    function = kernel_of(Reader(GlobalSelfAttention(6, 5, width=8, position_var=0.3, tokens=4)), x)
    assert torch.allclose(function(x).ntk, function(x, x.clone()).ntk)
    assert torch.allclose(function(x[:2], x).nngp, function(x).nngp[:2])


def test_the_finite_layer_attends():
    layer = GlobalSelfAttention(6, 5, width=8, position_var=2.0, tokens=4).double()
    x = tokens() + layer.embedding
    q = layer.query(x)
    expected = layer.output(torch.softmax(q @ q.mT / 8, -1) @ layer.value(x))
    assert torch.allclose(layer(tokens()), expected)


def test_bad_arguments_and_shapes():
    with pytest.raises(ConfigError, match="softmax, identity, abs or relu"):
        GlobalSelfAttention(6, 5, width=8, normalise="max")
    with pytest.raises(ConfigError, match="give the number of tokens"):
        GlobalSelfAttention(6, 5, width=8, position_var=1.0)
    with pytest.raises(ShapeError, match="move channels last"):
        GlobalSelfAttention(6, 5, width=8)(torch.zeros(2, 6))


class Torch(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(6, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.attention(x, x, x)[0].mean(1))


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x):
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 8, -1)
        return self.head((weights @ self.v(x)).mean(1))


@pytest.mark.parametrize("net", [Torch(), Written()])
def test_other_attention_is_refused_with_the_way_out(net):
    with pytest.raises(UnsupportedOpError, match="GlobalSelfAttention"):
        kernel_of(net, tokens())
