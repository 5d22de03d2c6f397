"""The fused engine gives the numbers of the plain propagation in float64."""

import pytest
import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError
from pluriform.infinite.kernel_function import KernelFunction, kernel_of

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=GENERATOR)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def check(function: KernelFunction, x1: Tensor, x2: Tensor, tolerance: float = 2e-6) -> None:
    for second in (x2, None):
        exact = function(x1, second)
        fused = function(x1, second, dtype=torch.float32, engine="fused")
        assert error(fused.nngp, exact.nngp) < tolerance
        assert error(fused.ntk, exact.ntk) < tolerance
        assert error(fused.variance1, exact.variance1) < tolerance
        assert error(fused.variance2, exact.variance2) < tolerance
        assert fused.same == exact.same


class Branches(nn.Module):
    """Strides on both branches of a sum, a gate, a concatenation, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8, eps=1e-3)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.next = nn.Conv2d(8, 8, (3, 1), padding=(2, 0))
        self.skip = nn.Conv2d(8, 8, 1, stride=2, padding=(2, 0))
        self.gate = nn.Conv2d(8, 8, 3, stride=2, padding=(3, 1))
        self.last = nn.Linear(16, 2)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        h = self.next(self.drop(torch.relu(self.down(x)))) + self.skip(x)
        g = self.gate(x) * h
        return self.last(torch.cat([g, nn.functional.leaky_relu(h, 0.2)], 1).mean((2, 3)))


def pooled() -> nn.Module:
    """Poolings of several kinds, dilation, no padding, then a flatten."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        nn.Conv2d(8, 8, (3, 1)),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 7, 3),
        nn.ReLU(),
        nn.Linear(3, 2),
    )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Branches, (3, 9, 7)),
        (pooled, (3, 13, 16)),
        (
            lambda: nn.Sequential(
                nn.Conv1d(3, 8, 5, stride=3, padding=2), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(40, 2)
            ),
            (3, 33),
        ),
        (
            lambda: nn.Sequential(nn.Linear(10, 8), nn.LayerNorm(8, eps=1e-3), nn.GELU(), nn.Linear(8, 1)),
            (10,),
        ),
        (
            lambda: nn.Sequential(nn.Linear(10, 8), nn.LeakyReLU(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)),
            (10,),
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)), (3, 2, 2)),
    ],
    ids=["branches", "pooled", "1d", "gelu-norm", "leaky", "flat"],
)
@pytest.mark.parametrize("training", [False, True])
def test_fused_is_plain(make, shape, training):
    function = kernel_of(make().train(training), images(2, *shape), bias_var=0.1)
    check(function, images(5, *shape), images(19, *shape))


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)])
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer, bend in zip(self.layers, (torch.sin, torch.cos, torch.erf), strict=True):
            x = bend(layer(x))
        return self.last(x.mean((2, 3)))


def test_waves():
    check(kernel_of(Waves(), images(2, 3, 5, 6), bias_var=0.1), images(4, 3, 5, 6), images(17, 3, 5, 6))


def test_standard_parameterisation_and_frozen_layers():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    net[2].weight.requires_grad_(False)
    check(
        kernel_of(net, images(2, 3, 7, 7), bias_var=0.2, parameterization="standard"),
        images(3, 3, 7, 7),
        images(5, 3, 7, 7),
    )


def test_zero_images_and_duplicates():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    x = images(6, 1, 5, 5)
    x[1] = 0
    x[3] = x[2]
    x[4, :, :2] = 0
    function = kernel_of(net, x[:2])
    exact, fused = function(x), function(x, dtype=torch.float32, engine="fused")
    assert torch.isfinite(fused.nngp).all()
    assert torch.isfinite(fused.ntk).all()
    assert error(fused.ntk, exact.ntk) < 1e-4
    assert torch.equal(fused.ntk, fused.ntk.T)


def test_tiles_do_not_matter(monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 2))
    x1, x2 = images(50, 1, 5, 5), images(33, 1, 5, 5)
    function = kernel_of(net, x1[:2])
    whole = [function(x1, x, dtype=torch.float32) for x in (x2, None)]
    monkeypatch.setattr("pluriform.infinite.engine.run.SIDE", 32)
    tiled = [function(x1, x, dtype=torch.float32) for x in (x2, None)]
    for one, other in zip(whole, tiled, strict=True):
        assert torch.allclose(one.ntk, other.ntk, rtol=1e-5)
        assert torch.allclose(one.nngp, other.nngp, rtol=1e-5)


def test_refusals():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    function = kernel_of(net, images(2, 3))
    assert function.fused is None
    with pytest.raises(ConfigError, match="a rule that is not in it"):
        function(images(2, 3), dtype=torch.float32, engine="fused")
    assert function(images(2, 3), dtype=torch.float32).nngp.dtype == torch.float32
    other = kernel_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), images(2, 3))
    with pytest.raises(ConfigError, match="float32 on the CPU"):
        other(images(2, 3), engine="fused")
    with pytest.raises(ConfigError, match="with gradients"):
        other(images(2, 3).requires_grad_(), dtype=torch.float32, engine="fused")
