import pytest
import torch

import pluriform as pf
from pluriform.errors import BoundsError
from pluriform.translate.scale import Scale


def test_there_and_back(pairs):
    scale = Scale.of(pairs)
    images = pairs.train.inputs
    assert (scale.channels, scale.outputs, scale.classes) == (3, 3, 0)
    torch.testing.assert_close(scale.back(scale.content(images)), images)
    assert float(scale.picture(torch.zeros(1))) == -1
    assert float(scale.picture(torch.ones(1))) == 1


def test_other_bounds_and_label_maps(labelled):
    images = torch.rand(6, 2, 8, 8) * 300 - 100
    data = pf.load(images, images[:, :1], task="translation", bounds=(-100.0, 200.0))
    scale = Scale.of(data)
    assert (scale.low, scale.high, scale.channels, scale.outputs) == (-100, 200, 2, 1)
    torch.testing.assert_close(scale.back(scale.picture(images)), images, atol=1e-3, rtol=0)
    assert Scale.of(labelled).channels == 3
    unbounded = pf.load(images, images, task="translation")
    with pytest.raises(BoundsError, match="images with known bounds"):
        Scale.of(unbounded)
