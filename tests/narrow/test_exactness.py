"""Widened equals original, merged equals unmerged, and results load in the stock class: network by network."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Split
from pluriform.data.signature import Signature
from pluriform.graph.channels import ChannelGroups, channel_groups
from pluriform.graph.gather import widen
from pluriform.graph.trace import trace
from pluriform.narrow.fold import merged, with_maps
from pluriform.narrow.plan import inner_groups, plan_units
from pluriform.narrow.wide import widened
from pluriform.nets.zoo import NAMES, build

torch.set_num_threads(1)
TOLERANCE = 1e-5


class Vgg(nn.Module):
    """Stages of 3x3 convolutions with BatchNorm and max pooling, two dense layers with dropout."""

    def __init__(self, width=4, stages=3, side=16):
        super().__init__()
        parts, inputs = [], 3
        for stage in range(stages):
            for _ in range(2):
                outputs = width * 2**stage
                parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            parts.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*parts)
        hidden = 4 * width
        dense = [
            nn.Linear(inputs * (side // 2**stages) ** 2, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, 10),
        ]
        self.classifier = nn.Sequential(*dense)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Attention(nn.Module):
    def __init__(self, stream, heads, dim):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv, self.out = nn.Linear(stream, 3 * heads * dim), nn.Linear(heads * dim, stream)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, two pre-norm blocks."""

    def __init__(self, stream=16, heads=2, dim=4, hidden=12, side=16, channels=3):
        super().__init__()
        self.patches = nn.Conv2d(channels, stream, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, stream))
        self.positions = nn.Parameter(torch.randn(1, (side // 4) ** 2 + 1, stream))
        self.norms = nn.ModuleList(nn.LayerNorm(stream) for _ in range(4))
        self.attentions = nn.ModuleList(Attention(stream, heads, dim) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(stream, hidden), nn.GELU(), nn.Linear(hidden, stream)) for _ in range(2)
        )
        self.head = nn.Linear(stream, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for k in range(2):
            x = x + self.attentions[k](self.norms[2 * k](x))
            x = x + self.mlps[k](self.norms[2 * k + 1](x))
        return self.head(x[:, 0])


def signature(side=16, channels=3):
    return Signature("images", "classification", (channels, side, side), 10)


MAKERS = {name: lambda name=name, side=16: build(name, signature(side)) for name in (*NAMES, "resnet8", "wrn-10-1")}
MAKERS |= {"vgg": lambda side=16: Vgg(side=side), "transformer": lambda side=16: VisionTransformer(side=side)}
FAST = ("mlp-bn", "lenet", "convnet-bn", "resnet8", "wrn-10-1", "vgg", "transformer")


def stirred(make, seed=0):
    """A network with statistics that are not those of the start, and weights that let signals through."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make()
        for part in net.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                part.weight.data.uniform_(0.5, 2)
                part.bias.data.normal_()
        return net.eval()


def images(side=16, rows=6, channels=3, seed=1):
    return torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(seed))


def without_dropout(net, mode):
    net = copy.deepcopy(net).train(mode)
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    return net


def apart(one, two, x, mode=False):
    with torch.no_grad():
        first, second = without_dropout(one, mode)(x), without_dropout(two, mode)(x)
    return float((first - second).abs().max() / second.abs().max())


def as_layer(matrix, axis, rank):
    """The map as a layer of torch."""
    if axis == rank - 1:
        layer = nn.Linear(len(matrix), len(matrix), bias=False)
    else:
        layer = (nn.Conv2d if rank == 4 else nn.Conv1d)(len(matrix), len(matrix), 1, bias=False)
    layer.weight.data = matrix.reshape(layer.weight.shape).clone()
    return layer


def lift_and_reduce(thin, wide, seed, dtype=torch.float32):
    """V U of a random lift and its pseudo-inverse, disturbed: well conditioned, without structure."""
    generator = torch.Generator().manual_seed(seed)
    lift = torch.randn(wide, thin, generator=generator)
    made = torch.linalg.pinv(lift) @ lift + 0.3 * torch.randn(thin, thin, generator=generator) / thin**0.5
    return made.to(dtype)


def assert_widens(net, x, factor=2):
    """By equal and by unequal shares; evaluated, and by equal ones trained."""
    graph = trace(net, x[:2])
    free = [group for group in channel_groups(graph) if not group.fixed]
    assert free
    wide = widen(graph, factor)
    assert apart(wide.root, net, x) <= TOLERANCE
    assert apart(wide.root, net, x, mode=True) <= TOLERANCE
    assert apart(widened(graph, factor, 3, fresh=False, noise=0), net, x) <= TOLERANCE
    assert type(wide.root) is type(net)
    sizes = {group.name: group.size for group in ChannelGroups.of(wide).groups}
    assert all(sizes[group.name] == factor * group.size for group in free)
    return graph, wide


def assert_merges(graph, wide, net, make, x):
    """Random maps at every place where the plan has a pair."""
    plan = plan_units(graph, wide, units=100)
    pairs = [unit for unit in plan.units if unit.lift == "pair"]
    widths = {unit.end: (unit.thin[unit.axis - 1], unit.wide[unit.axis - 1]) for unit in pairs}
    maps = {end: lift_and_reduce(*both, seed, x.dtype) for seed, (end, both) in enumerate(widths.items())}
    layers = {unit.end: as_layer(maps[unit.end], unit.axis, len(unit.thin) + 1) for unit in pairs}
    mapped, made = with_maps(graph, layers) if layers else net, merged(graph, maps, [x])
    for mode in (False, True):
        assert apart(made, mapped, x, mode) <= TOLERANCE
    dead = float(net.eval()(x).detach().std(0).max()) == 0  # All channels behind some ReLU are off.
    assert not pairs or dead or apart(net, mapped, x) > 100 * TOLERANCE  # Maps that were left out would be seen.
    stock = make()
    stock.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(stock.eval()(x), made.eval()(x))
    return pairs


@pytest.mark.parametrize("name", FAST)
def test_small_networks(name):
    net, x = stirred(MAKERS[name]), images()
    graph, wide = assert_widens(net, x)
    pairs = assert_merges(graph, wide, net, MAKERS[name], x)
    assert pairs


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("factor", [2, 3])
def test_all_networks_on_images_of_32_pixels(name, factor):
    net, x = stirred(lambda: MAKERS[name](side=32)), images(32)
    graph, wide = assert_widens(net, x, factor)
    pairs = assert_merges(graph, wide, net, lambda: MAKERS[name](side=32), x)
    assert pairs


def test_a_transformer_widens_inside_into_its_class():
    net, x = stirred(MAKERS["transformer"]), images()
    graph = trace(net, x[:2])
    groups = inner_groups(graph)
    assert groups == ("attentions.0.qkv", "mlps.0.0", "attentions.1.qkv", "mlps.1.0")
    wide = widen(graph, 3, groups).root
    stock = VisionTransformer(heads=6, hidden=36)
    stock.load_state_dict(wide.state_dict(), strict=True)
    assert apart(stock, net, x) <= TOLERANCE
    assert [part.heads for part in wide.attentions] == [6, 6]
    plan = plan_units(graph, trace(wide, x[:2]))
    assert {unit.lift for unit in plan.units} == {"none"}


def test_a_transformer_comes_out_of_the_whole_method():
    data = pf.load("digits")
    data = replace(data, train=Split(*data.train.batch(torch.arange(64))))
    short = pf.Training(epochs=1, learning_rate=1e-3)
    net = VisionTransformer(side=8, channels=1, heads=1)
    method = pf.WideThenNarrow(4, wide_training=short, imitation=short, logits=short, training=short)
    form = method.fit(net, data)
    stock = VisionTransformer(side=8, channels=1, heads=1)
    stock.load_state_dict(form.module.state_dict(), strict=True)
    x = data.test.inputs[:20]
    assert torch.allclose(stock.eval()(x), form(x), atol=1e-6)
    assert [part.heads for part in form.module.attentions] == [1, 1]
    inside, outside = 2 * 5 * (16 * 12 + 4 * 16 + 2 * 16 * 12), 4 * 16 * 16 + 16 * 10
    assert form.cost["thin_macs"] >= inside + outside
    assert form.cost["wide_macs"] - form.cost["thin_macs"] >= 3 * inside  # Products of attention come on top.


class Chain(nn.Module):
    """Random blocks one after the other, each of a kind and a width."""

    def __init__(self, plan):
        super().__init__()
        self.plan, self.blocks = plan, nn.ModuleList()
        width = 2
        for kind, number in plan:
            made, width = self.block(kind, width, number)
            self.blocks.append(made)
        self.head = nn.Linear(width, 3)

    @staticmethod
    def block(kind, width, number):
        conv = nn.Conv2d(width, number, 3, padding=1)
        match kind:
            case "conv":
                return nn.Sequential(conv, nn.ReLU()), number
            case "norm":
                return nn.Sequential(conv, nn.BatchNorm2d(number), nn.SiLU()), number
            case "bare":
                return nn.Conv2d(width, number, 3, padding=1, padding_mode="circular", bias=False), number
            case "depthwise":
                return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Tanh()), width
            case "pool":
                return nn.AvgPool2d(3, 1, 1, count_include_pad=False), width
            case "up":
                return nn.ConvTranspose2d(width, number, 3, padding=1), number
        outputs = number if kind == "project" else width
        inside = [
            nn.Conv2d(width, number, 1),
            nn.BatchNorm2d(number),
            nn.ReLU(),
            nn.Conv2d(number, outputs, 3, padding=1),
        ]
        return nn.Sequential(*inside), outputs

    def forward(self, x):
        for (kind, _), block in zip(self.plan, self.blocks, strict=True):
            match kind:
                case "identity":
                    x = x + block(x)
                case "project":
                    short = block[0](x)
                    x = torch.relu(block[1:](short) + short)
                case _:
                    x = block(x)
        return self.head(x.mean((2, 3)))


KINDS = ("conv", "norm", "bare", "depthwise", "pool", "up", "identity", "project")
several = settings(deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck))
plans = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(2, 5)), min_size=2, max_size=5)


@settings(several, max_examples=4, derandomize=True)
@given(plans, st.integers(0, 999))
def test_random_chains(plan, seed):
    check_chain([("conv", 3), *plan], seed)


@pytest.mark.slow
@settings(several, max_examples=300)
@example([("project", 2), ("project", 2)], 332)
@given(plans, st.integers(0, 999))
def test_many_random_chains(plan, seed):
    check_chain([("conv", 3), *plan], seed)


def check_chain(plan, seed):
    net, x = stirred(lambda: Chain(plan), seed), images(6, channels=2, seed=seed)
    net, x = net.double(), x.double()
    graph, wide = assert_widens(net, x)
    assert_merges(graph, wide, net, lambda: Chain(plan).double(), x)
