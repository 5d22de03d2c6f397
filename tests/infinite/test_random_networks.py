"""Random networks of the recorded grammar and beyond, against a recursion over pairs of positions in plain NumPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.infinite.kernel_function import kernel_of


class Field:
    """Moments of all pairs of samples and of positions, `(n, n, P, P)`, and the extent of positions."""

    def __init__(self, k, t, spatial):
        self.k, self.t, self.spatial = k, t, tuple(spatial)

    def mapped(self, change, spatial):
        return Field(change(self.k), change(self.t), spatial)


def positions(spatial):
    return list(itertools.product(*(range(n) for n in spatial)))


def gathered(spatial, sizes, strides, dilations, lows, outs, mode):
    """Source of every output position for every offset; -1 for a zero."""
    flat = {p: i for i, p in enumerate(positions(spatial))}
    table = []
    for o in positions(outs):
        row = []
        for d in itertools.product(*(range(size) for size in sizes)):
            at = [o[a] * strides[a] + d[a] * dilations[a] - lows[a] for a in range(len(spatial))]
            if mode == "circular":
                at = [x % n for x, n in zip(at, spatial, strict=True)]
            elif mode == "replicate":
                at = [min(max(x, 0), n - 1) for x, n in zip(at, spatial, strict=True)]
            elif mode == "reflect":
                at = [(n - 1) - abs((n - 1) - abs(x)) for x, n in zip(at, spatial, strict=True)]
            row.append(flat.get(tuple(at), -1))
        table.append(row)
    return np.array(table)


def weighted(field, w, b, train_w=1.0, train_b=1.0):
    return Field(w * field.k + b, train_w * w * field.k + train_b * b + w * field.t, field.spatial)


def convolved(field, table, outs):
    def mean(part):
        padded = np.pad(part, ((0, 0), (0, 0), (0, 1), (0, 1)))
        taps = [padded[:, :, table[:, d]][:, :, :, table[:, d]] for d in range(table.shape[1])]
        return sum(taps) / table.shape[1]

    return field.mapped(mean, outs)


def pooled(field, table, outs, divide=True):
    matrix = np.zeros((len(table), math.prod(field.spatial) + 1))
    for row, sources in enumerate(table):
        for source in sources:
            matrix[row, source] += 1 / table.shape[1] if divide else 1.0
    matrix = matrix[:, :-1]
    return field.mapped(lambda part: np.einsum("op,ijpq,rq->ijor", matrix, part, matrix), outs)


def variances(k):
    own = np.einsum("iipp->ip", k)
    return own[:, None, :, None], own[None, :, None, :]


def moments(name, q12, q11, q22):
    """Formulas written with the angle, not with its tangent."""
    root = np.sqrt(q11 * q22)
    rho = np.clip(q12 / root, -1, 1)
    angle = np.arccos(rho)
    if name in ("relu", "leaky", "abs"):
        a = {"relu": 0.0, "leaky": 0.1, "abs": -1.0}[name]
        slope = (1 + a * a) / 2 - (1 - a) ** 2 * angle / (2 * np.pi)
        return (1 - a) ** 2 * root * np.sin(angle) / (2 * np.pi) + slope * q12, slope
    if name == "erf":
        product = (1 + 2 * q11) * (1 + 2 * q22)
        return 2 / np.pi * np.arcsin(2 * q12 / np.sqrt(product)), 4 / np.pi / np.sqrt(product - 4 * q12**2)
    return np.exp(-(q11 + q22) / 2) * np.sinh(q12), np.exp(-(q11 + q22) / 2) * np.cosh(q12)


class Abs(nn.Module):
    def forward(self, x):
        return x.abs()


class Erf(nn.Module):
    def forward(self, x):
        return torch.erf(x)


class Sin(nn.Module):
    def forward(self, x):
        return torch.sin(x)


class Join(nn.Module):
    def __init__(self, kind, first, second):
        super().__init__()
        self.kind, self.first, self.second = kind, first, second

    def forward(self, x):
        first, second = self.first(x), self.second(x)
        if self.kind == "concat":
            return torch.cat([first, second], 1)
        return first + second if self.kind == "sum" else first * second


ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1), "abs": Abs, "erf": Erf, "sin": Sin}
GLOBAL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
WIDTH = 6


class Writer:
    """Writes a random module and its recursion together."""

    def __init__(self, seed, axes):
        self.random = np.random.default_rng(seed)
        self.axes, self.overrides = axes, {}

    def pick(self, *choices):
        return choices[self.random.integers(len(choices))]

    def variance(self, path, bias):
        w, b = float(self.random.uniform(0.8, 2.2)), float(self.random.uniform(0, 0.3))
        self.overrides[path] = (w, b)
        return w, b if bias else 0.0

    def activation(self, field):
        name = self.pick(*ACTIVATIONS)
        value, slope = moments(name, field.k, *variances(field.k))
        return ACTIVATIONS[name](), Field(value, slope * field.t, field.spatial)

    def conv(self, field, channels, path, keep=False):
        axes, mode = self.axes, self.pick("zeros", "circular", "reflect", "replicate", "valid")
        sizes = [self.pick(1, 2, 3) for _ in range(axes)]
        strides = [1 if keep else self.pick(1, 1, 2) for _ in range(axes)]
        dilations = [self.pick(1, 1, 2) for _ in range(axes)]
        if keep:
            sizes, mode = [3] * axes, "zeros" if mode == "valid" else mode
        reach = [d * (s - 1) for d, s in zip(dilations, sizes, strict=True)]
        pads = [r // 2 for r in reach]
        if mode == "valid" or any(p >= n for p, n in zip(pads, field.spatial, strict=True)):
            pads, mode = [0] * axes, "zeros"
        if any(n + 2 * p <= r for n, p, r in zip(field.spatial, pads, reach, strict=True)):
            sizes, reach, pads = [1] * axes, [0] * axes, [0] * axes
        facts = zip(field.spatial, pads, reach, strides, strict=True)
        outs = [(n + 2 * p - r - 1) // s + 1 for n, p, r, s in facts]
        table = gathered(field.spatial, sizes, strides, dilations, pads, outs, mode)
        bias = bool(self.random.integers(2))
        layer = CONVS[axes](
            channels, WIDTH, sizes, strides, tuple(pads), dilations, bias=bias,
            padding_mode=mode,
        )  # fmt: skip
        w, b = self.variance(path, bias)
        train = [1.0, 1.0]
        if self.random.integers(4) == 0:
            layer.weight.requires_grad_(False)
            train[0] = 0.0
        return layer, weighted(convolved(field, table, outs), w, b, *train)

    def pool(self, field):
        size, stride = self.pick((2, 2), (2, 1), (3, 2), (3, 1))
        pad = self.pick(0, 1) if size == 3 else 0
        if min(field.spatial) < size:
            return nn.Identity(), field
        outs = [(n + 2 * pad - size) // stride + 1 for n in field.spatial]
        ones = [1] * self.axes
        table = gathered(
            field.spatial, [size] * self.axes, [stride] * self.axes, ones, [pad] * self.axes, outs, "zeros"
        )
        if self.axes == 2 and self.random.integers(2):
            return nn.AvgPool2d(size, stride, pad, divisor_override=1), pooled(field, table, outs, divide=False)
        return POOLS[self.axes](size, stride, pad), pooled(field, table, outs)

    def norm(self, field):
        own = np.einsum("iipp->ip", field.k)
        own = np.broadcast_to(own.mean(1, keepdims=True), own.shape) + 1e-5
        factor = 1 / np.sqrt(own[:, None, :, None] * own[None, :, None, :])
        return nn.GroupNorm(2, WIDTH), field.mapped(lambda part: part * factor, field.spatial)

    def dropout(self, field):
        def change(part):
            part = part.copy()
            for i, p in itertools.product(range(len(part)), range(part.shape[2])):
                part[i, i, p, p] /= 0.7
            return part

        return nn.Dropout(0.3), field.mapped(change, field.spatial)

    def block(self, field, path):
        """Activation, convolution; alone or beside something."""
        kind = self.pick("plain", "plain", "sum", "product", "concat", "norm", "dropout", "pool")
        if kind in ("sum", "product", "concat"):
            first, left = self.chain(field, f"{path}.first", keep=True)
            second, right = self.chain(field, f"{path}.second", keep=True)
            if kind == "sum":
                joined = Field(left.k + right.k, left.t + right.t, left.spatial)
            elif kind == "product":
                joined = Field(left.k * right.k, left.t * right.k + left.k * right.t, left.spatial)
            else:
                joined = Field((left.k + right.k) / 2, (left.t + right.t) / 2, left.spatial)
            mix, mixed = self.conv(joined, 2 * WIDTH if kind == "concat" else WIDTH, f"{path}_mix")
            return [Join(kind, first, second), mix], mixed
        parts, after = [], field
        if kind == "norm":
            layer, after = self.norm(after)
            parts.append(layer)
        layer, after = self.activation(after)
        parts.append(layer)
        if kind == "dropout":
            layer, after = self.dropout(after)
            parts.append(layer)
        if kind == "pool":
            layer, after = self.pool(after)
            parts.append(layer)
        layer, after = self.conv(after, WIDTH, f"{path}_conv")
        return [*parts, layer], after

    def chain(self, field, path, keep):
        layer, after = self.activation(field)
        conv, after = self.conv(after, WIDTH, f"{path}.1", keep)
        return nn.Sequential(layer, conv), after

    def network(self, field, channels, blocks):
        net = Chain()
        layer, field = self.conv(field, channels, "start")
        net.append("start", layer)
        for place in range(blocks):
            parts, field = self.block(field, f"b{place}")
            names = [f"b{place}" if isinstance(part, Join) else f"b{place}_{i}" for i, part in enumerate(parts[:-1])]
            last = f"b{place}_mix" if isinstance(parts[0], Join) else f"b{place}_conv"
            for name, part in zip([*names, last], parts, strict=True):
                net.append(name, part)
        layer, field = self.activation(field)
        net.append("bend", layer)
        if self.random.integers(2):
            net.append("flatten", nn.Flatten())
            width = WIDTH * math.prod(field.spatial)
            mean = field.mapped(lambda part: np.einsum("ijpp->ij", part)[..., None, None] / part.shape[2], ())
        else:
            net.append(
                "pool", {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[self.axes](1)
            )
            net.append("flatten", nn.Flatten())
            width = WIDTH
            mean = field.mapped(lambda part: part.mean((2, 3), keepdims=True), ())
        net.append("head", nn.Linear(width, 3))
        return net, weighted(mean, *self.variance("head", True))


class Chain(nn.Module):
    """Named layers in a row."""

    def __init__(self):
        super().__init__()
        self.order = []

    def append(self, name, layer):
        self.add_module(name, layer)
        self.order.append(name)

    def forward(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def compare(seed, axes, size, blocks, slack):
    x = torch.randn(4, 2, *[size] * axes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flat = x.flatten(2).numpy()
    start = Field(
        np.einsum("icp,jcq->ijpq", flat, flat) / 2, np.zeros((4, 4, flat.shape[2], flat.shape[2])), [size] * axes
    )
    writer = Writer(seed, axes)
    net, expected = writer.network(start, 2, blocks)
    function = kernel_of(net.double(), x, overrides=writer.overrides, weight_var=99.0)
    with torch.no_grad():
        train, cross = function(x), function(x[:2], x[2:])
    for name, truth in (("nngp", expected.k), ("ntk", expected.t)):
        truth = torch.as_tensor(truth[..., 0, 0])
        for got, right in ((getattr(train, name), truth), (getattr(cross, name), truth[:2, 2:])):
            assert torch.linalg.norm(got - right) <= slack * torch.linalg.norm(right), (name, net)


@pytest.mark.parametrize("seed", range(16))
def test_images(seed):
    compare(seed, 2, 5, 2, 1e-7)


@pytest.mark.parametrize("seed", range(16))
def test_sequences(seed):
    compare(100 + seed, 1, 7, 3, 2e-7)


@pytest.mark.parametrize("seed", range(4))
def test_volumes(seed):
    compare(200 + seed, 3, 3, 1, 1e-7)
