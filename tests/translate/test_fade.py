import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import ShapeError
from pluriform.translate.fade import FADE, FADEBlock


def normalised(x, axes):
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (x.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()


AXES = {"batch": (0, 2, 3), "instance": (2, 3), "joint": (1, 2, 3)}


@pytest.mark.parametrize("norm", AXES)
def test_zero_gamma_and_beta_leave_the_norm_exactly(norm):
    fade = FADE(5, 3, norm)
    nn.init.zeros_(fade.modulation.weight)
    nn.init.zeros_(fade.modulation.bias)
    x, f = 3 * torch.randn(4, 5, 6, 6) + 1, torch.randn(4, 3, 6, 6)
    assert torch.equal(fade(x, f), fade.norm(x))
    if norm == "batch":
        assert torch.equal(fade(x, f), nn.BatchNorm2d(5, affine=False)(x))


@pytest.mark.parametrize("norm", AXES)
def test_against_the_definition_with_two_convolutions(norm):
    fade = FADE(5, 3, norm).double()
    x, f = torch.randn(4, 5, 6, 7, dtype=torch.double), torch.randn(4, 3, 6, 7, dtype=torch.double)
    weight, bias = fade.modulation.weight, fade.modulation.bias
    gamma = F.conv2d(f, weight[:5], bias[:5], padding=1)
    beta = F.conv2d(f, weight[5:], bias[5:], padding=1)
    torch.testing.assert_close(fade(x, f), normalised(x, AXES[norm]) * (1 + gamma) + beta)


@pytest.mark.parametrize("norm", AXES)
def test_norm_of_a_constant_is_zero(norm):
    assert FADE(5, 0, norm)(torch.full((2, 5, 4, 4), 3.0), None).abs().max() < 1e-4  # 0 but for rounding.


def test_without_content_it_is_the_norm_and_has_no_parameters():
    fade = FADE(5, 0)
    assert not list(fade.parameters())
    x = torch.randn(4, 5, 6, 6)
    torch.testing.assert_close(fade(x, None), normalised(x, (0, 2, 3)))


def test_another_size_of_content_is_refused():
    with pytest.raises(ShapeError, match="6x6 pixels; got 3x3"):
        FADE(5, 3)(torch.randn(1, 5, 6, 6), torch.randn(1, 3, 3, 3))


@pytest.mark.parametrize(("before", "after"), [(4, 4), (8, 4)])
def test_block_against_its_definition(before, after):
    torch.manual_seed(1)
    block = FADEBlock(before, after, before).double().eval()
    x, f = torch.randn(2, 2, before, 6, 6, dtype=torch.double)

    def fade(part, x):
        gamma, beta = part.modulation(f).split(before, 1)
        return x / (1 + 1e-5) ** 0.5 * (1 + gamma) + beta  # Running mean 0 and variance 1.

    def convolved(part, x):
        sigma = part.u @ part.weight.flatten(1) @ part.v
        return F.conv2d(x, part.weight / sigma, part.bias, padding=part.padding)

    y = convolved(block.conv1, F.leaky_relu(fade(block.fade1, x), 0.2))
    y = convolved(block.conv2, F.leaky_relu(fade(block.fade2, y), 0.2))
    skip = x if before == after else convolved(block.shortcut, fade(block.shortcut_fade, x))
    torch.testing.assert_close(block(x, f), y + skip)


def test_parameters_of_a_block():
    def count(a, b):
        return sum(p.numel() for p in FADEBlock(a, b, a).parameters())

    fade, conv = 2 * (9 * 64 + 8), 9 * 64 + 8  # a = b = 8: per FADE two convolutions 8 -> 8 with biases.
    assert count(8, 8) == 2 * fade + 2 * conv
    assert count(8, 4) == 3 * fade + conv + (9 * 32 + 4) + 32
