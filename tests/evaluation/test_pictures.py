"""Pictures in text: decoded by an independent reader they are the inputs again."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from pluriform.evaluation.pictures import byte_size, pictured, pngs


def read(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_grey_and_colour_are_read_back():
    grey = torch.arange(24.0).view(2, 1, 3, 4) / 23
    found = [read(text) for text in pngs(grey, (0.0, 1.0))]
    assert np.array_equal(np.stack(found), (grey[:, 0] * 255).round().numpy())
    colour = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    found = [read(text) for text in pngs(colour, (0.0, 1.0))]
    assert found[0].shape == (5, 4, 3)
    assert np.array_equal(np.stack(found), (colour * 255).round().permute(0, 2, 3, 1).numpy())


def test_bounds_are_black_and_white_and_values_beyond_are_clamped():
    values = torch.tensor([-5.0, -2.0, 0.0, 2.0, 9.0]).view(1, 1, 1, 5)
    (text,) = pngs(values, (-2.0, 2.0))
    assert read(text).tolist() == [[0, 0, 128, 255, 255]]


def test_long_sides_are_averaged_down():
    board = torch.ones(1, 1, 64, 128)
    board[..., ::2] = 0
    (text,) = pngs(board, (0.0, 1.0))
    found = read(text)
    assert found.shape == (16, 32)
    assert np.all(found == 128)


@pytest.mark.parametrize(
    ("shape", "expected", "size"),
    [((1, 8, 8), True, 64), ((3, 32, 32), True, 3072), ((3, 224, 224), True, 3072), ((2, 8, 8), False, 0)],
)
def test_what_can_be_shown(shape, expected, size):
    assert pictured(shape) is expected
    assert byte_size(shape) == size
    assert not pictured((4,))
