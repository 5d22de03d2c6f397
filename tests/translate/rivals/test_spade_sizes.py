"""Defaults of SPADE fit every size of images."""

import pytest
import torch

import pluriform as pf
from pluriform.translate.rivals.spade import SPADE
from pluriform.translate.scale import Scale


@pytest.mark.parametrize(("side", "cap"), [(32, 8), (64, 8), (128, 16)])
def test_default_cap_takes_every_size(side, cap):
    ids = torch.zeros(2, 1, side, side)
    data = pf.load(ids, torch.rand(2, 3, side, side), task="translation", classes=("a", "b"), validation=0)
    cast = SPADE(width=2, hidden=2)._cast(None, data, Scale.of(data))
    network = cast.painter.network
    widest = max(part.out_channels for part in network.modules() if isinstance(part, torch.nn.Conv2d))
    assert network.first.out_channels == 2 * cap
    assert widest == 2 * 2 * cap  # Gamma and beta are one convolution.
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 2, side, side)).shape == (1, 3, side, side)
