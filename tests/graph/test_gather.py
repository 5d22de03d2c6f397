"""`gather` and `widen` against the network itself, evaluated by brute force."""

import contextlib
import copy
import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError
from pluriform.graph.channels import ChannelGroups, channel_groups
from pluriform.graph.gather import gather, gather_all, widen
from pluriform.graph.trace import trace
from pluriform.nets.convnet import ConvNet
from pluriform.nets.mlp import MLP
from pluriform.nets.myrtle import Myrtle
from pluriform.nets.resnet import ResNet
from pluriform.nets.zoo import NAMES, build

torch.set_num_threads(1)


def norm2d(kind, width):
    return {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(width),
        "group": lambda: nn.GroupNorm(2, width),
        "single": lambda: nn.GroupNorm(1, width),
        "instance": lambda: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
    }[kind]()


class Plain(nn.Module):
    def __init__(self, width=4, norm="none"):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, width, 3, padding=1, padding_mode="circular"), norm2d(norm, width)
        self.conv2, self.norm2 = nn.Conv2d(width, 2 * width, 3, stride=2, bias=False), norm2d(norm, 2 * width)
        self.hidden, self.head = nn.Linear(2 * width * 4, 2 * width), nn.Linear(2 * width, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 1)
        x = F.dropout(self.norm2(self.conv2(x)).relu(), 0.5, self.training)
        return self.head(torch.tanh(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), norm2d(norm, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), norm2d(norm, width)
        self.short = nn.Conv2d(width, 2 * width, 1)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        x = F.gelu(self.short(x).add(self.conv3(x)))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """Concatenated branches, twice, one of them added to a whole layer."""

    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, width, 1), nn.Conv2d(2, 2 * width, 3, padding=1)
        self.norm = norm2d(norm if norm != "group" else "batch", 3 * width)
        self.c = nn.Conv2d(2, 3 * width, 1)
        self.d = nn.Conv2d(3 * width, width, 3)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], dim=1)
        y = F.silu(self.norm(y + self.c(x)))
        z = self.d(y)
        z = torch.cat((z, self.a(x)[:, :, 1:-1, 1:-1]), 1)
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))


class Separable(nn.Module):
    """Depthwise convolutions, one with two outputs a channel."""

    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.expand = nn.Conv2d(2, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.twofold = nn.Conv2d(width, 2 * width, 3, groups=width, bias=False)
        self.norm = norm2d(norm if norm in {"none", "instance"} else "batch", 2 * width)
        self.project = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Linear(width * 9, 3)

    def forward(self, x):
        x = F.hardswish(self.depthwise(self.expand(x)))
        x = self.project(F.relu6(self.norm(self.twofold(x))))
        return self.head(F.avg_pool2d(x, 2, 1).reshape(x.size(0), -1))


class Grouped(nn.Module):
    def __init__(self, width=8, norm="group"):
        super().__init__()
        self.conv1 = nn.Conv2d(2, width, 1)
        self.conv2, self.norm2 = nn.Conv2d(width, 2 * width, 3, padding=1, groups=4), norm2d(norm, 2 * width)
        self.conv3 = nn.ConvTranspose2d(2 * width, width, 2, stride=2, groups=2)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.conv3(torch.sigmoid(self.norm2(self.conv2(F.elu(self.conv1(x))))))
        return self.head(x.mean([-1, -2]))


class OneD(nn.Module):
    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.conv1, self.norm = nn.Conv1d(12, width, 3, padding=1), nn.BatchNorm1d(width)
        self.slope, self.conv2 = nn.PReLU(width), nn.Conv1d(width, width, 3, dilation=2)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        x = x.flatten(1, 2)
        x = self.conv2(self.slope(self.norm(self.conv1(x))))
        return self.head(torch.flatten(x, start_dim=1))


class ThreeD(nn.Module):
    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(1, width, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(width, width, 2)
        self.norm = nn.BatchNorm3d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.conv2(F.softplus(self.norm(self.conv1(x.unsqueeze(1)))))
        return self.head(F.adaptive_max_pool3d(x, 1).flatten(1))


class Autoencoder(nn.Module):
    """Down, flat, up again by transposed and depthwise transposed convolutions."""

    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.down, self.flat = nn.Conv2d(2, width, 2, stride=2), nn.Linear(width * 9, 2 * width)
        self.lift, self.fold = nn.Linear(2 * width, width * 9), nn.Unflatten(1, (width, 3, 3))
        self.each = nn.ConvTranspose2d(width, width, 3, padding=1, groups=width)
        self.up, self.norm = nn.ConvTranspose2d(width, 2 * width, 2, stride=2), norm2d(norm, 2 * width)
        self.out = nn.Conv2d(2 * width, 2, 1)

    def forward(self, x):
        x = self.flat(self.down(x).flatten(1))
        x = self.each(self.fold(F.relu(self.lift(x))))
        return self.out(F.leaky_relu(self.norm(self.up(x))))


class Mixer(nn.Module):
    """MLP over tokens between transposes, MLP over channels."""

    def __init__(self, width=4, norm="layer"):
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Conv2d(2, width, 2, stride=2), nn.LayerNorm(width), nn.LayerNorm(width)
        self.token1, self.token2 = nn.Linear(9, 2 * width), nn.Linear(2 * width, 9)
        self.channel1, self.channel2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.token2(F.gelu(self.token1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.channel2(F.gelu(self.channel1(self.norm2(x))))
        return self.head(x.mean(dim=1))


class Normed(nn.Module):
    """Layer and RMS normalisation, channels last, a scale and a shift of the network's own."""

    def __init__(self, width=4, norm="layer"):
        super().__init__()
        self.conv = nn.Conv2d(2, width, 3)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(1, 1, 1, width))
        self.dense, self.head = nn.Linear(width, width), nn.Linear(16 * width, 3)

    def forward(self, x):
        x = self.norm1(self.conv(x).permute(0, 2, 3, 1)) * self.scale
        x = self.norm2(self.dense(x) + self.shift)
        return self.head(x.flatten(1))


class Gated(nn.Module):
    """Squeeze and excitation; a chunked gate."""

    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, width, 3), nn.Conv2d(width, 2 * width, 1)
        self.squeeze, self.excite = nn.Conv2d(width, 1 + width // 2, 1), nn.Conv2d(1 + width // 2, width, 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.conv1(x)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        a, b = self.conv2(x).chunk(2, dim=1)
        return self.head((a * b.sigmoid()).mean((2, 3)))


class Shuffled(nn.Module):
    """Pixel shuffle, upsampling, padding."""

    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.conv1, self.shuffle = nn.Conv2d(2, 4 * width, 3), nn.PixelShuffle(2)
        self.conv2, self.up = nn.Conv2d(width, width, 3, stride=2), nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(width, 2, 3)

    def forward(self, x):
        x = self.shuffle(self.conv1(x))
        return self.out(F.pad(self.up(F.relu(self.conv2(x))), (1, 0, 0, 2)))


class Twice(nn.Module):
    """One layer called twice: its inputs and outputs are tied."""

    def __init__(self, width=4, norm="batch"):
        super().__init__()
        self.stem, self.step, self.head = nn.Linear(72, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.stem(x.flatten(1)))
        return self.head(self.act(self.step(self.act(self.step(x)))))


KINDS = [Plain, Residual, Concat, Separable, Grouped, OneD, ThreeD, Autoencoder, Mixer, Normed, Gated, Shuffled, Twice]
LAYERED = (Mixer, Normed)
STOCK = [kind for kind in KINDS if kind is not Gated]


def make(kind, norm="batch", seed=0, width=None, dtype=torch.float64):
    """A network with random weights and statistics, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = kind(norm=norm) if width is None else kind(width, norm=norm)
        for name, tensor in net.state_dict().items():
            if "running_var" in name or ("norm" in name and name.endswith("weight")) or "scale" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.4)
    return net.to(dtype).eval()


def example(batch=3, seed=1, dtype=torch.float64):
    return torch.randn(batch, 2, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outputs(net, x):
    with torch.no_grad():
        return net.eval()(x)


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def snapshot(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def unchanged(net, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def free(graph):
    return [group for group in channel_groups(graph) if not group.fixed]


@functools.cache
def case_of(kind, norm):
    """A network, its graph, its free groups and its state, made once: `gather` leaves them as they are."""
    net = make(kind, norm)
    graph = trace(net, example())
    return net, graph, free(graph), snapshot(net)


NORMS = ("batch", "none", "group", "single", "instance")
norms = st.sampled_from(NORMS)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 999)
several = settings(
    max_examples=15, deadline=None, derandomize=True, print_blob=False, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("kind", KINDS)
def test_widening_every_free_group_keeps_the_function(kind):
    for norm in NORMS if kind in (Plain, Residual, Grouped) else NORMS[:1]:
        (net, graph, groups, before), x = case_of(kind, norm), example()
        wide = widen(graph, 2).root
        assert groups
        assert relative(outputs(wide, x), outputs(net, x)) <= 1e-13
        assert type(wide) is kind
        assert unchanged(net, before)


@pytest.mark.parametrize("kind", KINDS)
def test_widening_in_single_precision(kind):
    net, x = make(kind, dtype=torch.float32), example(dtype=torch.float32)
    assert relative(outputs(widen(trace(net, x), 2).root, x), outputs(net, x)) <= 1e-5


@pytest.mark.parametrize("kind", STOCK)
def test_the_widened_state_loads_in_the_stock_class(kind):
    for norm in ("batch", "group") if kind in (Plain, Grouped) else ("batch",):
        net, x = make(kind, norm), example()
        stock = make(kind, norm, width=16 if kind is Grouped else 8)
        wide = widen(trace(net, x), 2).root
        stock.load_state_dict(wide.state_dict())
        assert torch.equal(outputs(stock, x), outputs(wide, x))
        assert repr(stock) == repr(wide)


@several
@given(kinds, norms, st.data())
def test_any_multiset_that_covers_a_group_keeps_the_function_or_is_refused(kind, norm, data):
    (net, graph, groups, _), x = case_of(kind, norm), example()
    group = data.draw(st.sampled_from(groups))
    extra = data.draw(st.lists(st.integers(0, group.size - 1), max_size=group.size))
    index = data.draw(st.permutations([*range(group.size), *extra]))
    refusable = kind in LAYERED or norm in {"group", "single"}
    with contextlib.nullcontext() if not refusable else contextlib.suppress(GraphError):
        wide = gather(graph, group, index)
        assert relative(outputs(wide.root, x), outputs(net, x)) <= 1e-12


class Random(nn.Module):
    """A random directed graph of layers; `plan` lists (kind, places of earlier tensors, number)."""

    def __init__(self, plan):
        super().__init__()
        self.plan, self.layers = plan, nn.ModuleDict()
        channels = [2]
        for step, (kind, first, second, number) in enumerate(plan):
            a, b = channels[first % len(channels)], channels[second % len(channels)]
            made, out = self.layer(kind, a, b, number)
            if made is not None:
                self.layers[str(step)] = made
            channels.append(out)
        self.mix = nn.Conv2d(sum(channels[1:]), 3, 1)
        self.head = nn.Linear(channels[-1] * 36, 3)

    @staticmethod
    def layer(kind, a, b, number):
        groups = max(d for d in (1, 2, 3) if a % d == 0)
        match kind:
            case "conv":
                return nn.Conv2d(a, number, 3, padding=1), number
            case "up":
                return nn.ConvTranspose2d(a, number * groups, 3, padding=1, groups=groups), number * groups
            case "grouped":
                return nn.Conv2d(a, number * groups, 1, groups=groups, bias=False), number * groups
            case "depthwise":
                return nn.Conv2d(a, 2 * a, 3, padding=1, groups=a), 2 * a
            case "norm":
                return nn.BatchNorm2d(a), a
            case "project":
                return nn.Conv2d(a, b, 1), b
            case "concat":
                return None, a + b
        return None, a

    def forward(self, x):
        tensors = [x]
        for step, (kind, first, second, _) in enumerate(self.plan):
            a, b = tensors[first % len(tensors)], tensors[second % len(tensors)]
            match kind:
                case "concat":
                    tensors.append(torch.cat([a, b], 1))
                case "act":
                    tensors.append(torch.tanh(a))
                case "project":
                    tensors.append(b + self.layers[str(step)](a))
                case "gate":
                    tensors.append(a * torch.sigmoid(a.mean((2, 3), keepdim=True)))
                case _:
                    tensors.append(self.layers[str(step)](a))
        return self.mix(torch.cat(tensors[1:], 1)).mean((2, 3)) + self.head(tensors[-1].flatten(1))


steps = st.tuples(
    st.sampled_from(
        ["conv", "conv", "up", "grouped", "depthwise", "norm", "project", "project", "concat", "act", "gate"]
    ),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 4),
)


@settings(several, max_examples=6)
@given(st.lists(steps, min_size=3, max_size=7), seeds, st.data())
def test_random_graphs_widen_and_thin(plan, seed, data):
    net, x = make(lambda norm: Random([("conv", 0, 0, 4), *plan]), seed=seed), example()
    graph, before = trace(net, x), snapshot(net)
    groups = free(graph)
    if not groups:
        return
    wide = widen(graph, 2)
    assert relative(outputs(wide.root, x), outputs(net, x)) <= 1e-11
    drawn = {g.name: st.lists(st.integers(0, g.size - 1), min_size=1, max_size=g.size) for g in groups}
    selections = data.draw(st.fixed_dictionaries(drawn))
    thin = gather_all(graph, selections)
    assert outputs(thin.root, x).shape == (3, 3)
    covering = {
        name: [*index, *range(next(g.size for g in groups if g.name == name))] for name, index in selections.items()
    }
    assert relative(outputs(gather_all(graph, covering).root, x), outputs(net, x)) <= 1e-11
    assert unchanged(net, before)


@settings(several, max_examples=8)
@given(kinds, norms, st.data())
def test_thinning_by_any_subset_runs_with_the_shapes_of_the_graph(kind, norm, data):
    (net, graph, groups, before), x = case_of(kind, norm), example()
    for group in data.draw(st.permutations(groups))[:2]:
        keep = data.draw(st.lists(st.integers(0, group.size - 1), min_size=1, max_size=group.size, unique=True))
        graph = gather(graph, group.name, sorted(keep))
        sizes = {other.name: other.size for other in ChannelGroups.of(graph).groups}
        assert sizes[group.name] == len(keep)
    assert outputs(graph.root, x).shape == outputs(net, x).shape
    retraced = trace(graph.root, x)
    assert [(n.name, n.shape) for n in retraced.nodes] == [(n.name, n.shape) for n in graph.nodes]
    assert unchanged(net, before)


# For each group the modules that read it: axis of their input, positions before, positions a channel, positions after.
READERS = {
    (Plain, "conv1"): [("conv2", 1, 0, 1, 0)],
    (Plain, "conv2"): [("hidden", 1, 0, 4, 0)],
    (Plain, "hidden"): [("head", 1, 0, 1, 0)],
    (Residual, "stem"): [("conv1", 1, 0, 1, 0), ("short", 1, 0, 1, 0), ("conv3", 1, 0, 1, 0)],
    (Residual, "conv1"): [("conv2", 1, 0, 1, 0)],
    (Residual, "short"): [("head", 1, 0, 1, 0)],
    (Concat, "a"): [("d", 1, 0, 1, 8), ("head", 1, 4, 1, 0)],
    (Concat, "b"): [("d", 1, 4, 1, 0)],
    (Concat, "d"): [("head", 1, 0, 1, 4)],
    (Separable, "expand"): [("project", 1, 0, 2, 0)],
    (Separable, "project"): [("head", 1, 0, 9, 0)],
    (Grouped, "conv1"): [("conv2", 1, 0, 1, 0)],
    (Grouped, "conv2"): [("conv3", 1, 0, 1, 0)],
    (Grouped, "conv3"): [("head", 1, 0, 1, 0)],
    (OneD, "conv1"): [("conv2", 1, 0, 1, 0)],
    (OneD, "conv2"): [("head", 1, 0, 2, 0)],
    (ThreeD, "conv1"): [("conv2", 1, 0, 1, 0)],
    (ThreeD, "conv2"): [("head", 1, 0, 1, 0)],
    (Autoencoder, "down"): [("flat", 1, 0, 9, 0)],
    (Autoencoder, "flat"): [("lift", 1, 0, 1, 0)],
    (Autoencoder, "lift"): [("up", 1, 0, 1, 0)],
    (Autoencoder, "up"): [("out", 1, 0, 1, 0)],
    (Mixer, "token1"): [("token2", 2, 0, 1, 0)],
    (Mixer, "channel1"): [("channel2", 2, 0, 1, 0)],
}


def silenced(net, readers, keep, size):
    """The network as it was, in which removed channels are read as zero."""
    net = copy.deepcopy(net)
    kept = torch.zeros(size, dtype=torch.float64).index_fill(0, torch.tensor(keep), 1.0)

    for name, axis, before, block, after in readers:
        ones = torch.ones(max(before, after), dtype=torch.float64)
        mask = torch.cat([ones[:before], kept.repeat_interleave(block), ones[:after]])

        def hook(module, inputs, axis=axis, mask=mask):
            return inputs[0] * mask.reshape(-1, *[1] * (inputs[0].dim() - axis - 1))

        net.get_submodule(name).register_forward_pre_hook(hook)
    return net


@several
@given(st.sampled_from(list(READERS)), st.sampled_from(["none", "batch", "instance"]), st.data())
def test_thinning_equals_the_network_that_reads_removed_channels_as_zero(case, norm, data):
    kind, name = case
    (net, graph, groups, _), x = case_of(kind, norm), example()
    size = next(group.size for group in groups if group.name == name)
    keep = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=2 * size))
    want = outputs(silenced(net, READERS[case], keep, size), x)
    assert relative(outputs(gather(graph, name, keep).root, x), want) <= 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_standard_networks_widen_and_thin(name):
    torch.manual_seed(0)
    net, x = build(name, Signature("digits", "classification", (1, 16, 16), 10)).eval(), torch.randn(2, 1, 16, 16)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    graph, before = trace(net, x), snapshot(net)
    groups = [group for group in channel_groups(graph) if not group.fixed]
    wide = widen(graph, 2)
    assert relative(outputs(wide.root, x), outputs(net, x)) <= 1e-5
    assert unchanged(net, before)
    thin = gather_all(graph, {group.name: range(0, group.size, 3) for group in groups})
    assert outputs(thin.root, x).shape == (2, 10)
    assert {g.name: g.size for g in ChannelGroups.of(thin).groups}.items() >= {
        g.name: -(-g.size // 3) for g in groups
    }.items()


def test_the_widened_state_of_standard_networks_loads_in_the_stock_class():
    shape, x = (1, 16, 16), torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = [
        (MLP(shape, 10, hidden=(6, 5), norm=True), MLP(shape, 10, hidden=(12, 10), norm=True)),
        (ConvNet(shape, 10, width=4, norm=True), ConvNet(shape, 10, width=8, norm=True)),
        (Myrtle(shape, 10, width=4, norm=True), Myrtle(shape, 10, width=8, norm=True)),
        (ResNet(shape, 10, depth=8, width=4), ResNet(shape, 10, depth=8, width=8)),
    ]
    for net, stock in pairs:
        wide = widen(trace(net.eval(), x), 2).root
        stock.load_state_dict(wide.state_dict())
        assert relative(outputs(stock, x), outputs(net, x)) <= 1e-5
