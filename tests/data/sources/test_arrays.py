import numpy as np
import pytest
import torch

from pluriform.data.check import check_fit_data
from pluriform.data.load import load
from pluriform.errors import BoundsError, ConfigError, CorruptFileError, LabelError, ShapeError


def test_numpy_and_torch_arrays_give_the_same_data():
    inputs, labels = np.random.default_rng(0).random((50, 4)), np.arange(50) % 2
    one, other = load(inputs, labels), load(torch.from_numpy(inputs), torch.from_numpy(labels))
    assert one.fingerprint == other.fingerprint
    assert one.train.inputs.dtype == torch.float32
    assert one.bounds is None
    assert (len(one.train), len(one.validation), len(one.test)) == (36, 4, 10)
    check_fit_data(one)


def test_later_changes_of_the_array_change_nothing():
    inputs = np.zeros((10, 2), dtype=np.float32)
    data = load(inputs, np.arange(10) % 2)
    inputs += 1
    assert float(data.train.inputs.sum()) == 0


def test_bytes_are_pixels_with_channels_first():
    pixels = np.full((20, 6, 5, 3), 51, dtype=np.uint8)
    data = load(pixels, np.arange(20) % 2)
    assert data.input_shape == (3, 6, 5)
    assert data.bounds == (0.0, 1.0)
    assert float(data.train.inputs.max()) == pytest.approx(0.2)
    assert load(pixels[..., 0], np.arange(20) % 2).input_shape == (1, 6, 5)


def test_floating_pictures_have_bounds_where_they_lie_in_them():
    pictures = np.random.default_rng(0).random((20, 1, 4, 4))
    assert load(pictures, np.arange(20) % 2).bounds == (0.0, 1.0)
    assert load(pictures - 0.5, np.arange(20) % 2).bounds is None
    assert load(pictures, np.arange(20) % 2, bounds=(-1.0, 1.0)).bounds == (-1.0, 1.0)
    with pytest.raises(BoundsError, match=r"expected pictures in \[0, 1\]; .* To fix: divide by 255"):
        load((pictures * 255).round(), np.arange(20) % 2)


def test_labels_of_text_and_with_gaps_become_classes():
    data = load(np.zeros((30, 2)), np.array(["b", "a", "c"] * 10))
    assert data.classes == ("a", "b", "c")
    assert torch.bincount(data.train.targets).tolist() == [7, 7, 7] or len(data.train) == 22
    assert load(np.zeros((30, 2)), np.array([-1, 5] * 15)).classes == ("-1", "5")


def test_given_classes_bind_the_labels():
    labels = np.arange(30) % 3
    data = load(np.zeros((30, 2)), labels, classes=["x", "y", "z"])
    assert data.classes == ("x", "y", "z")
    assert set(data.train.targets.tolist()) == {0, 1, 2}
    outside = load(np.zeros((30, 2)), labels + 1, classes=["x", "y", "z"])
    with pytest.raises(LabelError, match=r"expected labels in 0\.\.2 for 3 classes; got label 3"):
        check_fit_data(outside)
    with pytest.raises(
        LabelError, match=r"expected one of 2 classes \(a, b\); got label q \(arrays\.train, sample 1\)"
    ):
        load(np.zeros((3, 2)), np.array(["a", "q", "b"]), classes=["a", "b"])


def test_floating_targets_mean_regression():
    data = load(np.linspace(0, 1, 20), np.linspace(0, 1, 20))
    assert data.task == "regression"
    assert data.train.inputs.shape == (14, 1)
    assert data.train.targets.shape == (14, 1)
    assert data.train.targets.dtype == torch.float32
    assert data.outputs == 1
    assert load(np.zeros((20, 3)), np.arange(20), task="regression").train.targets.dtype == torch.float32


def test_standardised_by_the_training_samples():
    random = np.random.default_rng(0)
    data = load(random.normal(5, 3, (400, 2)), random.normal(size=400), standardise=True)
    seen = torch.cat([data.train.inputs, data.validation.inputs])
    torch.testing.assert_close(seen.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, unbiased=False), torch.ones(2), atol=1e-5, rtol=0)
    assert data.test.inputs.mean().abs() > 1e-5


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "words"),
    [
        (np.zeros((5, 2)), np.zeros(4, dtype=int), ShapeError, "expected as many targets as inputs; got 4 for 5"),
        (np.array(["a", "b"]), np.zeros(2, dtype=int), ShapeError, "expected an array of numbers; got <U1"),
        (np.zeros((4, 2)), np.eye(4, dtype=int), ShapeError, r"use targets.argmax\(1\) if they are one-hot"),
    ],
)
def test_arrays_that_do_not_fit(inputs, targets, error, words):
    with pytest.raises(error, match=words):
        load(inputs, targets)


def test_fractional_labels():
    with pytest.raises(LabelError, match="expected whole labels; got fractions or NaN"):
        load(np.zeros((4, 2)), np.array([0.0, 0.5, 1.0, 1.0]), task="classification")


def test_npz_with_and_without_splits(tmp_path):
    pixels, labels = np.zeros((40, 8, 8), dtype=np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "keras.npz", x_train=pixels, y_train=labels, x_test=pixels[:8], y_test=labels[:8])
    data = load(tmp_path / "keras.npz")
    assert (len(data.train) + len(data.validation), len(data.test)) == (40, 8)
    assert data.input_shape == (1, 8, 8)
    np.savez(tmp_path / "plain.npz", inputs=pixels, targets=labels)
    assert len(load(str(tmp_path / "plain.npz")).test) == 8
    np.savez(tmp_path / "odd.npz", foo=pixels)
    with pytest.raises(ConfigError, match=r"expected arrays named inputs and targets, .*; got foo"):
        load(tmp_path / "odd.npz")


def test_damaged_npz_and_pickled_objects(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", inputs=np.random.default_rng(0).random((50, 4)), targets=np.arange(50) % 2)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (whole[:200], b"", b"text", whole[:100] + b"\0" * 50 + whole[150:]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"expected a \.npz file of plain arrays; got .*a\.npz"):
            load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", inputs=np.array([{}], dtype=object), targets=np.zeros(1))
    with pytest.raises(CorruptFileError, match=r"b\.npz"):
        load(tmp_path / "b.npz")
