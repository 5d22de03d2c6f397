"""Kernels of ordinary modules against those recorded from neural-tangents in float64."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.infinite.kernel_function import kernel_of

FOLDER = Path(os.environ.get("PLURIFORM_DATA", "nowhere")).parent / "reference" / "infinite-width"
CASES = json.loads((FOLDER / "cases.json").read_text()) if (FOLDER / "cases.json").exists() else {}


class Erf(nn.Module):
    def forward(self, x):
        return torch.erf(x)


class Sin(nn.Module):
    def forward(self, x):
        return torch.sin(x)


class Abs(nn.Module):
    def forward(self, x):
        return x.abs()


class Branches(nn.Module):
    """Two branches joined by their sum or product."""

    def __init__(self, first, second, join):
        super().__init__()
        self.first, self.second, self.join = first, second, join

    def forward(self, x):
        first, second = self.first(x), self.second(x)
        return first + second if self.join == "sum" else first * second


class Builder:
    """An ordinary module for a recorded description, and the variances of its layers by dotted path."""

    def __init__(self, shape):
        self.shape = tuple(shape)
        self.variances = {}
        self.parameterization = "ntk"

    def sequence(self, layers, path):
        return nn.Sequential(*(self.layer(layer, f"{path}{i}") for i, layer in enumerate(layers)))

    def layer(self, spec, path):
        op = spec["op"]
        if "weight_var" in spec:
            self.parameterization = spec.get("parameterization", "ntk")
        plain = {"relu": nn.ReLU, "gelu": nn.GELU, "erf": Erf, "sin": Sin, "abs": Abs, "identity": nn.Identity}
        if op in plain:
            return plain[op]()
        return getattr(self, op)(spec, path)

    def linear(self, spec, path):
        self.variances[path] = (spec["weight_var"], spec["bias_var"])
        before, self.shape = self.shape, (spec["out"],)
        return nn.Linear(before[0], spec["out"])

    def conv(self, spec, path):
        kernel, stride, padding = spec["kernel"][0], spec["stride"][0], spec["padding"]
        before, size = self.shape[0], self.shape[1]
        out = -(-size // stride) if padding != "valid" else (size - kernel) // stride + 1
        self.shape = (spec["out"], out, out)
        mode = "circular" if padding == "circular" else "zeros"
        total = 0 if padding == "valid" else max((out - 1) * stride + kernel - size, 0)
        low, high = total // 2, total - total // 2
        symmetric = low == high
        self.variances[path if symmetric else f"{path}.1"] = (spec["weight_var"], spec["bias_var"])
        conv = nn.Conv2d(
            before, spec["out"], kernel, stride, low if symmetric else 0, padding_mode=mode if symmetric else "zeros"
        )
        if symmetric:
            return conv
        pad = nn.CircularPad2d if mode == "circular" else nn.ZeroPad2d
        return nn.Sequential(pad((low, high, low, high)), conv)

    def leaky_relu(self, spec, path):
        return nn.LeakyReLU(spec["slope"])

    def avg_pool(self, spec, path):
        size = (self.shape[1] - spec["kernel"][0]) // spec["stride"][0] + 1
        self.shape = (self.shape[0], size, size)
        return nn.AvgPool2d(spec["kernel"][0], spec["stride"][0])

    def global_avg_pool(self, spec, path):
        self.shape = self.shape[:1]
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def flatten(self, spec, path):
        self.shape = (int(np.prod(self.shape)),)
        return nn.Flatten()

    def layer_norm(self, spec, path):
        return nn.LayerNorm(self.shape, eps=1e-12, elementwise_affine=False)

    def dropout(self, spec, path):
        return nn.Dropout(spec["p"])

    def residual(self, spec, path):
        return self.branches(spec["main"], spec["shortcut"], "sum", path)

    def product(self, spec, path):
        return self.branches(spec["a"], spec["b"], "product", path)

    def branches(self, first, second, join, path):
        shape = self.shape
        one = self.sequence(first, f"{path}.first.")
        after, self.shape = self.shape, shape
        other = self.sequence(second, f"{path}.second.")
        self.shape = after
        return Branches(one, other, join)


PLAIN = {"conv-circular-stride"}  # what the fused engine leaves to the plain one


def error(got, expected):
    expected = torch.as_tensor(expected)
    return float((got - expected).norm() / expected.norm())


def recorded_case(name):
    """The inputs and kernels of a case, and its network as a kernel function."""
    recorded = np.load(FOLDER / f"{name}.npz")
    x1, x2 = torch.tensor(recorded["x1"]), torch.tensor(recorded["x2"])
    builder = Builder(CASES[name]["input"])
    net = builder.sequence(CASES[name]["layers"], "").double()
    function = kernel_of(
        net, x1[:2], overrides=builder.variances, parameterization=builder.parameterization, bias_var=99.0
    )
    return recorded, x1, x2, function


@pytest.mark.skipif(not CASES, reason="no recorded kernels beside PLURIFORM_DATA")
@pytest.mark.parametrize("name", sorted(CASES))
def test_recorded_kernels(name):
    recorded, x1, x2, function = recorded_case(name)
    with torch.no_grad():
        cross, train = function(x1, x2), function(x1)
    assert error(cross.nngp, recorded["nngp"]) <= 1e-9
    assert error(cross.ntk, recorded["ntk"]) <= 1e-9
    assert error(train.nngp, recorded["nngp_train"]) <= 2e-8
    assert error(train.ntk, recorded["ntk_train"]) <= 2e-8


@pytest.mark.skipif(not CASES, reason="no recorded kernels beside PLURIFORM_DATA")
@pytest.mark.parametrize("name", sorted(CASES))
def test_recorded_kernels_in_float32(name):
    recorded, x1, x2, function = recorded_case(name)
    assert (function.fused is None) == (name in PLAIN)
    cross, train = function(x1, x2, dtype=torch.float32), function(x1, dtype=torch.float32)
    assert error(cross.nngp, recorded["nngp"]) <= 1e-4
    assert error(cross.ntk, recorded["ntk"]) <= 1e-4
    assert error(train.nngp, recorded["nngp_train"]) <= 1e-4
    assert error(train.ntk, recorded["ntk_train"]) <= 1e-4


def test_the_recorded_cases_are_not_empty_where_they_are_present():
    if not FOLDER.is_dir():
        pytest.skip("no recorded kernels beside PLURIFORM_DATA")
    assert len(CASES) >= 22
