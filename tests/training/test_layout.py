import copy

import pytest
import torch
from torch import nn

from pluriform.graph.trace import trace
from pluriform.training.layout import contiguous, to_channels_last


class Viewing(nn.Module):
    """What many networks do after their convolutions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        return self.conv(x).view(len(x), -1)


def conv_net():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten())


def test_convolutions_are_laid_out_and_back():
    net = conv_net().train()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    assert to_channels_last(net, torch.randn(2, 2, 6, 6))
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net.training
    assert not net[1].training
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    contiguous(net)
    assert net[0].weight.is_contiguous()


@pytest.mark.parametrize(
    ("net", "shape"), [(Viewing(), (2, 2, 6, 6)), (nn.Linear(4, 4), (2, 2, 6, 4)), (nn.Linear(4, 4), (2, 4))]
)
def test_others_stay(net, shape):
    assert not to_channels_last(net, torch.randn(shape))
    assert all(parameter.is_contiguous() for parameter in net.parameters())


def test_traced_networks_stay_in_silence(capsys):
    sample = torch.randn(2, 2, 6, 6)
    assert not to_channels_last(trace(Viewing(), sample).module, sample)
    assert capsys.readouterr().err == ""
