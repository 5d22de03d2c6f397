import numpy as np
import pytest
import torch
from PIL import Image

from pluriform.data.check import check_fit_data
from pluriform.data.load import load
from pluriform.errors import CorruptFileError, DataNotFoundError, LabelError, ShapeError


def draw(path, value, size=(6, 5), mode="L"):
    """One picture of a single value; size is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


@pytest.fixture
def animals(tmp_path):
    for at in range(10):
        draw(tmp_path / "cat" / f"{at}.png", 10)
        draw(tmp_path / "dog" / f"{at}.png", 200)
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    draw(tmp_path / ".hidden" / "0.png", 3)
    return tmp_path


def test_class_folders(animals):
    data = load(animals)
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (1, 5, 6)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [14, 2, 4]
    bright = data.train.inputs.amax((1, 2, 3)) > 0.5
    assert torch.equal(bright.long(), data.train.targets)
    check_fit_data(data)


def test_given_parts_are_kept(tmp_path):
    for part, number in (("train", 5), ("val", 2), ("test", 3)):
        for at in range(number):
            for name in ("a", "b"):
                draw(tmp_path / part / name / f"{at}.png", at)
    data = load(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [10, 4, 6]


def test_one_coloured_picture_makes_all_coloured(animals):
    draw(animals / "cat" / "x.png", 255, mode="RGB")
    data = load(animals, validation=0.0)
    assert data.input_shape == (3, 5, 6)
    grey = data.train.inputs[data.train.targets == 1]
    torch.testing.assert_close(grey, torch.full_like(grey, 200 / 255))


def test_sixteen_bits_are_reduced_to_eight(animals):
    values = np.full((5, 6), 0xC800, dtype=np.uint16)  # 200 in its high byte.
    Image.fromarray(values).save(animals / "dog" / "deep.png")
    dogs = load(animals, validation=0.0)
    assert float(dogs.train.inputs.max()) == pytest.approx(200 / 255)


def test_pictures_of_different_sizes_need_a_size(animals):
    draw(animals / "cat" / "large.png", 10, size=(12, 10))
    with pytest.raises(
        ShapeError, match=r"expected pictures of 5x6 pixels; got 10x12 \(cat/large\.png beside cat/0\.png\)"
    ):
        load(animals)
    assert load(animals, size=8).input_shape == (1, 8, 8)


def test_damaged_empty_and_misplaced(animals, tmp_path_factory):
    (animals / "cat" / "broken.png").write_bytes((animals / "cat" / "0.png").read_bytes()[:40])
    with pytest.raises(CorruptFileError, match=r"expected a picture; got .*\(cat/broken\.png\)"):
        load(animals)
    (animals / "cat" / "broken.png").unlink()
    draw(animals / "stray.png", 0)
    with pytest.raises(LabelError, match=r"expected pictures in class folders; got stray\.png"):
        load(animals)
    with pytest.raises(DataNotFoundError, match="expected pictures .*; got none"):
        load(tmp_path_factory.mktemp("empty"))


def test_a_class_that_only_test_has(tmp_path):
    for name in ("train/a/0.png", "train/b/0.png", "test/c/0.png"):
        draw(tmp_path / name, 0)
    with pytest.raises(LabelError, match=r"expected one of the classes of train: a, b; got c \(test/c/0\.png\)"):
        load(tmp_path)


def test_sign_digits(shared_data):
    data = load("sign-digits")
    assert torch.bincount(data.test.targets).tolist() == [50] * 10
    assert len(data.train) + len(data.validation) == 1562
    assert data.input_shape == (3, 64, 64)
    check_fit_data(data)


def test_omniglot(shared_data):
    data = load("omniglot-small", size=28)
    assert data.input_shape == (1, 28, 28)
    assert data.outputs == 242
    assert torch.bincount(data.test.targets).tolist() == [4] * 242
    assert data.train.inputs.mean() < 0.2  # Strokes are bright on dark.
    check_fit_data(data)
