"""Attention in all its spellings: widened by whole heads it is the same function, in a network of the same class."""

import copy
import functools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pluriform.errors import GraphError
from pluriform.graph.channels import channel_groups
from pluriform.graph.gather import gather, gather_all, widen
from pluriform.graph.trace import trace
from pluriform.narrow.plan import inner_groups

torch.set_num_threads(1)
STREAM, TOKENS = 8, 5


class Separate(nn.Module):
    """Three layers, products written out, head count and inner width from attributes."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__()
        self.heads, self.dim, self.inner = heads, dim, heads * dim
        self.q, self.k, self.v = (nn.Linear(stream, heads * dim, bias=k > 0) for k in range(3))
        self.out = nn.Linear(heads * dim, stream)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, self.dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = F.softmax(q @ k.transpose(-2, -1) * self.dim**-0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, self.inner))


class Packed(nn.Module):
    """One layer of all queries, keys and values, as vision transformers have it."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim
        self.qkv, self.proj = nn.Linear(stream, 3 * heads * dim), nn.Linear(heads * dim, stream)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.norm(q), self.norm(k), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Indexed(Packed):
    """The parts taken by index; products of `einsum`; a causal mask."""

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhid,bhjd->bhij", qkv[0], qkv[1]) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(torch.ones(n, n, device=x.device).tril() == 0, -math.inf)
        mixed = torch.einsum("bhij,bhjd->bihd", F.dropout(scores.softmax(-1), 0.1, self.training), qkv[2])
        return self.proj(mixed.reshape(b, n, -1))


class Chunked(Packed):
    """Cut in three first; an additive mask with a bias for each head."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__(heads, dim, stream)
        self.bias = nn.Parameter(torch.randn(heads, TOKENS, TOKENS))

    def forward(self, x):
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias).transpose(1, 2).flatten(2))


class Split(Packed):
    """Cut by an inner width that is an attribute; each head's numbers stand apart, head by head."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__(heads, dim, stream)
        self.inner = heads * dim

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).split(self.inner, dim=2)
        q, k, v = (part.reshape(b, n, self.head_dim, self.num_heads).permute(0, 3, 1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.permute(0, 2, 3, 1).reshape(b, n, self.inner))


class Shared(nn.Module):
    """All queries read one head of keys and values."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.q, self.kv, self.out = (
            nn.Linear(stream, heads * dim),
            nn.Linear(stream, 2 * dim),
            nn.Linear(heads * dim, stream),
        )

    def forward(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.dim).transpose(1, 2)
        k, v = self.kv(x).unsqueeze(1).split(self.dim, -1)
        return self.out((F.softmax(q @ k.mT, -1) @ v).transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Two heads of queries for each of the keys."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__()
        self.heads, self.shared, self.dim = 2 * heads, heads, dim
        self.q, self.kv = nn.Linear(stream, 2 * heads * dim), nn.Linear(stream, 2 * heads * dim)
        self.out = nn.Linear(2 * heads * dim, stream)

    def forward(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.dim).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, self.shared, self.dim).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


class Stream(Packed):
    """As wide as the stream: the output has the width of the input, read from its shape."""

    def __init__(self, heads=2, dim=STREAM // 2, stream=STREAM):
        super().__init__(heads, stream // heads, stream)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Causal(Packed):
    """As language models write it: cut by the width of the stream, a mask in a buffer, the width from a shape."""

    def __init__(self, heads=2, dim=STREAM // 2, stream=STREAM):
        super().__init__(heads, stream // heads, stream)
        self.n_embd = stream
        self.register_buffer("mask", torch.ones(TOKENS, TOKENS).tril()[None, None])

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(self.n_embd, dim=2)
        q, k, v = (part.view(b, t, self.num_heads, c // self.num_heads).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        weights = weights.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).contiguous().view(b, t, c))


class Library(nn.Module):
    def __init__(self, heads=2, dim=STREAM // 2, stream=STREAM, **more):
        super().__init__()
        self.inside = nn.MultiheadAttention(stream, heads, batch_first=True, **more)

    def forward(self, x):
        return self.inside(x, x, x, need_weights=False)[0]


class Literal(Packed):
    """The number of heads is written in the code."""

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mixed(Packed):
    """Weights of one head are mixed with those of others."""

    def __init__(self, heads=2, dim=3, stream=STREAM):
        super().__init__(heads, dim, stream)
        self.talk = nn.Linear(heads, heads)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.talk((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A block before a head: norm, attention, norm, MLP, with residual connections."""

    def __init__(self, kind, heads=2, hidden=6, stream=STREAM, **more):
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(4, stream), nn.LayerNorm(stream), nn.LayerNorm(stream)
        self.attend = kind(heads, stream=stream, **more)
        self.mlp = nn.Sequential(nn.Linear(stream, hidden), nn.GELU(), nn.Linear(hidden, stream))
        self.head = nn.Linear(stream, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attend(self.norm1(x))
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


INNER = (Separate, Packed, Indexed, Chunked, Split, Shared, Grouped)


def made(kind, seed=0, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(kind, **more).double().eval()


def example(seed=1):
    return torch.randn(3, TOKENS, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@functools.cache
def traced(kind, **more):
    """Made once: widening leaves it as it is."""
    net, x = made(kind, **more), example()
    return net, x, trace(net, x)


@functools.cache
def group_of_heads(graph):
    return next(g for g in channel_groups(graph) if g.name in ("attend.q", "attend.qkv"))


def assert_same(one, two, x):
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(x), two.eval()(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("kind", "heads"), [*((kind, 3) for kind in INNER), (Separate, 1), (Packed, 1)])
def test_heads_inside_widen_into_the_stock_class(kind, heads):
    net, x, graph = traced(kind, heads=heads)
    group = group_of_heads(graph)
    assert (group.size, group.reason) == (heads, None)
    assert inner_groups(graph) == (group.name, "mlp.0")
    wide = widen(graph, 2, inner_groups(graph)).root
    assert_same(wide, net, x)
    stock = made(kind, seed=9, heads=2 * heads, hidden=12)
    stock.load_state_dict(wide.state_dict(), strict=True)
    assert_same(stock, net, x)
    assert vars(stock.attend).keys() == vars(wide.attend).keys()
    numbers = [{k: v for k, v in vars(each.attend).items() if isinstance(v, int)} for each in (stock, wide)]
    assert numbers[0] == numbers[1]


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(INNER), st.data())
def test_any_heads_in_any_order_that_cover_the_old_ones_keep_the_function(kind, data):
    net, x, graph = traced(kind, heads=3)
    extra = data.draw(st.lists(st.integers(0, 2), max_size=4))
    index = data.draw(st.permutations([0, 1, 2, *extra]))
    assert_same(gather(graph, group_of_heads(graph), index).root, net, x)


@pytest.mark.parametrize("kind", INNER)
def test_thinning_leaves_out_whole_heads(kind):
    """Against the network whose output projection reads the other heads as zero."""
    net, x, graph = traced(kind, heads=3)
    thin, net = gather(graph, group_of_heads(graph), [2, 0]).root, copy.deepcopy(net)
    out = getattr(net.attend, "out", None) or net.attend.proj
    with torch.no_grad():
        columns = torch.arange(out.in_features)
        owner = columns % 3 if kind is Split else columns // (out.in_features // 3)
        out.weight[:, owner == 1] = 0
    assert_same(thin, net, x)


def test_widening_and_thinning_back_gives_the_weights_back():
    net, _, graph = traced(Packed)
    wide = gather(graph, "attend.qkv", [0, 1, 1])
    thin = gather(wide, "attend.qkv", [0, 1]).root.state_dict()
    before = net.state_dict()
    assert torch.equal(thin["attend.qkv.weight"], before["attend.qkv.weight"])
    assert torch.equal(thin["attend.proj.weight"][:, :3], before["attend.proj.weight"][:, :3])
    assert torch.equal(2 * thin["attend.proj.weight"][:, 3:], before["attend.proj.weight"][:, 3:])


@pytest.mark.parametrize("kind", [Stream, Causal, Library])
def test_attention_as_wide_as_the_stream_widens_with_it(kind):
    """No head can be added while the stream stays: all of it is one group, in blocks of a head's width."""
    net, x, graph = traced(kind)
    assert inner_groups(graph) == ("mlp.0",)
    embedding = next(group for group in channel_groups(graph) if group.name == "embed")
    assert (embedding.size, embedding.fixed) == (2, False)
    wide = widen(graph, 2).root
    assert_same(wide, net, x)
    stock = made(kind, seed=9, heads=4, hidden=12, stream=16)
    stock.load_state_dict(wide.state_dict(), strict=True)
    assert_same(stock, net, x)
    assert repr(stock) == repr(wide)


@pytest.mark.parametrize(
    "more", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 8, "vdim": 8}]
)
def test_multihead_attention_with_its_options(more):
    net, x, graph = traced(Library, **more)
    wide = widen(graph, 2).root
    assert_same(wide, net, x)
    assert (wide.attend.inside.embed_dim, wide.attend.inside.num_heads, wide.attend.inside.head_dim) == (16, 4, 4)


def test_encoder_layers_of_torch_widen():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        net = nn.Sequential(
            nn.Linear(4, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)
        )
    net, x = net.double().eval(), example()
    wide = widen(trace(net, x), 2).root
    assert_same(wide, net, x)
    assert (wide[1].layers[1].self_attn.num_heads, wide[1].layers[1].linear1.in_features) == (4, 16)


def test_weights_that_are_read_fix_the_heads():
    class Reading(Library):
        def forward(self, x):
            mixed, weights = self.inside(x, x, x)
            return mixed + weights.mean()

    _, _, graph = traced(Reading)
    assert "the weights of attend.inside" in next(g.reason for g in channel_groups(graph) if g.name == "embed")


def test_a_head_count_in_the_code_is_refused_with_the_remedy():
    net, x, graph = traced(Literal)
    reason = group_of_heads(graph).reason
    assert "shape '[3, 5, 3, 2, 3]' is invalid" in reason
    assert "an attribute such as self.heads in place of a number" in reason
    with pytest.raises(GraphError, match=r"self\.heads"):
        gather(graph, "attend.qkv", [0, 1, 1])
    assert inner_groups(graph) == ("mlp.0",)
    assert_same(widen(graph, 2).root, net, x)


def test_heads_that_are_mixed_by_weights_are_fixed_or_followed():
    net, x, graph = traced(Mixed)
    assert_same(widen(graph, 2, ["mlp.0"]).root, net, x)
    group = group_of_heads(graph)
    if not group.fixed:
        assert_same(gather(graph, group, [0, 1, 1]).root, net, x)


def test_an_attribute_of_two_meanings_fixes_both():
    """`self.size` is a head count in one place and the width of a head in another."""

    class Twofold(nn.Module):
        def __init__(self, size, stream=STREAM):
            super().__init__()
            self.size = size
            self.qkv, self.proj = nn.Linear(stream, 3 * size * size), nn.Linear(size * size, stream)

        def forward(self, x):
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.size, self.size).permute(2, 0, 3, 1, 4).unbind(0)
            return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net, x, graph = traced(Twofold)
    assert group_of_heads(graph).fixed
    assert_same(widen(graph, 2, ["mlp.0"]).root, net, x)


def test_the_users_network_keeps_its_attributes():
    net, _, graph = traced(Packed)
    widen(graph, 2)
    assert (net.attend.num_heads, type(net.attend.num_heads)) == (2, int)
    wide = widen(graph, 2).root
    assert type(wide.attend.num_heads) is int


def test_groups_of_several_blocks_can_be_chosen_apart():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, STREAM), Packed(), Separate(4), nn.Linear(STREAM, 2)).double().eval()
    x = example()
    graph = trace(net, x)
    wide = gather_all(graph, {"1.qkv": [0, 1, 1], "2.q": [0, 1, 2, 3, 0]}).root
    assert_same(wide, net, x)
    assert (wide[1].num_heads, wide[2].heads, wide[2].inner) == (3, 5, 15)


class Stack(nn.Module):
    """Blocks of attention of random kinds, head counts and head widths on one stream, between MLPs."""

    def __init__(self, plan):
        super().__init__()
        self.embed, self.head = nn.Linear(4, STREAM), nn.Linear(STREAM, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(STREAM) for _ in plan)
        self.blocks = nn.ModuleList(kind(heads, dim) for kind, heads, dim in plan)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(STREAM, dim), nn.Tanh(), nn.Linear(dim, STREAM)) for *_, dim in plan
        )

    def forward(self, x):
        x = self.embed(x)
        for norm, block, mlp in zip(self.norms, self.blocks, self.mlps, strict=True):
            x = x + block(norm(x))
            x = x + mlp(x)
        return self.head(x.mean(1))


layers = st.tuples(st.sampled_from((*INNER, Library)), st.sampled_from([1, 2, 4]), st.integers(2, 4))


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(layers, min_size=2, max_size=3), st.integers(0, 99), st.data())
def test_random_stacks(plan, seed, data):
    check_stack(plan, seed, data)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(layers, min_size=1, max_size=4), st.integers(0, 99), st.data())
def test_many_random_stacks(plan, seed, data):
    check_stack(plan, seed, data)


def check_stack(plan, seed, data):
    """All groups twice as wide; then the heads of each block copied at will."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Stack(plan).double().eval()
    x = example(seed)
    graph = trace(net, x)
    assert_same(widen(graph, 2).root, net, x)
    sizes = {group.name: group.size for group in channel_groups(graph) if not group.fixed}
    heads = {name: size for name, size in sizes.items() if name.startswith("blocks")}
    fixed = [kind is Library or (kind is Split and heads == 1) for kind, heads, _ in plan]  # A last axis of length one.
    assert len(heads) == fixed.count(False)
    chosen = {
        name: [*range(size), *data.draw(st.lists(st.integers(0, size - 1), max_size=2))] for name, size in heads.items()
    }
    assert_same(gather_all(graph, chosen).root, net, x)
