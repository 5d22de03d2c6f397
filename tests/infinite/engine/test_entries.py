"""Single entries of the fused engine against closed forms in float64, at all scales, and for equal inputs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.infinite.activation.erf import Erf
from pluriform.infinite.activation.gelu import Gelu
from pluriform.infinite.activation.trigonometric import Sine
from pluriform.infinite.engine.entries import erf_entry, gelu_entry, sine_entry
from pluriform.infinite.kernel_function import kernel_of

F = np.float32


def rooted(entry, offset, factor):
    """The entry with roots as `tables` makes them."""

    def moments(q12, q11, q22):
        roots = [np.sqrt(F(offset) + F(factor) * q) for q in (q11, q22)]
        return entry(q12, F(1), roots[0], F(1) / roots[0], roots[1], F(1) / roots[1])

    return moments


def waved(phase):
    return lambda q12, q11, q22: sine_entry(q12, F(1), q11 * F(0.5), q22 * F(0.5), F(math.cos(2 * phase)))


ENTRIES = {
    "erf": (rooted(erf_entry, 1, 2), Erf(), 1e3),
    "gelu": (rooted(gelu_entry, 1, 1), Gelu(), 1e6),
    "sine": (waved(0.0), Sine(), 10.0),
    "cosine": (waved(math.pi / 2), Sine(math.pi / 2), 10.0),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6])
def test_entries_keep_their_digits_at_all_scales(name, scale):
    entry, dual, largest = ENTRIES[name]
    if scale > largest:
        pytest.skip("saturated")
    for rho in (-0.999, -0.7, -0.1, 0.0, 0.01, 0.3, 0.5, 0.51, 0.9, 0.99, 1.0):
        q11, q22 = F(scale), F(scale if rho == 1.0 else 0.3 * scale)
        q12 = q11 if rho == 1.0 else F(rho * math.sqrt(float(q11) * float(q22)))
        value, slope = entry(q12, q11, q22)
        exact = dual.moments(*(torch.tensor(float(q), dtype=torch.float64) for q in (q12, q11, q22)))
        own = [dual.own(torch.tensor(float(q), dtype=torch.float64)) for q in (q11, q22)]
        assert abs(value - exact.value) <= 1e-5 * (own[0].value * own[1].value).sqrt()
        assert abs(slope - exact.slope) <= 5e-5 * own[1].slope


class Bend(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "depth", "scale"),
    [(torch.relu, 60, 1.0), (torch.erf, 2, 1e3), (torch.nn.functional.gelu, 4, 1e3), (torch.sin, 3, 1e-3)],
)
def test_equal_and_parallel_inputs_in_float32(function, depth, scale):
    layers = [part for i in range(depth) for part in (nn.Linear(8 if i else 6, 8), Bend(function))]
    net = nn.Sequential(*layers, nn.Linear(8, 1)).double()
    base = scale * torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.cat([base, base, 2 * base[:1], torch.zeros(1, 6)])
    function = kernel_of(net, x)
    for exact, single in (
        (function(x), function(x, dtype=torch.float32, engine="fused")),
        (function(x, x), function(x, x, dtype=torch.float32, engine="fused")),
    ):
        for whole, part in ((exact.nngp, single.nngp), (exact.ntk, single.ntk)):
            assert (part - whole).norm() <= 1e-4 * whole.norm()
