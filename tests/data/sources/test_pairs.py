import pytest
import torch
from PIL import Image

from pluriform.data.check import check_fit_data
from pluriform.data.load import load
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError


def draw(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def values(part):
    return [[round(float(side.amax()) * 255) for side in pair] for pair in zip(part.inputs, part.targets, strict=True)]


def test_two_folders_with_matching_names(tmp_path):
    for at in range(10):
        draw(tmp_path / "photo" / f"{at}.jpg", 100 + at)
        draw(tmp_path / "label" / f"{at}.png", at)
    data = load(tmp_path, task="translation")
    assert data.task == "translation"
    assert data.bounds == (0.0, 1.0)
    pairs = values(data.train) + values(data.validation) + values(data.test)
    assert sorted(pairs) == [[at, 100 + at] for at in range(10)]  # label comes before photo
    assert [len(part) for part in (data.train, data.validation, data.test)] == [7, 1, 2]
    check_fit_data(data)
    draw(tmp_path / "photo" / "alone.png", 0)
    with pytest.raises(DataNotFoundError, match="expected each picture in both label and photo; got alone in one only"):
        load(tmp_path, task="translation")


def test_lettered_folders_paired_and_unpaired(tmp_path):
    for at in range(3):
        draw(tmp_path / "trainA" / f"{at}.png", at)
        draw(tmp_path / "trainB" / f"{at}.png", 50 + at)
        draw(tmp_path / "testA" / f"{at}.png", 9)
        draw(tmp_path / "testB" / f"{at}.png", 59)
    data = load(tmp_path, task="translation", validation=0.0)
    assert values(data.train) == [[0, 50], [1, 51], [2, 52]]
    assert values(data.test) == [[9, 59]] * 3
    for at in range(2):
        draw(tmp_path / "trainB" / f"more{at}.png", 53 + at)
    data = load(tmp_path, task="translation", validation=0.0)
    assert values(data.train) == [[0, 50], [1, 51], [2, 52], [0, 53], [1, 54]]


def test_side_by_side(tmp_path):
    for part, number in (("train", 3), ("val", 1), ("test", 2)):
        for at in range(number):
            picture = Image.new("L", (8, 4), 7)
            picture.paste(200, (4, 0, 8, 4))
            (tmp_path / part).mkdir(exist_ok=True)
            picture.save(tmp_path / part / f"{at}.png")
    data = load(tmp_path, task="translation")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [3, 1, 2]
    assert data.input_shape == (1, 4, 4)
    assert values(data.train) == [[7, 200]] * 3
    assert load(tmp_path, task="translation", size=2).train.targets.shape == (3, 1, 2, 2)


def test_layouts_that_are_none(tmp_path):
    for name in ("one", "two", "three"):
        draw(tmp_path / name / "0.png", 0)
    with pytest.raises(
        ConfigError, match="two folders of pictures, or pairs side by side; got folders one, three, two"
    ):
        load(tmp_path, task="translation")


def test_odd_width(tmp_path):
    draw(tmp_path / "0.png", 0, size=(5, 4))
    with pytest.raises(ShapeError, match="expected two pictures side by side; got an odd width of 5"):
        load(tmp_path, task="translation")


def test_facades(shared_data):
    data = load("facades", size=32)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [360, 40, 100]
    assert data.input_shape == (3, 32, 32)
    assert data.train.targets.shape == (360, 3, 32, 32)
    check_fit_data(data)
    # Label maps have few colours, photographs many.
    whole = load("facades")
    colours = [
        len(torch.unique((side[0] * 255).round().flatten(1), dim=1).T) for side in whole.test.batch(torch.tensor([0]))
    ]
    assert colours[0] <= 12 < 1000 < colours[1]
