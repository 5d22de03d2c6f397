"""Kernels of many kinds of layers against those recorded from another library; see `recorded_networks`."""

import importlib.util
import math
import operator
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.infinite.kernel_function import kernel_of

HERE = Path(__file__).parent
SPEC = importlib.util.spec_from_file_location("recorded_networks", HERE / "recorded_networks.py")
DESCRIPTIONS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(DESCRIPTIONS)
NETWORKS = DESCRIPTIONS.NETWORKS

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ZEROS = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}
CIRCLES = {1: nn.CircularPad1d, 2: nn.CircularPad2d, 3: nn.CircularPad3d}
GLOBAL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}

FUNCTIONS = {
    "relu": torch.relu,
    "leaky": F.leaky_relu,
    "abs": torch.abs,
    "abrelu": lambda x, a, b: b * torch.relu(x) - a * torch.relu(-x),
    "erf": lambda x, a, b, c: a * torch.erf(b * x) + c,
    "gelu": F.gelu,
    "sin": lambda x, a, b, c: a * torch.sin(b * x + c),
    "cos": lambda x, a, b, c: a * torch.cos(b * x + c),
    "exp": lambda x, a, b: a * torch.exp(b * x),
    "gaussian": lambda x, a, b: a * torch.exp(b * x**2),
    "rbf": lambda x, gamma: math.sqrt(2) * torch.sin(math.sqrt(2 * gamma) * x + math.pi / 4),
    "sign": torch.sign,
    "sigmoid": lambda x: 0.5 * torch.erf(x / 2.4020563531719796) + 0.5,
    "monomial": torch.pow,
    "rectified": lambda x, n: torch.relu(x) ** n if n else (torch.sign(x) + 1) / 2,
    "polynomial": lambda x, a, b, c, d: a + b * x + c * x**2 + d * x**3,
}


class Bend(nn.Module):
    def __init__(self, kind, numbers):
        super().__init__()
        self.kind, self.numbers = kind, numbers

    def forward(self, x):
        return FUNCTIONS[self.kind](x, *self.numbers)


class Join(nn.Module):
    def __init__(self, kind, parts):
        super().__init__()
        self.kind, self.parts = kind, nn.ModuleList(parts)

    def forward(self, x):
        parts = [part(x) for part in self.parts]
        if self.kind == "concat":
            return torch.cat(parts, 1)
        return reduce(operator.add if self.kind == "sum" else operator.mul, parts)


class ChannelNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)

    def forward(self, x):
        last = x.ndim - 1
        return self.norm(x.permute(0, *range(2, last + 1), 1)).permute(0, last, *range(1, last))


class Sum(nn.Module):
    def forward(self, x):
        return x.sum(tuple(range(2, x.ndim)))


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Builder:
    """The module of a description, and the variances of its layers by dotted path."""

    def __init__(self, shape):
        self.shape, self.variances = tuple(shape), {}

    def sequence(self, layers, path):
        return nn.Sequential(*(getattr(self, op)(f"{path}{i}", **facts) for i, (op, facts) in enumerate(layers)))

    def linear(self, path, out, w, b):
        before, self.shape = self.shape, (out,)
        self.variances[path] = (w, b or 0.0)
        return nn.Linear(before[0], out, bias=b is not None)

    def padding(self, kernel, stride, padding):
        """Zeros or copies before and after each axis, the smaller half first, and the extent of the output."""
        sides, outs = [], []
        for n, k, s in zip(self.shape[1:], kernel, stride, strict=True):
            out = (n - k) // s + 1 if padding == "valid" else -(-n // s)
            total = max((out - 1) * s + k - n, 0)
            sides.append((total // 2, total - total // 2) if padding != "valid" else (0, 0))
            outs.append(out)
        kinds = CIRCLES if padding == "circular" else ZEROS
        return kinds[len(sides)](tuple(side for pair in sides[::-1] for side in pair)), outs

    def conv(self, path, out, kernel, stride, padding, w, b):
        pad, outs = self.padding(kernel, stride, padding)
        layer = CONVS[len(kernel)](self.shape[0], out, kernel, stride, bias=b is not None)
        self.shape, self.variances[f"{path}.1"] = (out, *outs), (w, b or 0.0)
        return nn.Sequential(pad, layer)

    def pool(self, path, kind, kernel, stride, padding, normalize):
        pad, outs = self.padding(kernel, stride, padding)
        self.shape = (self.shape[0], *outs)
        if normalize:
            sides = tuple(k // 2 for k in kernel)
            return POOLS[len(kernel)](tuple(kernel), tuple(stride), sides, count_include_pad=False)
        layer = POOLS[len(kernel)](tuple(kernel), tuple(stride))
        return nn.Sequential(pad, layer, *([Times(float(math.prod(kernel)))] if kind == "sum" else []))

    def act(self, path, kind, numbers):
        return Bend(kind, numbers)

    def norm(self, path, axes):
        channels = axes == "channel" and len(self.shape) > 1
        return ChannelNorm(self.shape[0]) if channels else nn.LayerNorm(self.shape, elementwise_affine=False)

    def dropout(self, path, p, train):
        return nn.Dropout(p).train(train)

    def join(self, path, kind, branches):
        before, parts, channels = self.shape, [], 0
        for i, branch in enumerate(branches):
            self.shape = before
            parts.append(self.sequence(branch, f"{path}.parts.{i}."))
            channels += self.shape[0]
        self.shape = (channels, *self.shape[1:]) if kind == "concat" else self.shape
        return Join(kind, parts)

    def gap(self, path):
        axes, self.shape = len(self.shape) - 1, self.shape[:1]
        return nn.Sequential(GLOBAL[axes](1), nn.Flatten())

    def gsum(self, path):
        self.shape = self.shape[:1]
        return Sum()

    def flatten(self, path):
        self.shape = (math.prod(self.shape),)
        return nn.Flatten()

    def identity(self, path):
        return nn.Identity()


def error(got, expected):
    """Relative; the other library has no value for powers of a rectifier of an input with itself, at some inputs."""
    expected = torch.tensor(expected)
    known = expected.isfinite()
    assert known.all() or (known | torch.eye(*known.shape, dtype=torch.bool)).all()
    assert got.isfinite().all()
    got, expected = got[known], expected[known]
    return float((got - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def recorded():
    with np.load(HERE / "recorded_networks.npz") as arrays:
        return dict(arrays)


def kernels(name, recorded, dtype):
    """Of the first inputs with the second, and with themselves, beside the recorded ones."""
    x1, x2 = (torch.tensor(recorded[f"{name}/{side}"]) for side in ("x1", "x2"))
    builder = Builder(NETWORKS[name]["input"])
    net = builder.sequence(NETWORKS[name]["layers"], "").double()
    parameterization = NETWORKS[name].get("parameterization", "ntk")
    function = kernel_of(net, x1[:2], overrides=builder.variances, parameterization=parameterization)
    for side, found in (("cross", function(x1, x2, dtype=dtype)), ("train", function(x1, dtype=dtype))):
        for kind in ("nngp", "ntk"):
            yield side, getattr(found, kind), recorded[f"{name}/{side}_{kind}"]


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_in_float64(name, recorded):
    for side, found, expected in kernels(name, recorded, torch.float64):
        # The other library loses half the digits of the angle between an input and itself.
        assert error(found, expected) <= (1e-9 if side == "cross" else 2e-8)
        assert side == "cross" or torch.equal(found, found.T)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_in_float32(name, recorded):
    for side, found, expected in kernels(name, recorded, torch.float32):
        assert error(found.double(), expected) <= 1e-4
        assert side == "cross" or torch.equal(found, found.T)
