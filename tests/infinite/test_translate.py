"""Every spelling of an operation finds its rule, and what has no limit says so in words."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import UnsupportedOpError
from pluriform.infinite.kernel_function import kernel_of


class Clamped(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(72, 8), nn.Linear(8, 1)
        self.register_buffer("bound", torch.tensor(0.1))

    def forward(self, x):
        return self.head(torch.clamp(self.stem(x.flatten(1)), min=self.bound))


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("two", torch.tensor(2.0))

    def forward(self, x):
        return torch.relu(x) / self.two


class Function(nn.Module):
    """A stem with weights, any function, and a head."""

    def __init__(self, function, stem=None, features=8):
        super().__init__()
        self.stem = nn.Linear(5, 8) if stem is None else stem
        self.function = function
        self.head = nn.Linear(features, 2)

    def forward(self, x):
        return self.head(self.function(self.stem(x)))


def vectors(n=4):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def images(n=3, channels=2, size=6):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def same(first, second, x, **facts):
    a, b = (kernel_of(net, x, **facts)(x) for net in (first, second))
    return torch.allclose(a.nngp, b.nngp, rtol=1e-8) and torch.allclose(a.ntk, b.ntk, rtol=1e-7)


PAIRS = {
    "relu": (lambda x: x.clamp(min=0) if False else x.relu(), nn.ReLU()),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), nn.LeakyReLU(0.2)),
    "gelu": (F.gelu, nn.GELU()),
    "frozen slope": (lambda x: F.leaky_relu(x, 0.25), nn.PReLU().requires_grad_(False)),
    "mean slope": (lambda x: F.leaky_relu(x, 11 / 48), nn.RReLU().eval()),
    "square": (lambda x: x**2, torch.square),
    "clamped": (lambda x: x.clamp(0, 6), nn.ReLU6()),
    "half clamped": (lambda x: torch.clamp(x, min=0.0), nn.ReLU()),
    "hard tanh": (lambda x: x.clip(-1, 1), nn.Hardtanh()),
    "sigmoid": (lambda x: torch.special.expit(x), nn.Sigmoid()),
    "power of two": (torch.exp2, lambda x: 2.0**x),
    "scaled": (lambda x: torch.relu(2 * x) / 2, nn.ReLU()),
    "divided by a buffer": (Halved(), lambda x: torch.relu(x) / 2),
    "negated": (lambda x: torch.erf(-x), torch.erf),
    "layer norm": (lambda x: F.relu(F.layer_norm(x, (8,))), nn.Sequential(nn.LayerNorm(8), nn.ReLU())),
    "group norm": (lambda x: F.relu(F.group_norm(x, 2)), nn.Sequential(nn.LayerNorm(8), nn.ReLU())),
    "dropout off": (lambda x: F.dropout(F.relu(x), 0.5, training=False), nn.ReLU()),
    "residual of itself": (lambda x: x + torch.relu(x), lambda x: 2 * F.leaky_relu(x, 0.5)),
    "square by itself": (lambda x: x * x, torch.square),
    "powers": (lambda x: torch.relu(x) * torch.relu(x), lambda x: torch.relu(x).pow(2)),
    "swish": (lambda x: x * torch.sigmoid(x), F.silu),
    "logistic": (lambda x: 1 / (1 + torch.exp(-x)), torch.sigmoid),
    "soft plus": (lambda x: torch.log(1 + torch.exp(x)), F.softplus),
    "gelu by hand": (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), F.gelu),
    "cosine": (lambda x: torch.sin(x + math.pi / 2), torch.cos),
    "hard swish": (lambda x: x * F.relu6(x + 3) / 6, F.hardswish),
    "shifted": (lambda x: torch.relu(x - 0.5) + 0.5, lambda x: x.clamp(min=0.5)),
    "rectified clamp": (lambda x: torch.clamp(torch.relu(x), max=6.0), nn.ReLU6()),
    "even": (lambda x: torch.exp(-(x**2)), lambda x: torch.exp(-x * x)),
    "centred": (
        lambda x: F.layer_norm(torch.sigmoid(x) - 0.5, (8,)),
        lambda x: F.layer_norm(torch.tanh(x / 2) / 2, (8,)),
    ),
    "threefold": (lambda x: torch.relu(torch.relu(torch.relu(x))), nn.ReLU()),
    "added branch with a mean": (lambda x: F.relu(x) * 1.0, lambda x: F.relu(x)),
}


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_spellings_agree(name):
    first, second = PAIRS[name]
    assert same(Function(first), Function(second), vectors(), bias_var=0.1)


def conv(**facts):
    return nn.Conv2d(2, 8, 3, padding=1, **facts)


SPATIAL = {
    "global": (lambda x: F.relu(x).mean((2, 3)), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8),
    "squeeze": (
        lambda x: F.adaptive_avg_pool2d(F.relu(x), 1).squeeze(-1).squeeze(-1),
        nn.Sequential(nn.ReLU(), nn.AvgPool2d(6), nn.Flatten()),
        8,
    ),
    "view": (lambda x: F.relu(x).view(x.size(0), -1), nn.Sequential(nn.ReLU(), nn.Flatten()), 288),
    "sum": (lambda x: F.relu(x).sum((2, 3)) / 36, nn.Sequential(nn.ReLU(), nn.AvgPool2d(6), nn.Flatten()), 8),
    "twice": (
        lambda x: F.avg_pool2d(F.avg_pool2d(F.relu(x), 2), 3).flatten(1),
        nn.Sequential(nn.ReLU(), nn.AvgPool2d(6), nn.Flatten()),
        8,
    ),
    "divisor": (
        lambda x: F.avg_pool2d(F.relu(x), 2, divisor_override=8).flatten(1),
        lambda x: (F.avg_pool2d(F.relu(x), 2) / 2).flatten(1),
        72,
    ),
    "keepdim": (
        lambda x: F.relu(x).mean(3, keepdim=True).mean(2, keepdim=True).flatten(1),
        lambda x: F.relu(x).mean((2, 3)),
        8,
    ),
}


@pytest.mark.parametrize("name", sorted(SPATIAL))
def test_spatial_spellings_agree(name):
    first, second, features = SPATIAL[name]
    stem = conv()
    assert same(Function(first, stem, features), Function(second, stem, features), images(), bias_var=0.1)


def test_channels_may_move_to_the_end_and_back():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mix, self.head = nn.Conv2d(2, 8, (3, 1)), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            x = self.stem(x).permute(0, 3, 2, 1)
            x = self.mix(torch.relu(F.layer_norm(x, (8,)))).movedim(-1, 1)
            return self.head(F.avg_pool2d(torch.relu(x), (6, 1)).mean((2, 3)))

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mix, self.head = nn.Conv2d(2, 8, (3, 1)), nn.Conv2d(8, 8, 1), nn.Linear(8, 1)
            self.norm = nn.LayerNorm(8)

        def forward(self, x):
            x = self.norm(self.stem(x).transpose(1, 3)).transpose(1, 3)
            return self.head(torch.relu(self.mix(torch.relu(x))).mean((2, 3)))

    assert same(Last(), First(), images(), bias_var=0.1)


def test_a_pointwise_convolution_is_a_linear_layer():
    images_of_one = vectors()[:, :, None, None]
    first = nn.Sequential(nn.Conv2d(5, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.Flatten())
    second = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    a, b = kernel_of(first, images_of_one)(images_of_one), kernel_of(second, vectors())(vectors())
    assert torch.allclose(a.ntk, b.ntk)


def test_full_layout_and_diagonal_layout_agree_below_a_flatten():
    """A pool of one cell asks for all pairs of positions and changes nothing."""
    plain = Function(nn.Sequential(nn.ReLU(), conv_after(), nn.GELU(), nn.Flatten()), conv(), 288)
    full = Function(nn.Sequential(nn.ReLU(), conv_after(), nn.GELU(), nn.AvgPool2d(1), nn.Flatten()), conv(), 288)
    assert kernel_of(plain, images()).entries == 36
    assert kernel_of(full, images()).entries == 36**2
    assert same(plain, full, images(), bias_var=0.1)


def conv_after():
    return nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")


def test_grouped_convolution_has_the_same_limit():
    nets = [nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=g), nn.ReLU()) for g in (1, 2)]
    assert same(*(nn.Sequential(net, nn.Flatten(), nn.Linear(128, 1)) for net in nets), images())


def test_depthwise_convolution_before_a_pointwise_one():
    nets = [
        nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=g), nn.Conv2d(8, 8, 1), nn.ReLU()) for g in (1, 8)
    ]
    assert same(*(nn.Sequential(net, nn.Flatten(), nn.Linear(128, 1)) for net in nets), images())


def test_fresh_batch_norm_in_evaluation_mode_is_almost_the_identity():
    bare = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    norm = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).eval()
    a, b = kernel_of(bare, vectors())(vectors()), kernel_of(norm, vectors())(vectors())
    assert torch.allclose(a.ntk, b.ntk, rtol=1e-4)


def test_batch_norm_with_statistics_before_a_linear_layer_is_its_affine_map():
    norm = nn.BatchNorm1d(8).eval()
    norm.running_var.copy_(torch.linspace(0.5, 2, 8))
    norm.running_mean.copy_(torch.linspace(-1, 1, 8))
    net = nn.Sequential(nn.Linear(5, 8, bias=False), norm, nn.Linear(8, 1, bias=False))
    x = vectors()
    k = kernel_of(net, x, weight_var=1.0)(x).nngp
    a, c = 1 / (norm.running_var.double() + norm.eps), norm.running_mean.double()
    assert torch.allclose(k, a.mean() * (x @ x.T / 5) + (a * c**2).mean())


REFUSED = {
    "max-pool": (
        nn.Sequential(conv(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 1)),
        r"max_pool \(1 \(max_pool",
        "average",
    ),
    "batch norm": (
        nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 1)),
        "training mode",
        "eval",
    ),
    "trained batch norm": (
        nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 1)),
        "not Gaussian|that are not",
        "linear or convolutional",
    ),
    "softmax": (nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Softmax(1)), "softmax", "before the softmax"),
    "two nonlinearities": (
        nn.Sequential(conv(), nn.ReLU(), nn.GELU(), nn.Flatten(), nn.Linear(288, 1)),
        r"2 nonlinearities in a row, of 0 \(2 \(activation\)\)",
        "linear or convolutional layer before it",
    ),
    "logarithm": (
        Function(lambda x: torch.log(x).flatten(1), conv(), 288),
        "got log",
        "use one of these",
    ),
    "fractional power": (Function(lambda x: (x**0.5).flatten(1), conv(), 288), "got pow", "use one of these"),
    "trained slope": (
        nn.Sequential(conv(), nn.PReLU(), nn.Flatten(), nn.Linear(288, 1)),
        "a trainable slope",
        "use leaky_relu",
    ),
    "random slope": (
        nn.Sequential(conv(), nn.RReLU(), nn.Flatten(), nn.Linear(288, 1)),
        "rrelu in training mode",
        "random",
    ),
    "depthwise": (
        nn.Sequential(conv(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1)),
        "channels apart",
        "linear or convolutional layer before it",
    ),
    "groups of the inputs": (
        nn.Sequential(nn.Conv2d(2, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1)),
        "Gaussian units before a nonlinearity",
        "linear or convolutional layer before it",
    ),
    "dropped inputs": (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(72, 1)), "dropout of the inputs", "eval()"),
    "alpha dropout": (
        nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.SELU(), nn.AlphaDropout(), nn.Linear(8, 1)),
        "alpha dropout",
        "nn.Dropout",
    ),
    "broadcast gate": (
        Function(lambda x: (x * x.mean((2, 3), keepdim=True)).flatten(1), conv(), 288),
        "broadcasting has no rule",
        "equally wide and large",
    ),
    "mean over channels": (
        Function(lambda x: x.mean(1).flatten(1), conv(), 36),
        "one over axes (1,)".replace("(", r"\(").replace(")", r"\)"),
        "reduce positions only",
    ),
    "half of the channels": (
        Function(lambda x: x[:, :4].flatten(1), conv(), 144),
        "slicing of samples or channels",
        "a layer of its own",
    ),
    "norm after relu": (
        nn.Sequential(conv(), nn.ReLU(), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(288, 1)),
        "units of mean zero",
        "RMSNorm",
    ),
    "instance norm": (
        nn.Sequential(conv(), nn.InstanceNorm2d(8), nn.Flatten(), nn.Linear(288, 1)),
        "instance_norm",
        "GroupNorm or LayerNorm",
    ),
    "weights computed from others": (
        nn.Sequential(
            nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(72, 8)), nn.ReLU(), nn.Linear(8, 1)
        ),
        "a parametrisation",
        "remove_parametrizations",
    ),
    "bound that the module holds": (
        Clamped(),
        "clamp with a tensor that the module holds",
        "write its value as a number",
    ),
    "antialias": (
        Function(lambda x: F.interpolate(x, size=3, mode="bilinear", antialias=True).flatten(1), conv(), 72),
        "antialias=True",
        "pool before resizing",
    ),
    "linear on columns": (
        nn.Sequential(conv(), nn.Linear(6, 6), nn.Flatten(), nn.Linear(288, 1)),
        "positions for",
        "flatten",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_limit_is_refused_with_the_way_out(name):
    net, words, remedy = REFUSED[name]
    if name == "trained batch norm":
        net.eval()[1].running_var.copy_(torch.linspace(0.5, 2, 8))
    with pytest.raises(UnsupportedOpError, match=words) as caught:
        kernel_of(net, images())
    assert remedy in str(caught.value)
    assert all(part in str(caught.value) for part in ("expected ", "; got ", "To fix: "))


class Sums(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, x):
        z = self.a(x)
        if self.kind == "shared":
            return self.head(F.layer_norm(z, (8,)) + torch.relu(z))
        if self.kind == "means":
            return self.head(torch.relu(z) + torch.relu(self.b(x)))
        if self.kind == "bent":
            return self.head(torch.relu(z + torch.relu(self.b(x))))
        if self.kind == "square":
            return self.head(F.layer_norm(z, (8,)) * z)
        if self.kind == "twice":
            return self.head(torch.relu(z) + self.a(torch.flip(x, (1,)) if False else x))
        return self.head(torch.relu(z) + self.b(x))


def test_branches_must_be_independent_and_centred():
    cases = {
        "shared": "branches that share a with no layer",
        "square": "branches that share a with no layer",
        "means": "at most one branch of a sum whose units have a mean",
        "bent": "Gaussian units before a nonlinearity",
        "twice": "a parameter shared by a and a@1",
    }
    for kind, words in cases.items():
        with pytest.raises(UnsupportedOpError, match=words) as caught:
            kernel_of(Sums(kind), vectors())
        assert "test_translate.py:" in str(caught.value)
    kernel_of(Sums("fine"), vectors())


class Concat(nn.Module):
    """Branches side by side, the function of all of them, and what follows."""

    def __init__(self, function, separate):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.head, self.function, self.separate = nn.Linear(8, 1), function, separate

    def forward(self, x):
        a, b = self.a(x), 2 * self.b(x)
        if self.separate:
            joined = torch.cat([self.function(a), self.function(b)], 1)
        else:
            joined = self.function(torch.cat([a, b], 1))
        return self.head(torch.relu(self.c(joined)).mean((2, 3)))


@pytest.mark.parametrize(
    "function", [torch.tanh, lambda x: F.avg_pool2d(torch.relu(x), 2), lambda x: F.gelu(F.avg_pool2d(x, 2))]
)
def test_a_nonlinearity_after_a_concatenation_is_one_of_each_branch(function):
    assert same(Concat(function, True), Concat(function, False), images(), bias_var=0.1)


class Dense(nn.Module):
    """A dense block; sums of two concatenations, or the concatenation of sums."""

    def __init__(self, separate):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(5, 4), nn.Linear(5, 6)
        self.mix, self.head, self.separate = nn.Linear(10, 8), nn.Linear(8, 1), separate

    def forward(self, x):
        a = self.a(x)
        b = self.b(torch.relu(a))
        c, d = self.c(x), self.d(x)
        if self.separate:
            joined = torch.cat([torch.relu(a + c), torch.relu(b + d)], 1)
        else:
            joined = torch.relu(torch.cat([a, b], 1) + torch.cat([c, d], 1))
        return self.head(torch.relu(self.mix(joined)))


def test_dense_blocks_and_sums_of_concatenations():
    assert same(Dense(True), Dense(False), vectors(), bias_var=0.1)


def test_heads_side_by_side_have_the_mean_covariance():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 1), nn.Linear(5, 3)

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x)], 1)

    x = vectors()
    kernel = kernel_of(Heads(), x, overrides={"a": (1.0, 0.0), "b": (3.0, 0.0)})(x)
    assert torch.allclose(kernel.nngp, 2.5 * x @ x.T / 5)


class Odd(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.head, self.other = kind, nn.Linear(5, 8), nn.Linear(8, 1), nn.Linear(5, 1)
        self.offset = nn.Parameter(torch.zeros(1, 5))

    def forward(self, x):
        if self.kind == "trained":
            return self.head(torch.relu(self.a(x + self.offset)))
        return self.head(torch.relu(self.a(x))), self.other(x)


def test_trained_tensors_and_several_outputs_are_refused():
    with pytest.raises(UnsupportedOpError, match="the trainable tensor offset"):
        kernel_of(Odd("trained"), vectors())
    frozen = Odd("trained")
    frozen.offset.requires_grad_(False)
    kernel_of(frozen, vectors())
    with pytest.raises(UnsupportedOpError, match="2 outputs"):
        kernel_of(Odd("both"), vectors())


def test_dropout_follows_the_training_flag():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1, bias=False))
    x = vectors()
    on, off = kernel_of(net.train(), x)(x).nngp, kernel_of(net.eval(), x)(x).nngp
    expected = off + torch.diag(off.diagonal() / 0.8 - off.diagonal())
    assert torch.allclose(on, expected)
    assert torch.allclose(kernel_of(net.train(), x)(x, x.clone()).nngp, off)


@pytest.mark.parametrize("tokens", [6, 4])
@pytest.mark.parametrize("join", [lambda x, y: y + x, lambda x, y: x + y, lambda x, y: y * x])
def test_raw_tokens_are_joined_channel_by_channel(tokens, join):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(torch.relu(self.mix(join(x, self.inner(x))))).flatten(1)

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.mix, self.head = nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1), nn.Conv1d(6, 2, 1)

        def forward(self, x):
            x = x.transpose(1, 2)
            return self.head(torch.relu(self.mix(join(x, self.inner(x))))).flatten(1)

    x = torch.randn(3, tokens, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert same(Last(), First(), x, bias_var=0.1)


def test_positions_of_unequal_lengths_are_joined():
    """A class token before the others, and the same by way of three parts."""

    class Joined(nn.Module):
        def __init__(self, *cuts):
            super().__init__()
            self.cuts = cuts
            self.parts = nn.ModuleList(nn.Linear(4, 5) for _ in cuts)
            self.head = nn.Linear(5, 1)

        def forward(self, x):
            parts = [layer(part) for layer, part in zip(self.parts, x.split(self.cuts, 1), strict=True)]
            return self.head(torch.cat(parts, 1).mean(1))

    x = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = kernel_of(Joined(3, 5), x, weight_var=1.0)(x)
    parts = [part.sum(1) for part in x.split((3, 5), 1)]
    exact = sum(part @ part.T for part in parts) / (64 * 4)
    assert torch.allclose(found.nngp, exact, rtol=1e-8)


def test_one_branch_twice_in_a_concatenation():
    net = Function(lambda x: torch.cat([x, x], 1), features=16)
    one = Function(lambda x: x)
    assert torch.allclose(kernel_of(net, vectors())(vectors()).nngp, kernel_of(one, vectors())(vectors()).nngp)


def test_norms_that_are_trained_before_the_first_weights_are_refused_where_they_count():
    net = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    assert kernel_of(net, vectors())(vectors()).ntk.shape == (4, 4)
    with pytest.raises(UnsupportedOpError, match="the trainable tensor 0.weight"):
        kernel_of(net, vectors(), parameterization="standard")
    net[0].requires_grad_(False)
    assert kernel_of(net, vectors(), parameterization="standard")(vectors()).ntk.shape == (4, 4)
    slope = nn.Sequential(nn.PReLU(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(UnsupportedOpError, match="the trainable tensor 0.weight"):
        kernel_of(slope, vectors())
