"""Merged networks against networks with maps, and against maps applied by hooks; refusals with their sentences."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError, ShapeError
from pluriform.graph.blocks import passages
from pluriform.graph.trace import trace
from pluriform.narrow.channel_axis import channel_axis
from pluriform.narrow.fold import Fold, foldable, merged, with_maps
from pluriform.narrow.maps import ChannelMap, agreement
from pluriform.nets.zoo import build

torch.set_num_threads(1)
IMAGES = torch.zeros(2, 2, 6, 6)
TOKENS = torch.zeros(2, 5, 3)


def matrix(channels, seed=0):
    """V U of random U and V: singular values from 0.5 to 2, no structure."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0] for _ in range(2))
    return first @ torch.diag(torch.linspace(0.5, 2, channels)) @ second


def as_module(a, axis, rank, dtype=torch.float32):
    """The map as the layer that a user would write."""
    kind = nn.Linear if axis == rank - 1 else {3: nn.Conv1d, 4: nn.Conv2d}[rank]
    made = kind(len(a), len(a), *([] if kind is nn.Linear else [1]), bias=False)
    with torch.no_grad():
        made.weight.copy_(a.reshape(made.weight.shape))
    return made.to(dtype)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make()
        for part in made.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
                part.reset_parameters()
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        return made


def batch(x, rows=6, seed=5):
    return torch.randn(rows, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x.dtype)


def relative(one, two):
    return float(((one - two).abs().max() / one.abs().max()).detach())


def random_maps(graph, nodes, seed=0):
    return {name: matrix(graph[name].shape[channel_axis(graph, name)], seed + k) for k, name in enumerate(nodes)}


def assert_merges(net, x, nodes, tolerance=1e-5):
    """Merged equals the network with layers in it, evaluated and trained; the old network stays; its class loads it."""
    graph, before = trace(net, x), copy.deepcopy(net.state_dict())
    maps = random_maps(graph, nodes)
    made = merged(graph, maps)
    axes = {name: channel_axis(graph, name) for name in nodes}
    modules = {name: as_module(a, axes[name], len(graph[name].shape), x.dtype) for name, a in maps.items()}
    mapped, inputs = with_maps(graph, modules), batch(x)
    for mode in (False, True):
        one, two = copy.deepcopy(mapped).train(mode), copy.deepcopy(made).train(mode)
        assert relative(one(inputs), two(inputs)) <= tolerance, mode
        buffers = dict(two.named_buffers())  # Running statistics come out the same too.
        for name, value in one.named_buffers():
            assert torch.allclose(value, buffers[name], rtol=1e-4, atol=1e-5), name
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert type(made) is type(net)
    stock = copy.deepcopy(net)
    stock.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(stock.eval()(inputs), copy.deepcopy(made).eval()(inputs))
    return made


class Run(nn.Module):
    """Layers by name, and the code that runs them."""

    def __init__(self, code, **layers):
        super().__init__()
        self.code = code
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.code(self, x)


def stage(post):
    """Stem, a stage that starts with a projection, and one block more; the activation after or before the layers."""

    def code(m, x):
        x = F.relu(m.bn0(m.stem(x))) if post else m.stem(x)
        x = x if post else F.relu(m.bn0(x))
        y = m.conv2(F.relu(m.bn1(m.conv1(x)))) + m.short(x)
        y = F.relu(m.bn2(y))
        z = y + m.conv4(F.relu(m.bn3(m.conv3(y))))
        return m.head(F.relu(z).mean((2, 3)))

    norms = {f"bn{k}": nn.BatchNorm2d(4 if not k else 5) for k in range(4)}
    convs = {f"conv{k}": nn.Conv2d(4 if k == 1 else 5, 5, 3, 2 if k == 1 else 1, 1) for k in range(1, 5)}
    extra = {"stem": nn.Conv2d(2, 4, 3, 1, 1), "short": nn.Conv2d(4, 5, 1, 2), "head": nn.Linear(5, 3)}
    return Run(code, **norms, **convs, **extra)


def concat(m, x):
    a, b = F.relu(m.a(x)), F.relu(m.b(x))
    return m.head(torch.cat([a, b, F.avg_pool2d(a, 3, 1, 1)], 1))


def layers(*modules):
    return lambda: copy.deepcopy(nn.Sequential(*modules))


START = (nn.Conv2d(2, 4, 3), nn.ReLU())
FORWARD = {
    "zero padding": (layers(*START, nn.Conv2d(4, 3, 3, 2, padding=1)), IMAGES, "1", ["2"]),
    "circular padding": (layers(*START, nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular")), IMAGES, "1", ["2"]),
    "norm behind": (layers(*START, nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3), nn.ReLU()), IMAGES, "1", ["2"]),
    "transposed": (layers(*START, nn.ConvTranspose2d(4, 3, 3, 2)), IMAGES, "1", ["2"]),
    "average pool": (layers(*START, nn.AvgPool2d(2, 1, 1, True), nn.Conv2d(4, 3, 2)), IMAGES, "1", ["3"]),
    "bilinear": (layers(*START, nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 3, 2)), IMAGES, "1", ["3"]),
    "nearest": (layers(*START, nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 2)), IMAGES, "1", ["3"]),
    "zero pad": (layers(*START, nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 3, 3)), IMAGES, "1", ["3"]),
    "flatten": (layers(*START, nn.Flatten(), nn.Linear(64, 3)), IMAGES, "1", ["3"]),
    "global pool": (layers(*START, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), IMAGES, "1", ["4"]),
    "stage start": (lambda: stage(True), IMAGES, "relu", ["conv1", "short"]),
    "stage start, pre-activation": (lambda: stage(False), IMAGES, "relu", ["conv1", "short"]),
    "before the pool": (lambda: stage(False), IMAGES, "relu_4", ["head"]),
    "concat, two places": (
        lambda: Run(concat, a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(2, 4, 1), head=nn.Conv2d(10, 3, 3)),
        IMAGES,
        "relu",
        ["head", "head"],
    ),
    "concat, one place": (
        lambda: Run(concat, a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(2, 4, 1), head=nn.Conv2d(10, 3, 3)),
        IMAGES,
        "relu_1",
        ["head"],
    ),
    "concat, flattened": (
        lambda: Run(
            lambda m, x: m.head(torch.cat([x, torch.tanh(m.a(x))], 1).flatten(1)),
            a=nn.Conv2d(2, 3, 1),
            head=nn.Linear(180, 3),
        ),
        IMAGES,
        "tanh",
        ["head"],
    ),
    "zero channels as shortcut": (
        lambda: Run(
            lambda m, x: m.b(F.pad(m.a(x).tanh(), (0, 0, 0, 0, 1, 2))), a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(6, 2, 1)
        ),
        IMAGES,
        "tanh",
        ["b"],
    ),
    "a sum of two poolings": (
        lambda: Run(lambda m, x: m.b(0.5 * (x.mean((2, 3)) + x.sum((2, 3)) / 3)), b=nn.Linear(2, 3)),
        IMAGES,
        "x",
        ["b"],
    ),
    "a gate for all channels": (
        lambda: Run(lambda m, x: m.b(x * torch.sigmoid(m.a(x))), a=nn.Conv2d(2, 1, 1), b=nn.Conv2d(2, 3, 1)),
        IMAGES,
        "x",
        ["a", "b"],
    ),
    "functions": (
        lambda: Run(
            lambda m, x: F.linear(F.conv2d(torch.tanh(m.a(x)), m.v, stride=2).mean((2, 3)), m.w),
            a=nn.Conv2d(2, 3, 1),
            v=nn.Parameter(torch.randn(4, 3, 2, 2)),
            w=nn.Parameter(torch.randn(2, 4)),
        ),
        IMAGES,
        "tanh",
        ["conv2d"],
    ),
    "tokens": (layers(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 3)), TOKENS, "1", ["2"]),
    "mean of tokens": (lambda: Run(lambda m, x: m.a(torch.tanh(x).mean(1)), a=nn.Linear(3, 2)), TOKENS, "tanh", ["a"]),
    "first token": (lambda: Run(lambda m, x: m.a(torch.tanh(x)[:, 0]), a=nn.Linear(3, 2)), TOKENS, "tanh", ["a"]),
    "all tokens at once": (
        lambda: Run(lambda m, x: m.a(torch.tanh(x).reshape(-1, 15)), a=nn.Linear(15, 2)),
        TOKENS,
        "tanh",
        ["a"],
    ),
    "patches to tokens": (
        lambda: Run(
            lambda m, x: m.b(torch.tanh(m.a(x)).flatten(2).transpose(1, 2)), a=nn.Conv2d(2, 4, 2, 2), b=nn.Linear(4, 3)
        ),
        IMAGES,
        "tanh",
        ["b"],
    ),
    "one spatial axis": (layers(nn.Conv1d(3, 4, 2), nn.Tanh(), nn.Conv1d(4, 2, 2)), TOKENS.mT, "1", ["2"]),
    "vectors": (layers(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3), "1", ["2"]),
}


@pytest.mark.parametrize("case", FORWARD)
def test_maps_fold_forward(case):
    make, x, node, absorbing = FORWARD[case]
    net = seeded(make)
    fold = foldable(trace(net, x), node)
    assert isinstance(fold, Fold), fold
    assert (fold.direction, [layer.layer for layer in fold.layers]) == ("forward", absorbing)
    assert_merges(net, x, [node])


def test_the_slice_of_a_part_is_told():
    make, x, *_ = FORWARD["concat, two places"]
    first, second = foldable(trace(make(), x), "relu").layers
    assert (first.channels, second.channels) == (slice(0, 3), slice(7, 10))
    assert foldable(trace(make(), x), "relu").via == ("avg_pool2d", "cat")


BACKWARD = {
    "before an activation": (layers(*START, nn.Conv2d(4, 3, 2)), "0", ["0"]),
    "the output": (layers(*START, nn.Conv2d(4, 3, 2)), "2", ["2"]),
    "behind a pool": (
        layers(nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        "1",
        ["0"],
    ),
    "before a norm": (layers(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)), "0", ["0"]),
    "transposed": (layers(nn.ConvTranspose2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1)), "0", ["0"]),
    "branch before a sum": (lambda: stage(False), "conv4", ["conv4"]),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_maps_fold_backward(case):
    make, node, absorbing = BACKWARD[case]
    net = seeded(make)
    fold = foldable(trace(net, IMAGES), node)
    assert isinstance(fold, Fold), fold
    assert (fold.direction, [layer.layer for layer in fold.layers]) == ("backward", absorbing)
    assert_merges(net, IMAGES, [node])


def test_with_maps_equals_hooks_on_the_own_network():
    net, inputs, a = seeded(layers(*START, nn.Conv2d(4, 3, 3, padding=1), nn.ReLU())), batch(IMAGES), matrix(4)
    graph = trace(net, IMAGES)
    mapped, made = with_maps(graph, {"1": as_module(a, 1, 4)}), merged(graph, {"1": a})
    net[1].register_forward_hook(lambda module, args, output: torch.einsum("ij,bjhw->bihw", a, output))
    assert relative(net(inputs), mapped(inputs)) <= 1e-5
    assert relative(net(inputs), made(inputs)) <= 1e-5


def weight_normed():
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 2))


def attention_block():
    return nn.MultiheadAttention(3, 1, batch_first=True)


REFUSED = {
    "identity shortcut": (lambda: stage(False), IMAGES, "relu_2", ["add_1", "identity shortcut adds relu_2"]),
    "sum": (lambda: stage(False), IMAGES, "add", ["bn2", "BatchNorm", "add (add", "no layer"]),
    "depthwise": (layers(*START, nn.Conv2d(4, 4, 3, groups=4)), IMAGES, "1", ["2 (conv", "depthwise"]),
    "grouped": (layers(*START, nn.Conv2d(4, 4, 3, groups=2)), IMAGES, "1", ["grouped convolution"]),
    "max pool": (layers(*START, nn.MaxPool2d(2), nn.Conv2d(4, 3, 2)), IMAGES, "1", ["2 (max_pool", "max pool between"]),
    "relu": (layers(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), *START[1:], nn.Conv2d(4, 3, 2)), IMAGES, "1", ["relu"]),
    "batch norm": (layers(*START, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 2)), IMAGES, "1", ["2 (batch_norm", "BatchNorm"]),
    "behind batch norm": (layers(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Tanh()), IMAGES, "1", ["no layer that"]),
    "dropout": (layers(*START, nn.Dropout(0.1), nn.Conv2d(4, 3, 2)), IMAGES, "1", ["dropout", "behind it"]),
    "called twice": (
        lambda: Run(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(3, 3)),
        TOKENS,
        "tanh",
        ["a@1", "called twice"],
    ),
    "shared weight": (
        lambda: Run(lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight), a=nn.Linear(3, 3)),
        TOKENS,
        "tanh",
        ["weight is shared with a"],
    ),
    "weight norm": (
        lambda: nn.Sequential(*copy.deepcopy(START), weight_normed()),
        IMAGES,
        "1",
        ["2 (conv", "weight norm", "bake it"],
    ),
    "layer norm": (layers(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4)), TOKENS, "1", ["LayerNorm"]),
    "output": (layers(nn.Linear(3, 4), nn.GELU()), TOKENS, "1", ["an output of the network"]),
    "constant": (lambda: Run(lambda m, x: m.a(torch.tanh(x) + 1), a=nn.Linear(3, 3)), TOKENS, "tanh", ["constant"]),
    "ones around": (
        lambda: Run(lambda m, x: m.a(F.pad(x.tanh(), (1, 1), value=1.0)), a=nn.Conv2d(2, 3, 3)),
        IMAGES,
        "tanh",
        ["constant other than zero"],
    ),
    "squeeze and excite": (
        lambda: Run(lambda m, x: m.b(x * torch.sigmoid(m.a(x))), a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 3, 1)),
        IMAGES,
        "x",
        ["product channel by channel"],
    ),
    "half of the channels": (
        lambda: Run(lambda m, x: m.a(x.tanh()[:, :1]), a=nn.Conv2d(1, 3, 1)),
        IMAGES,
        "tanh",
        ["slice of the channels"],
    ),
    "heads": (
        lambda: Run(
            lambda m, x: m.b(torch.tanh(m.a(x)).reshape(-1, 5, 2, 2)[:, :, 0]), a=nn.Linear(3, 4), b=nn.Linear(2, 3)
        ),
        TOKENS,
        "tanh",
        ["several axes"],
    ),
    "attention": (lambda: Run(lambda m, x: m.a(x, x, x)[0], a=attention_block()), TOKENS, "x", ["attention reads it"]),
    "other axis": (lambda: Run(lambda m, x: m.a(x.tanh()), a=nn.Linear(6, 3)), IMAGES, "tanh", ["another axis"]),
    "joined with itself": (
        lambda: Run(lambda m, x: m.a(torch.cat([x.tanh(), x], 2)), a=nn.Conv2d(2, 3, 1)),
        IMAGES,
        "tanh",
        ["joins x"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_maps_are_refused_with_the_reason(case):
    make, x, node, words = REFUSED[case]
    graph = trace(seeded(make), x)
    reason = foldable(graph, node)
    assert isinstance(reason, str)
    assert all(word in reason for word in words), reason
    with pytest.raises(GraphError, match="can be multiplied away"):
        merged(graph, {node: torch.eye(2)})


@pytest.mark.parametrize(("mode", "exact_at_border"), [("zeros", False), ("circular", True)])
def test_a_map_with_a_bias_would_be_wrong_at_a_zero_padded_border(mode, exact_at_border):
    net, inputs = seeded(layers(nn.Tanh(), nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode))), batch(IMAGES)
    biased = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        biased.bias.fill_(1.0)
        biased.weight.copy_(matrix(2).reshape(2, 2, 1, 1))
    graph = trace(net, IMAGES)
    right = with_maps(graph, {"0": biased})(inputs)
    forced = merged(graph, {"0": matrix(2)})
    with torch.no_grad():
        forced[1].bias += net[1].weight.sum((2, 3)) @ biased.bias  # What the bias of the map gives in the interior.
    apart = (forced(inputs) - right).abs().amax((0, 1))
    assert apart[1:-1, 1:-1].max() < 1e-5
    border = torch.cat([apart[0], apart[-1], apart[:, 0], apart[:, -1]])
    assert (border.max() < 1e-5) if exact_at_border else (border.min() > 0.01)


TABLE = {
    "mlp": "layers.0 layers.1 layers.2 layers.3 layers.4 layers.5",
    "mlp-bn": "layers.0 layers.1 layers.3 layers.4 layers.6 layers.7",
    "lenet": "features.0 features.1 features.2 features.3 features.4 features.5 features.6 classifier.0 classifier.1 "
    "classifier.2 classifier.3 classifier.4",
    "lenet-bn": "features.0 features.2 features.3 features.4 features.6 features.7 features.8 classifier.0 "
    "classifier.1 classifier.2 classifier.3 classifier.4",
    "convnet": "features.0 features.1 features.2 features.3 features.4 features.5 features.6 features.7 features.8 "
    "features.9 classifier",
    "convnet-bn": "features.0 features.2 features.3 features.4 features.6 features.7 features.8 features.10 "
    "features.11 features.12 classifier",
    "myrtle5": "features.0 features.1 features.2 features.3 features.4 features.5 features.6 features.7 features.8 "
    "features.9 features.10 features.11 classifier",
    "myrtle5-bn": "features.0 features.2 features.3 features.5 features.6 features.7 features.9 features.10 "
    "features.11 features.13 features.14 features.15 classifier",
    "resnet8": "stem.0 blocks.0.relu@1 blocks.1.relu@1 blocks.2.relu@1 pool flatten classifier",
    "resnet8-nonorm": "stem.0 stem.1 blocks.0.relu@1 blocks.1.relu@1 blocks.2.relu@1 pool flatten classifier",
    "resnet20": "stem.0 blocks.2.relu@1 blocks.5.relu@1 blocks.8.relu@1 pool flatten classifier",
    "wrn-10-1": "stem blocks.1.relu blocks.2.relu relu pool flatten classifier",
}


@pytest.mark.parametrize("name", TABLE)
def test_passages_of_standard_networks_fold_and_merge(name):
    facts = Signature("pictures", "classification", (1, 8, 8), 3, tuple("012"), (0.0, 1.0))
    net, x = seeded(lambda: build(name, facts).eval()), torch.zeros(2, 1, 8, 8)
    graph = trace(net, x)
    found = [node for node in passages(graph) if isinstance(foldable(graph, node), Fold)]
    assert " ".join(found) == TABLE[name]
    made = merged(graph, random_maps(graph, found))
    build(name, facts).load_state_dict(made.state_dict(), strict=True)
    changed = {key for key, value in made.state_dict().items() if not torch.equal(value, net.state_dict()[key])}
    assert changed


def test_inverted_residuals_fold_into_the_expansion_of_blocks_without_skip():
    def block(before, after, stride):
        expand = [nn.Conv2d(before, 2 * after, 1, bias=False), nn.BatchNorm2d(2 * after), nn.ReLU6()]
        depthwise = [nn.Conv2d(2 * after, 2 * after, 3, stride, 1, groups=2 * after), nn.BatchNorm2d(2 * after)]
        return nn.Sequential(*expand, *depthwise, nn.ReLU6(), nn.Conv2d(2 * after, after, 1), nn.BatchNorm2d(after))

    def code(m, x):
        x = m.first(x)
        return m.head(m.last(x + m.skip(x)).mean((2, 3)))

    net = Run(code, first=block(2, 4, 2), skip=block(4, 4, 1), last=block(4, 3, 1), head=nn.Linear(3, 2))
    net = seeded(lambda: net)
    graph = trace(net, IMAGES)
    folding = ["add", "last.7", "mean"]  # Behind the sum, into the expansion; behind the last block, into the head.
    assert all(isinstance(foldable(graph, node), Fold) for node in folding)
    assert "identity shortcut adds first.7" in foldable(graph, "first.7")
    assert "depthwise" in foldable(graph, "skip.2")
    assert foldable(graph, "skip.5").layers[0].layer == "skip.6"
    assert_merges(net, IMAGES, folding)


def test_the_residual_stream_of_a_transformer_refuses_and_its_inside_folds():
    def code(m, x):
        x = m.embed(x)
        for _ in range(1):
            y = m.norm1(x)
            weights = torch.softmax(m.query(y) @ m.key(y).mT, -1)
            x = x + m.out(weights @ m.value(y))
            x = x + m.narrow(F.gelu(m.wide(m.norm2(x))))
        return m.head(m.norm3(x).mean(1))

    names = ("embed", "query", "key", "value", "out")
    parts = {name: nn.Linear(4 if name != "embed" else 3, 4) for name in names}
    norms = {f"norm{k}": nn.LayerNorm(4) for k in (1, 2, 3)}
    net = seeded(
        lambda: Run(code, **parts, **norms, wide=nn.Linear(4, 8), narrow=nn.Linear(8, 4), head=nn.Linear(4, 2))
    )
    graph = trace(net, TOKENS)
    for node in ("add", "add_1"):
        assert isinstance(foldable(graph, node), str)
    assert "LayerNorm" in foldable(graph, "add")
    folds = {node: foldable(graph, node) for node in ("gelu", "norm3", "mean", "narrow")}
    assert {node: fold.direction for node, fold in folds.items()} == {
        "gelu": "forward", "norm3": "forward", "mean": "forward", "narrow": "backward"
    }  # fmt: skip
    assert_merges(net, TOKENS, ["gelu", "norm3", "narrow"])


def test_axes_of_channels():
    graph = trace(FORWARD["patches to tokens"][0](), IMAGES)
    assert [channel_axis(graph, name) for name in ("x", "a", "tanh", "flatten", "transpose", "b")] == [1, 1, 1, 1, 2, 2]
    assert channel_axis(trace(FORWARD["one spatial axis"][0](), TOKENS.mT), "1") == 1
    assert channel_axis(trace(FORWARD["tokens"][0](), TOKENS), "1") == 2
    swin = trace(Run(lambda m, x: m.a(x.permute(0, 2, 3, 1)).sin(), a=nn.Linear(2, 3)), IMAGES)
    assert [channel_axis(swin, name) for name in ("permute", "a", "sin")] == [3, 3, 3]
    with pytest.raises(ShapeError, match="channels"):
        channel_axis(trace(Run(lambda m, x: x.sum((1, 2, 3))), IMAGES), "sum_1")


def test_types_flags_and_memory_formats_stay():
    net = seeded(layers(*START, nn.Conv2d(4, 3, 3))).to(memory_format=torch.channels_last)
    net[2].weight.requires_grad_(False)
    made = merged(trace(net, IMAGES), {"1": matrix(4)})
    assert made[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert not made[2].weight.requires_grad
    assert made[0].weight.requires_grad
    half = merged(trace(net.bfloat16(), IMAGES.bfloat16()), {"1": matrix(4)})
    assert half[2].weight.dtype is torch.bfloat16
    exact = torch.einsum("oikl,ij->ojkl", net[2].weight.double(), matrix(4).double())
    assert torch.equal(half[2].weight, exact.bfloat16())  # Rounded once.


def test_where_single_precision_cannot_tell_double_precision_does():
    net = seeded(layers(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)))
    with torch.no_grad():
        net[0].bias.fill_(1000.0)
        net[0].weight.mul_(1e-3)
        net[2].weight.copy_(torch.tensor([[1.0, -1.0]]) @ torch.linalg.inv(matrix(2)))
    graph = trace(net, torch.zeros(2, 3))
    made = merged(graph, {"1": matrix(2)})
    assert agreement(graph, {"1": ChannelMap(matrix(2), 1)}, made).worst > 1e-5


def test_what_the_graph_does_not_show_is_found_by_running_and_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            x = torch.tanh(self.a(x))
            y = self.c(torch.tanh(self.b(x)))
            return y + x.sum(1, keepdim=True) if self.training else y

    graph = trace(seeded(Hidden).eval(), torch.zeros(2, 3))
    merged(graph, {"tanh_1": matrix(5)})
    with pytest.raises(GraphError, match=r"behind tanh, multiplied forward into b\)") as caught:
        merged(graph, {"tanh": matrix(4), "tanh_1": matrix(5)})
    assert "apart" in str(caught.value)


def test_dropout_elsewhere_does_not_disturb_the_comparison():
    def code(m, x):
        return m.c(F.dropout(m.drop(torch.tanh(m.b(torch.tanh(m.a(x))))), 0.5, m.training))

    net = Run(code, a=nn.Linear(3, 4), b=nn.Linear(4, 5), c=nn.Linear(5, 2), drop=nn.Dropout(0.5))
    merged(trace(seeded(lambda: net), torch.zeros(2, 3)), {"tanh": matrix(4), "dropout": matrix(5)})


def test_real_batches_are_compared_too():
    graph = trace(seeded(FORWARD["vectors"][0]), torch.zeros(2, 3))
    merged(graph, {"1": matrix(4)}, batches=[torch.rand(4, 3), (torch.rand(2, 3),)])
    with pytest.raises(GraphError, match="apart"):
        merged(graph, {"1": matrix(4)}, batches=[torch.full((4, 3), torch.nan)])


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 1, 8)])
def test_code_that_calls_view_is_merged(shape):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            conv = nn.Conv2d if len(shape) == 4 else nn.Conv1d
            self.first, self.second = conv(1, 3, 3, padding=1), conv(3, 4, 3, padding=1)
            self.head = nn.Linear(4 * 8 ** (len(shape) - 2), 2)

        def forward(self, x):
            x = F.relu(self.second(F.relu(self.first(x))))
            return self.head(x.view(-1, self.head.in_features))

    graph = trace(seeded(Viewing, 0), torch.zeros(shape))
    maps = random_maps(graph, ["relu"], 0)
    merged(graph, maps)


def test_maps_of_another_size_are_named():
    with pytest.raises(ShapeError, match=r"shape \(4, 4\).*behind 1"):
        merged(trace(FORWARD["vectors"][0](), torch.zeros(2, 3)), {"1": torch.eye(3)})


class Random(nn.Module):
    """A random network of branches; `plan` lists (kind, places of earlier tensors, number)."""

    def __init__(self, plan):
        super().__init__()
        self.plan, self.parts = plan, nn.ModuleDict()
        channels = [2]
        for step, (kind, first, second, number) in enumerate(plan):
            a, b = channels[first % len(channels)], channels[second % len(channels)]
            made = {
                "conv": lambda a=a, n=number: nn.Conv2d(a, n, 3, padding=1),
                "up": lambda a=a, n=number: nn.ConvTranspose2d(a, n, 3, padding=1),
                "depthwise": lambda a=a: nn.Conv2d(a, a, 3, padding=1, groups=a),
                "norm": lambda a=a: nn.BatchNorm2d(a),
                "project": lambda a=a, b=b: nn.Conv2d(a, b, 1),
            }.get(kind, nn.Identity)()
            self.parts[str(step)] = made
            channels.append({"conv": number, "up": number, "project": b, "concat": a + b}.get(kind, a))
        self.mix = nn.Conv2d(sum(channels[1:]), 3, 1)
        self.head = nn.Linear(channels[-1] * 36, 3)

    def forward(self, x):
        found = [x]
        for step, (kind, first, second, _) in enumerate(self.plan):
            a, b, part = found[first % len(found)], found[second % len(found)], self.parts[str(step)]
            match kind:
                case "concat":
                    found.append(torch.cat([a, b], 1))
                case "act":
                    found.append(torch.tanh(a))
                case "pool":
                    found.append(F.avg_pool2d(a, 3, 1, 1))
                case "project":
                    found.append(b + part(a))
                case "twice":
                    found.append(2 * a + F.interpolate(a, scale_factor=1))
                case _:
                    found.append(part(a))
        return self.mix(torch.cat(found[1:], 1)).mean((2, 3)) + self.head(found[-1].flatten(1))


kinds = st.sampled_from(["conv", "conv", "up", "depthwise", "norm", "project", "concat", "act", "act", "pool", "twice"])
plans = st.lists(st.tuples(kinds, st.integers(0, 20), st.integers(0, 20), st.integers(1, 4)), min_size=2, max_size=6)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(plans, st.integers(0, 1000))
def test_random_networks_merge_in_double_precision(plan, seed):
    net, x = seeded(lambda: Random(plan), seed).double(), IMAGES.double()
    graph = trace(net, x)
    found = [node.name for node in graph.nodes if isinstance(foldable(graph, node.name), Fold)]
    maps = random_maps(graph, found, seed)
    modules = {name: as_module(a, 1, len(graph[name].shape), x.dtype) for name, a in maps.items()}
    made, mapped, inputs = merged(graph, maps), with_maps(graph, modules), batch(x)
    for mode in (False, True):
        one, two = mapped.train(mode)(inputs), made.train(mode)(inputs)
        assert relative(one, two) <= 1e-10
