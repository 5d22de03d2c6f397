import numpy as np
import pytest
import torch

from pluriform.data.check import check_fit_data
from pluriform.data.load import load
from pluriform.errors import BoundsError, LabelError, NonFiniteError, ShapeError


def test_pairs_of_arrays():
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (10, 5, 6, 3)).astype(np.uint8)
    second = generator.integers(0, 65536, (10, 5, 6)).astype(np.uint16)
    data = load(first, second, task="translation", validation=0.0)
    assert data.paired
    assert data.bounds == (0.0, 1.0)
    assert data.input_shape == (3, 5, 6)
    check_fit_data(data)
    rows = [int(np.argmin(np.abs(second / 65535 - row.numpy()).sum((1, 2)))) for row in data.train.targets[:, 0]]
    wanted = torch.from_numpy(first[rows].astype(np.float32) / 255).permute(0, 3, 1, 2)
    assert torch.equal(data.train.inputs, wanted)


def test_label_maps_and_unpaired_sides():
    ids = np.random.default_rng(0).integers(0, 3, (10, 4, 4))
    data = load(ids, np.zeros((10, 4, 4)), task="translation", classes=("a", "b", "c"))
    check_fit_data(data)
    assert data.input_shape == (1, 4, 4)
    assert data.train.inputs.max() == 2
    data = load(np.zeros((10, 4, 4)), np.zeros((15, 8, 8)), task="translation", validation=0)
    assert not data.paired
    assert (len(data.train.inputs), len(data.train.targets)) == (8, 12)
    check_fit_data(data)


def test_faults_are_named():
    images = np.zeros((4, 3, 8, 8), dtype=np.float32)
    with pytest.raises(ShapeError, match="expected images"):
        load(np.zeros((4, 3)), images, task="translation")
    with pytest.raises(BoundsError, match="divide by 255"):
        load(images + 200, images, task="translation")
    with pytest.raises(LabelError, match="ids 0..1 for 2 classes; got 5, 64 pixels of it .*inputs of arrays, sample 0"):
        load(np.full((4, 8, 8), 5), images, task="translation", classes=("a", "b"))
    with pytest.raises(LabelError, match=r"got 0.5, 64 pixels"):
        load(np.full((4, 8, 8), 0.5), images, task="translation", classes=("a", "b"))
    data = load(images, images, task="translation")
    data.train.inputs[1, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="inputs of arrays.train, sample 1"):
        check_fit_data(data)
    with pytest.raises(ShapeError, match="pairs of one size; got 8x8 and 4x4 pixels"):
        check_fit_data(load(images, images[:, :, :4, :4], task="translation"))
    ids = load(np.zeros((4, 8, 8)), images, task="translation", classes=("a", "b"))
    ids.train.inputs[2, 0, 0, 0] = 9
    with pytest.raises(LabelError, match="got 9, 1 pixel of it .arrays.train, sample 2; its values: 0 in 63 pixels"):
        check_fit_data(ids)
