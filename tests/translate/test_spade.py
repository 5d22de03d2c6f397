import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import ConfigError, ShapeError
from pluriform.translate.spade import SPADE, SPADEBlock, SPADEGenerator, recommended_doublings


def one_hot(height, width, labels=5):
    drawn = torch.randint(labels, (2, height, width), generator=torch.Generator().manual_seed(0))
    return F.one_hot(drawn, labels).permute(0, 3, 1, 2).float()


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        net = SPADEGenerator(36, 3)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 93.0
    assert net.doubled == (0, 2, 3, 4, 5)


def test_spade_against_the_definition():
    spade = SPADE(4, 5, 8).double()
    x, m = torch.randn(3, 4, 6, 6, dtype=torch.double), torch.randn(3, 5, 12, 12, dtype=torch.double)
    hidden = F.conv2d(m[..., ::2, ::2], spade.shared.weight, spade.shared.bias, padding=1).relu()
    weight, bias = spade.modulation.weight, spade.modulation.bias
    gamma, beta = (F.conv2d(hidden, weight[part], bias[part], padding=1) for part in (slice(4), slice(4, 8)))
    normal = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(spade(x, m), normal * (1 + gamma) + beta)


def test_zero_gamma_and_beta_leave_the_norm_exactly():
    spade = SPADE(4, 5, 8)
    nn.init.zeros_(spade.modulation.weight)
    nn.init.zeros_(spade.modulation.bias)
    x = torch.randn(3, 4, 6, 6)
    assert torch.equal(spade(x, torch.randn(3, 5, 6, 6)), nn.BatchNorm2d(4, affine=False)(x))


@pytest.mark.parametrize(("before", "after"), [(4, 4), (8, 4), (4, 8)])
def test_block_has_the_smaller_width_inside_and_a_shortcut_where_channels_change(before, after):
    block = SPADEBlock(before, after, 5, 8).eval()
    assert block.conv1.out_channels == min(before, after)
    assert (block.shortcut is None) == (before == after)
    x, m = torch.randn(2, before, 6, 6), torch.randn(2, 5, 6, 6)
    y = block.conv2(F.leaky_relu(block.spade2(block.conv1(F.leaky_relu(block.spade1(x, m), 0.2)), m), 0.2))
    skip = x if before == after else block.shortcut(block.shortcut_spade(x, m))
    torch.testing.assert_close(block(x, m), y + skip)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (50, 33), (128, 128)])
def test_output_has_the_size_of_the_input(height, width):
    net = SPADEGenerator(5, 3, doublings=recommended_doublings(height, width), width=2, hidden=4)
    assert net(one_hot(height, width)).shape == (2, 3, height, width)


def test_start_from_a_latent_vector():
    net = SPADEGenerator(5, 1, doublings=3, width=2, cap=4, hidden=4, size=(32, 40))
    z = net.draw_start(2, 32, 40, torch.Generator().manual_seed(0))
    assert net(one_hot(32, 40), z).shape == (2, 1, 32, 40)
    with pytest.raises(ShapeError, match=r"latent vector \(2, 256\) for a start map of \(4, 5\); got None"):
        net(one_hot(32, 40))


def test_impossible_depths_are_refused():
    with pytest.raises(ConfigError, match="1 to 3 doublings; got cap 4 and 5"):
        SPADEGenerator(5, 3, doublings=5, cap=4)
    with pytest.raises(ConfigError, match="power of two"):
        SPADEGenerator(5, 3, doublings=1, cap=6)
