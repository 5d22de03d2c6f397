"""Random networks of many shapes: the fused engine against the plain propagation."""

import pytest
import torch
from torch import Tensor, nn

from pluriform.infinite.kernel_function import kernel_of

CHANNELS = 4


class Join(nn.Module):
    """Two branches of one input, summed, multiplied or concatenated into a convolution."""

    def __init__(self, first: nn.Module, second: nn.Module, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.kind = first, second, kind
        self.mix = nn.Conv2d(CHANNELS * (2 if kind == "concat" else 1), CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x), self.second(x)
        if self.kind == "concat":
            return self.mix(torch.cat([a, b], 1))
        return self.mix(a * b if self.kind == "product" else a + b)


class Wave(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Erf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


def pick(generator: torch.Generator, *choices):
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def conv(generator: torch.Generator, channels: int = CHANNELS, *, keep: bool = False) -> nn.Module:
    if keep:
        dilation = pick(generator, 1, 2)
        return nn.Conv2d(channels, CHANNELS, 3, padding=dilation, dilation=dilation)
    size = pick(generator, 1, 2, 3, (3, 1))
    return nn.Conv2d(
        channels,
        CHANNELS,
        size,
        stride=pick(generator, 1, 1, 2, (1, 2)),
        padding=pick(generator, 0, 1, (2, 1)),
        bias=pick(generator, True, False),
    )


def bend(generator: torch.Generator) -> nn.Module:
    return pick(generator, nn.ReLU(), nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), Wave(), Erf())


def pool(generator: torch.Generator) -> nn.Module:
    return pick(
        generator,
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d((1, 2), ceil_mode=True),
        nn.AdaptiveAvgPool2d((3, 2)),
    )


def part(generator: torch.Generator) -> list[nn.Module]:
    kind = pick(generator, "conv", "conv", "pool", "norm", "join", "join", "drop")
    if kind == "join":
        first = nn.Sequential(bend(generator), conv(generator, keep=True), bend(generator), conv(generator, keep=True))
        second = pick(generator, nn.Identity(), conv(generator, keep=True))
        return [conv(generator, keep=True), Join(first, second, pick(generator, "sum", "product", "concat"))]
    if kind == "pool":
        return [conv(generator, keep=True), bend(generator), pool(generator)]
    if kind == "norm":
        norm = pick(generator, nn.GroupNorm(2, CHANNELS, eps=1e-2), nn.GroupNorm(1, CHANNELS, eps=1e-2))
        return [conv(generator, keep=True), norm, bend(generator)]
    if kind == "drop":
        return [conv(generator, keep=True), bend(generator), nn.Dropout(0.3)]
    return [conv(generator), bend(generator)]


def network(generator: torch.Generator) -> nn.Module:
    layers = [conv(generator, 2)]
    for _ in range(pick(generator, 1, 2, 3)):
        layers += part(generator)
    if pick(generator, True, False):
        layers += [nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3), bend(generator), nn.Linear(3, 1))


@pytest.mark.parametrize("seed", range(20))
def test_fused_is_plain(seed):
    generator = torch.Generator().manual_seed(seed)
    net = network(generator).train(pick(generator, True, False))
    x1, x2 = (torch.randn(count, 2, 11, 10, generator=generator) for count in (3, 18))
    net(x1)
    function = kernel_of(net, x1[:2], bias_var=0.1)
    assert function.fused is not None
    for second in (x2, None):
        exact, fused = function(x1, second), function(x1, second, dtype=torch.float32, engine="fused")
        for name in ("nngp", "ntk", "variance1", "variance2"):
            found, expected = getattr(fused, name).double(), getattr(exact, name)
            assert (found - expected).norm() <= 1e-5 * expected.norm(), name
