"""Which channels are tied, which are free, and why the others are not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.errors import ConfigError, GraphError
from pluriform.graph.channels import channel_groups
from pluriform.graph.gather import gather, widen
from pluriform.graph.trace import trace

torch.set_num_threads(1)


class Net(nn.Module):
    """Layers by name, and a forward function of them and the input."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def traced(run, x, **layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers.values():
            if isinstance(layer, nn.Module) and hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return trace(Net(run, **layers).eval(), x)


def groups(graph):
    return {group.name: group for group in channel_groups(graph)}


def free(graph):
    return {name for name, group in groups(graph).items() if not group.fixed}


def assert_widens(graph, x):
    wide = widen(graph, 2).root
    with torch.no_grad():
        want, got = graph.root.double()(x.double()), wide.double()(x.double())
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
rows = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
tokens = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(2))


def test_residual_producers_form_one_group():
    graph = traced(
        lambda m, x: m.head((m.a(x) + m.norm(m.b(x)).relu()).mean((2, 3))),
        images,
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 4, 1),
        norm=nn.BatchNorm2d(4),
        head=nn.Linear(4, 2),
    )
    group = groups(graph)["a"]
    assert (group.producers, group.consumers, group.carriers) == (("a", "b"), ("head",), ("norm",))
    assert group.size == 4
    assert groups(graph)["head"].reason == "an output of the network"
    assert groups(graph)["a.input"].reason == "an input of the network"


def test_concat_splits_the_layer_that_is_added_to_it():
    graph = traced(
        lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1) + m.c(x)),
        images,
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 2, 1),
        c=nn.Conv2d(3, 6, 1),
        head=nn.Conv2d(6, 2, 1),
    )
    assert groups(graph)["a"].producers == ("a", "c")
    assert groups(graph)["b"].producers == ("b", "c")
    assert_widens(graph, images)


def test_a_channel_spread_over_another_axis_is_fixed():
    graph = traced(
        lambda m, x: m.head(m.a(x) * m.gate(x)),
        images,
        a=nn.Conv2d(3, 4, 1),
        gate=nn.Conv2d(3, 1, 1),
        head=nn.Conv2d(4, 2, 1),
    )
    assert free(graph) == {"a"}
    assert "spreads it over another axis" in groups(graph)["gate"].reason


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (lambda x: x.softmax(1), "mixes it"),
        (lambda x: F.normalize(x, dim=1), "normalize"),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), "sums over it"),
        (lambda x: x[:, [1, 0, 3, 2]], "passes"),
        (lambda x: torch.cumsum(x, 1), "passes"),
        (lambda x: x.roll(1, 1), "mixes it"),
        (lambda x: F.channel_shuffle(x, 2), "channel_shuffle"),
        (lambda x: F.local_response_norm(x, 2), "local_response_norm"),
        (lambda x: torch.cat([x[:, :1], x[:, 1:]], 1), "cuts it"),
        (lambda x: torch.einsum("bchw,bdhw->bchw", x, x), "einsum"),
        (lambda x: x.flip(1), "passes"),
        (lambda x: x.reshape(x.size(0), 2, 2, 6, 6).transpose(1, 2).reshape(x.size(0), 4, 6, 6), "code that follows"),
    ],
)
def test_operations_that_mix_channels_fix_them(mix, words):
    graph = traced(lambda m, x: m.head(mix(m.a(x))), images, a=nn.Conv2d(3, 4, 1), head=nn.Conv2d(4, 2, 1))
    assert free(graph) == set()
    assert words in groups(graph)["a"].reason
    with pytest.raises(GraphError):
        gather(graph, "a", [0, 1, 2, 3, 3])


def test_numbers_written_out_in_the_code_fix_their_group_alone():
    graph = traced(
        lambda m, x: m.head(m.hidden(F.max_pool2d(m.a(x), 2).view(-1, 4 * 9))),
        images,
        a=nn.Conv2d(3, 4, 1),
        hidden=nn.Linear(36, 5),
        head=nn.Linear(5, 2),
    )
    assert free(graph) == {"hidden"}
    assert "code that follows the number of channels" in groups(graph)["a"].reason
    assert_widens(graph, images)
    with pytest.raises(GraphError, match=r"write -1, x\.shape or an attribute"):
        gather(graph, "a", [0, 0, 1, 2, 3])


def test_a_scale_that_follows_the_number_of_channels_fixes_it():
    graph = traced(
        lambda m, x: m.head(m.a(x) * m.a(x).shape[-1] ** -0.5), rows, a=nn.Linear(5, 4), head=nn.Linear(4, 2)
    )
    assert "numbers that change with the number of channels" in groups(graph)["a"].reason


def recurrent(m, x):
    y, _ = m.rnn(m.a(x))
    return m.head(y)


def test_opaque_nodes_fix_what_they_read_and_write():
    graph = traced(recurrent, tokens, a=nn.Linear(8, 6), rnn=nn.LSTM(6, 5, batch_first=True), head=nn.Linear(5, 2))
    assert free(graph) == set()
    assert "it passes rnn" in groups(graph)["a"].reason


def test_a_network_that_cannot_be_traced_has_no_groups():
    def run(m, x):
        return m.a(x) if float(x.sum()) > 0 else m.a(-x)

    assert channel_groups(traced(run, rows, a=nn.Linear(5, 4))) == ()


def block(m, x):
    x = m.stem(x)
    x = m.norm1(x + m.attend(x, x, x, need_weights=False)[0])
    return m.head(m.norm2(x + m.down(F.gelu(m.up(x)))).mean(1))


def test_multihead_attention_widens_its_embedding_by_whole_heads():
    graph = traced(
        block,
        tokens,
        stem=nn.Linear(8, 8),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        norm1=nn.LayerNorm(8),
        up=nn.Linear(8, 12),
        down=nn.Linear(12, 8),
        norm2=nn.LayerNorm(8),
        head=nn.Linear(8, 2),
    )
    assert free(graph) == {"stem", "up"}
    assert groups(graph)["stem"].size == 2
    assert_widens(graph, tokens)


def attention(m, x):
    heads = [m.q(x), m.k(x), m.v(x)]
    q, k, v = (part.view(x.size(0), x.size(1), 2, -1).transpose(1, 2) for part in heads)
    weights = (q @ k.transpose(-2, -1) / 2).softmax(-1)
    return m.out((weights @ v).transpose(1, 2).flatten(2))


def test_attention_written_out_is_followed_or_fixed():
    graph = traced(attention, tokens, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(8, 4))
    assert_widens(graph, tokens)


def test_a_layer_called_twice_ties_its_input_to_its_output():
    graph = traced(
        lambda m, x: m.head(m.step(m.step(m.stem(x)).relu())),
        rows,
        stem=nn.Linear(5, 4),
        step=nn.Linear(4, 4),
        head=nn.Linear(4, 2),
    )
    assert groups(graph)["stem"].producers == ("stem", "step", "step@1")
    assert_widens(graph, rows)


def test_a_layer_called_on_the_input_and_on_its_output_is_fixed():
    graph = traced(lambda m, x: m.step(m.step(x).relu()), rows, step=nn.Linear(5, 5))
    assert free(graph) == set()


def test_embedding_and_decoder_of_one_weight_are_fixed():
    embed, decode = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
    decode.weight = embed.weight
    words = torch.randint(0, 9, (2, 7), generator=torch.Generator().manual_seed(0))
    graph = traced(
        lambda m, x: m.decode(m.up(m.embed(x)).relu()), words, embed=embed, decode=decode, up=nn.Linear(6, 6)
    )
    assert decode.weight is embed.weight
    assert "shares its weight" in groups(graph)["embed"].reason
    assert free(graph) == set()


def test_layers_of_one_weight_in_the_same_role_stay_tied():
    first, second = nn.Linear(5, 4), nn.Linear(5, 4)
    second.weight = first.weight
    graph = traced(
        lambda m, x: m.head(m.first(x) * m.second(x)), rows, first=first, second=second, head=nn.Linear(4, 2)
    )
    wide = widen(graph, 2).root
    assert wide.first.weight is wide.second.weight
    assert_widens(graph, rows)


def test_an_embedding_widens():
    words = torch.randint(0, 9, (2, 7), generator=torch.Generator().manual_seed(0))
    graph = traced(
        lambda m, x: m.head(m.norm(m.embed(x)).mean(1)),
        words,
        embed=nn.Embedding(9, 6),
        norm=nn.LayerNorm(6),
        head=nn.Linear(6, 2),
    )
    assert free(graph) == {"embed"}
    wide = widen(graph, 2).root
    assert wide.embed.embedding_dim == 12
    torch.testing.assert_close(wide(words), graph.root(words), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_computed_weights_fix_their_groups(norm):
    graph = traced(
        lambda m, x: m.head(m.b(m.a(x))), rows, a=nn.Linear(5, 4), b=norm(nn.Linear(4, 3)), head=nn.Linear(3, 2)
    )
    assert free(graph) == set()
    assert "no parameter of its own" in groups(graph)["a"].reason


def test_functions_of_parameters_are_layers():
    def run(m, x):
        return F.linear(F.conv2d(x, m.filters, m.bias, padding=1).relu().mean((2, 3)), m.rows)

    filters, bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
    graph = traced(run, images, filters=filters, bias=bias, rows=nn.Parameter(torch.randn(2, 4)))
    assert len(free(graph)) == 1
    assert widen(graph, 2).root.filters.shape == (8, 3, 3, 3)
    assert_widens(graph, images)


def test_padded_shortcuts_keep_their_padding():
    graph = traced(
        lambda m, x: m.head((m.b(m.a(x)) + F.pad(m.a(x), (0, 0, 0, 0, 1, 1))).mean((2, 3))),
        images,
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(4, 6, 1),
        head=nn.Linear(6, 2),
    )
    assert groups(graph)["a"].producers == ("a", "b", "a@1")
    assert "pads it" in groups(graph)["b[0]"].reason
    assert_widens(graph, images)


def test_a_norm_over_free_and_fixed_channels_fixes_both():
    graph = traced(
        lambda m, x: m.head(m.norm(torch.cat([m.a(x), x], 1))),
        rows,
        a=nn.Linear(5, 4),
        norm=nn.LayerNorm(9),
        head=nn.Linear(9, 2),
    )
    assert "averages it with channels that are fixed" in groups(graph)["a"].reason


def test_uneven_copies_before_a_layer_norm_are_refused():
    graph = traced(
        lambda m, x: m.head(m.norm(m.a(x))), rows, a=nn.Linear(5, 4), norm=nn.LayerNorm(4), head=nn.Linear(4, 2)
    )
    with pytest.raises(GraphError, match=r"equally often.*norm \(layer_norm.*copy every channel the same number"):
        gather(graph, "a", [0, 1, 2, 3, 3])
    assert gather(graph, "a", [0, 1, 1]).root.norm.normalized_shape == (3,)
    assert_widens(graph, rows)


def test_widening_by_a_fraction_is_balanced():
    graph = traced(lambda m, x: m.head(m.a(x).relu()), rows, a=nn.Linear(5, 4), head=nn.Linear(4, 2))
    wide = widen(graph, 1.5).root
    assert wide.a.out_features == 6
    torch.testing.assert_close(wide(rows), graph.root(rows))


def test_weights_keep_their_flags_and_types():
    graph = traced(lambda m, x: m.head(m.a(x)), rows.double(), a=nn.Linear(5, 4), head=nn.Linear(4, 2).double())
    graph.root.a.double().weight.requires_grad_(False)
    wide = widen(graph, 2).root
    assert not wide.a.weight.requires_grad
    assert wide.head.weight.requires_grad
    assert wide.a.weight.dtype == torch.float64
    assert isinstance(wide.a.weight, nn.Parameter)


def test_mistakes_are_named():
    graph = traced(lambda m, x: m.head(m.a(x)), rows, a=nn.Linear(5, 4), head=nn.Linear(4, 2))
    with pytest.raises(GraphError, match=r"expected the name of a channel group; got 'b'.*the groups are a, head"):
        gather(graph, "b", [0])
    with pytest.raises(GraphError, match=r"group head, which is fixed: an output of the network"):
        gather(graph, "head", [0])
    with pytest.raises(GraphError, match=r"expected channels 0\.\.3 of group a; got 0\.\.4"):
        gather(graph, "a", [0, 4])
    with pytest.raises(GraphError, match="expected a non-empty list of channel numbers"):
        gather(graph, "a", [])
    with pytest.raises(GraphError, match="expected a non-empty list of channel numbers"):
        gather(graph, "a", torch.tensor([True, False, True, True]))
    with pytest.raises(ConfigError, match="expected a factor of at least 1; got 0.5"):
        widen(graph, 0.5)
