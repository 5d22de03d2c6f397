import dataclasses

import pytest
import torch

import pluriform as pf
from pluriform.data.data import StreamSplit
from pluriform.data.reshape import reshaped
from pluriform.errors import ConfigError, ShapeError


def test_grey_becomes_three_equal_channels_and_comes_back():
    data = pf.load("digits")
    colour = reshaped(data, (3, 8, 8))
    assert colour.input_shape == (3, 8, 8)
    assert all(torch.equal(colour.train.inputs[:, [channel]], data.train.inputs) for channel in range(3))
    assert torch.equal(colour.test.targets, data.test.targets)
    back = reshaped(colour, (1, 8, 8))
    assert torch.allclose(back.test.inputs, data.test.inputs, atol=1e-6)


def test_halving_averages_with_the_antialiased_bilinear_weights():
    data = pf.load("digits")
    small = reshaped(data, (1, 4, 4)).train.inputs
    weights = torch.zeros(4, 8, dtype=torch.float64)
    for place in range(4):  # A triangle of width two pixels of the smaller picture, cut at the border.
        centre = 2 * place + 0.5
        weights[place] = (1 - (torch.arange(8) - centre).abs() / 2).clamp(min=0)
    weights /= weights.sum(1, keepdim=True)
    expected = torch.einsum("ih,bchw,jw->bcij", weights, data.train.inputs.double(), weights)
    assert torch.allclose(small.double(), expected, atol=1e-5)


def test_values_stay_within_bounds_and_unlabelled_pictures_follow():
    data = pf.load("digits").with_labels(100)
    large = reshaped(data, (3, 13, 9))
    assert large.unlabelled.shape == (len(data.unlabelled), 3, 13, 9)
    assert large.train.inputs.aminmax().min >= 0
    assert large.train.inputs.aminmax().max <= 1
    assert large.signature.bounds == data.signature.bounds


def test_what_is_no_picture_is_refused():
    data = pf.load("digits")
    with pytest.raises(ShapeError, match=r"one or three channels; got \(1, 8, 8\) to \(2, 8, 8\)"):
        reshaped(data, (2, 8, 8))
    with pytest.raises(ShapeError, match="pictures"):
        reshaped(pf.load("toy-1d"), (1, 8, 8))
    pairs = torch.utils.data.TensorDataset(data.train.inputs, data.train.targets)
    streamed = dataclasses.replace(data, train=StreamSplit(pairs, torch.arange(len(pairs))))
    with pytest.raises(ConfigError, match="a stream"):
        reshaped(streamed, (3, 8, 8))
