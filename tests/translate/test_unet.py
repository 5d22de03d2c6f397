from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import ConfigError
from pluriform.translate.unet import UNet, recommended_halvings


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        net = UNet(3, 3)
    c = [64, 128, 256, 512, 512, 512, 512, 512]
    down = 16 * 3 * 64 + 64 + sum(16 * a * b for a, b in pairwise(c)) + 512
    up = 16 * 512 * 512 + sum(16 * 2 * b * a for a, b in pairwise(c[:7])) + 16 * 128 * 3 + 3
    norms = 2 * sum(c[1:7]) + 2 * sum(c[:7])
    assert sum(p.numel() for p in net.parameters()) == down + up + norms
    assert round((down + up + norms) / 1e6, 1) == 54.4


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (50, 33)])
@pytest.mark.parametrize(("channels", "out"), [(1, 3), (12, 1)])
def test_output_has_the_size_of_the_input(height, width, channels, out):
    net = UNet(channels, out, halvings=recommended_halvings(height, width), width=2)
    y = net(torch.randn(2, channels, height, width))
    assert y.shape == (2, out, height, width)
    assert y.abs().max() <= 1


def test_against_the_definition_of_three_halvings():
    torch.manual_seed(0)
    net = UNet(2, 1, halvings=3, width=3).double()
    net.dropout.p = 0.0
    x = torch.randn(2, 2, 16, 16, dtype=torch.double)

    def norm(y):
        return (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    def leaky(y):
        return torch.where(y > 0, y, 0.2 * y)

    one = F.conv2d(x, net.first.weight, net.first.bias, 2, 1)
    two = norm(F.conv2d(leaky(one), net.down[0].weight, None, 2, 1))
    three = F.conv2d(leaky(two), net.down[1].weight, net.down[1].bias, 2, 1)
    y = norm(F.conv_transpose2d(three.relu(), net.up[1].weight, None, 2, 1))
    y = norm(F.conv_transpose2d(torch.cat((two, y), 1).relu(), net.up[0].weight, None, 2, 1))
    y = F.conv_transpose2d(torch.cat((one, y), 1).relu(), net.last.weight, net.last.bias, 2, 1)
    torch.testing.assert_close(net(x), y.tanh())


def test_dropout_in_the_three_innermost_doublings_in_training_only():
    class Counted(nn.Dropout):
        seen = ()

        def forward(self, x):
            Counted.seen += (x.shape[-1],)
            return super().forward(x)

    net = UNet(1, 1, halvings=6, width=2)
    net.dropout = Counted(0.5)
    x = torch.randn(2, 1, 64, 64)
    net(x)
    assert Counted.seen == (2, 4, 8)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_one_halving_is_refused():
    with pytest.raises(ConfigError, match="at least 2 halvings; got 1"):
        UNet(3, 3, halvings=1)
