import numpy as np
import pytest
import torch
from PIL import Image

from pluriform.data.check import check_fit_data
from pluriform.data.describe import describe
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
    assert data.classes == tuple(str(at) for at in range(10))
    pairs = [
        [float(side.amax()) for side in pair]
        for part in (data.train, data.validation, data.test)
        for pair in zip(part.inputs, part.targets, strict=True)
    ]
    assert sorted(pairs) == [[at, pytest.approx((100 + at) / 255)] for at in range(10)]  # ids, and pixels
    assert [len(part) for part in (data.train, data.validation, data.test)] == [7, 1, 2]
    check_fit_data(data)
    draw(tmp_path / "photo" / "alone.png", 0)
    expected = "expected each picture in both label and photo; got photo/alone.png in one only"
    with pytest.raises(DataNotFoundError, match=expected):
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
    data = load(tmp_path, task="translation", validation=0.0, paired=False)
    assert not data.paired
    assert (len(data.train), len(data.train.inputs), len(data.train.targets)) == (5, 3, 5)
    inputs, targets = data.train.batch(torch.arange(5))
    assert (inputs[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 0, 1]
    assert (targets[:, 0, 0, 0] * 255).round().tolist() == [50, 51, 52, 53, 54]
    check_fit_data(data)


def test_a_missing_partner_among_many_is_named(tmp_path):
    for at in range(6):
        draw(tmp_path / "trainA" / f"{at}.png", at)
        draw(tmp_path / "trainB" / f"{at if at < 5 else 9}.png", at)
    expected = (
        r"each picture in both A and B; got trainA/5.png, trainB/9.png in one only \(.*To fix: add the partner under "
        r"the same name, remove the picture, or give paired=False \(--unpaired\)"
    )
    with pytest.raises(DataNotFoundError, match=expected):
        load(tmp_path, task="translation")
    assert not load(tmp_path, task="translation", paired=False).paired
    (tmp_path / "trainA" / "5.png").unlink()
    (tmp_path / "trainB" / "9.png").unlink()
    assert load(tmp_path, task="translation").paired
    assert not load(tmp_path, task="translation", paired=False).paired


def test_a_few_names_alike_are_no_pairs(tmp_path, caplog):
    for at in range(5):
        draw(tmp_path / "trainA" / f"{at}.png", at)
        draw(tmp_path / "trainB" / f"{at + 3}.png", at)
    assert not load(tmp_path, task="translation").paired
    assert "2 of 8 names are on both sides, which are taken as unpaired" in caplog.text
    assert "without a partner: trainA/0.png, trainA/1.png, trainA/2.png and 3 more" in caplog.text
    with pytest.raises(DataNotFoundError, match="trainA/0.png, trainA/1.png, trainA/2.png and 3 more in one only"):
        load(tmp_path, task="translation", paired=True)
    for name in ("3.png", "4.png"):
        (tmp_path / "trainA" / name).unlink()
    caplog.clear()
    assert not load(tmp_path, task="translation").paired
    assert not caplog.text  # No name in common is what unpaired sides look like.


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("0", "1"):
        draw(tmp_path / "trainA" / f"{name}.png", 1)
        draw(tmp_path / "trainB" / f"{name}.png", 2)
    draw(tmp_path / "trainB" / "0.bmp", 3)
    expected = "pictures of different names; got trainB/0.bmp and trainB/0.png .*remove one of them, or rename it"
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, task="translation")


def beside(path, left=7, right=200):
    picture = Image.new("L", (8, 4), left)
    picture.paste(right, (4, 0, 8, 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def test_options_that_pairs_side_by_side_do_not_take(tmp_path):
    beside(tmp_path / "0.png")
    with pytest.raises(ConfigError, match="two folders where classes are given; got pairs side by side"):
        load(tmp_path, task="translation", classes=("a", "b"))
    with pytest.raises(ConfigError, match="two folders where paired=False is given; got pairs side by side"):
        load(tmp_path, task="translation", paired=False)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_direction_and_layout(tmp_path, caplog, direction):
    caplog.set_level("INFO", "pluriform")
    back = direction == "BtoA"
    options = {"task": "translation", "validation": 0, "direction": direction}
    for at in range(2):
        beside(tmp_path / "whole" / f"{at}.png")
        draw(tmp_path / "lettered" / "trainA" / f"{at}.png", 7)
        draw(tmp_path / "lettered" / "trainB" / f"{at}.png", 200)
        draw(tmp_path / "spelt" / "after" / f"{at}.png", 7)
        draw(tmp_path / "spelt" / "before" / f"{at}.png", 200)
    for folder, layout in (
        ("whole", f"pairs side by side, the {'right' if back else 'left'} half is the input"),
        ("lettered", f"folders trainA and trainB, paired by name; train{'B' if back else 'A'} is the input"),
        ("spelt", f"folders after and before, paired by name; {'before' if back else 'after'} is the input"),
    ):
        assert values(load(tmp_path / folder, **options).train) == [[200, 7] if back else [7, 200]] * 2
        assert f"{folder}: {layout}" in caplog.text


def test_direction_of_label_maps_and_styles(tmp_path, caplog):
    caplog.set_level("INFO", "pluriform")
    for at in range(2):
        draw(tmp_path / "maps" / "label" / f"{at}.png", at)
        draw(tmp_path / "maps" / "photo" / f"{at}.png", 100)
        draw(tmp_path / "own" / "trainA" / f"{at}.png", 100)
        draw(tmp_path / "own" / "trainB" / f"{at}.png", at)
        draw(tmp_path / "styles" / "trainA" / f"style{at}" / f"{at}.png", 0)
        draw(tmp_path / "styles" / "trainB" / f"other{at}.png", 0)
    with pytest.raises(ConfigError, match="direction AtoB where a folder holds label maps; got BtoA .*maps/label"):
        load(tmp_path / "maps", task="translation", direction="BtoA")
    load(tmp_path / "maps", task="translation")
    assert "folders label and photo, paired by name; label, whose files are label maps, is the input" in caplog.text
    data = load(tmp_path / "own", task="translation", direction="BtoA", classes=("wall", "door"), validation=0)
    assert data.train.inputs.amax((1, 2, 3)).tolist() == [0, 1]
    data = load(tmp_path / "styles", task="translation", direction="BtoA")
    assert data.styles == ("style0", "style1")
    assert "folders trainA and trainB, unpaired; trainB is the input in 2 styles" in caplog.text


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


def test_side_by_side_in_several_sizes(tmp_path):
    for at in range(3):
        picture = Image.new("L", (8 + 4 * at, 4), 7)
        picture.paste(200, (4 + 2 * at, 0, 8 + 4 * at, 4))
        picture.save(tmp_path / f"{at}.png")
    with pytest.raises(ShapeError, match="expected pictures of 4x4 pixels; got 4x6 .1.png beside 0.png.. To fix: give"):
        load(tmp_path, task="translation")
    data = load(tmp_path, task="translation", size=4, validation=0)
    assert torch.equal(data.train.inputs, torch.full((2, 1, 4, 4), 7 / 255))  # Nothing of the neighbour.
    assert torch.equal(data.train.targets, torch.full((2, 1, 4, 4), 200 / 255))


def test_one_coloured_picture_makes_all_splits_coloured(tmp_path):
    for part in ("train", "test"):
        for side in "AB":
            draw(tmp_path / f"{part}{side}" / "0.png", 50)
    (tmp_path / "trainA" / "0.png").unlink()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "trainA" / "0.png")
    data = load(tmp_path, task="translation")
    assert [part.inputs.shape[1] for part in (data.train, data.test)] == [3, 3]
    assert [part.targets.shape[1] for part in (data.train, data.test)] == [1, 1]
    check_fit_data(data)


@pytest.mark.parametrize(("first", "second", "held"), [(7, 5, (0, 1)), (20, 3, (0, 1)), (20, 2, (0, 0))])
def test_a_handful_of_unpaired_images(tmp_path, first, second, held):
    for side, number in (("A", first), ("B", second)):
        for at in range(number):
            draw(tmp_path / f"train{side}" / f"{side}{at}.png", at)
    data = load(tmp_path, task="translation")
    check_fit_data(data)
    for part, number in zip((data.validation, data.test), held, strict=True):
        assert min(len(part.inputs), len(part.targets)) == min(len(part), 1) == number
    assert len(data.train.targets) == second - len(data.validation.targets) - len(data.test.targets)


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


def test_unpaired_sides_are_split_by_themselves(tmp_path):
    for at in range(20):
        draw(tmp_path / "trainA" / f"a{at}.png", at)
    for at in range(10):
        draw(tmp_path / "trainB" / "day" / f"b{at}.png", 100 + at)
        draw(tmp_path / "trainB" / "night" / f"b{at}.png", 200 + at)
        draw(tmp_path / "trainB" / "night" / f"c{at}.png", 220 + at)
    data = load(tmp_path, task="translation", validation=0.25)
    splits = (data.train, data.validation, data.test)
    assert data.styles == ("day", "night")
    assert [len(part.inputs) for part in splits] == [12, 4, 4]
    assert [len(part.targets) for part in splits] == [18, 6, 6]
    seen = torch.cat([part.inputs[:, 0, 0, 0] * 255 for part in splits]).round().sort().values
    assert seen.tolist() == list(range(20))  # No picture is in two splits.
    for part in splits:
        assert torch.equal(part.styles, (part.targets[:, 0, 0, 0] * 255 > 199.5).long())
    assert describe(data).startswith(
        f"{tmp_path.name}: translation, inputs 1x4x4 in [0, 1], image to image of 2 styles"
    )


def test_train_in_the_names(tmp_path):
    draw(tmp_path / "train_label" / "a.png", 1)
    draw(tmp_path / "train_img" / "a.png", 100)
    draw(tmp_path / "gtFine" / "val" / "b_gtFine_labelIds.png", 2)
    with pytest.raises(ConfigError, match="got folders gtFine, img, label"):
        load(tmp_path, task="translation")
    (tmp_path / "gtFine" / "val" / "b_gtFine_labelIds.png").unlink()
    data = load(tmp_path, task="translation", classes=("sky", "tree"))
    assert data.train.inputs.flatten().tolist() == [1.0] * 16
    assert data.classes == ("sky", "tree")


def test_cityscapes_names(tmp_path):
    for part in ("train", "val"):
        draw(tmp_path / "gtFine" / part / "bonn" / "x_gtFine_labelIds.png", 3)
        draw(tmp_path / "leftImg8bit" / part / "bonn" / "x_leftImg8bit.png", 100)
    data = load(tmp_path, task="translation")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1, 1, 0]
    assert data.train.inputs.unique().tolist() == [3.0]


def test_cityscapes_as_downloaded(tmp_path, caplog):
    caplog.set_level("INFO", "pluriform")
    for city in ("bonn", "ulm"):
        for at, kind in enumerate(("color", "instanceIds", "labelIds")):
            draw(tmp_path / "gtFine" / "train" / city / f"{city}_0_gtFine_{kind}.png", at)
        (tmp_path / "gtFine" / "train" / city / f"{city}_0_gtFine_polygons.json").write_text("{}")
        draw(tmp_path / "leftImg8bit" / "train" / city / f"{city}_0_leftImg8bit.png", 100)
    data = load(tmp_path, task="translation")
    assert data.train.inputs.unique().tolist() == [2.0]
    assert data.paired
    assert "label maps: labelIds; left out: color, instanceIds" in caplog.text
    for city in ("bonn", "ulm"):
        draw(tmp_path / "gtFine" / "train" / city / f"{city}_0_gtFine_labelTrainIds.png", 3)
    assert load(tmp_path, task="translation").train.inputs.unique().tolist() == [2.0]
    for path in tmp_path.rglob("*_labelIds.png"):
        path.unlink()
    assert load(tmp_path, task="translation").train.inputs.unique().tolist() == [3.0]
    for path in tmp_path.rglob("*_labelTrainIds.png"):
        path.unlink()
    assert load(tmp_path, task="translation").classes == ("0",)  # Colours, where there is nothing else.


def test_folders_below_those_that_name_the_split(tmp_path):
    for city in ("bonn", "ulm"):
        draw(tmp_path / "train_label" / city / "0.png", 1)
        draw(tmp_path / "train_img" / city / "0.png", 100)
    assert len(load(tmp_path, task="translation", validation=0).train) == 2


def test_unmatched_pairs_are_named(tmp_path):
    draw(tmp_path / "sketch" / "a.png", 0)
    for name in "abcdef":
        draw(tmp_path / "real" / f"{name}.png", 0)
    expected = r"got real/b.png, real/c.png, real/d.png and 2 more in one only \(.*add the partner under the same name"
    with pytest.raises(DataNotFoundError, match=expected):
        load(tmp_path, task="translation")


def test_one_side_or_one_picture_only(tmp_path, caplog):
    draw(tmp_path / "trainA" / "a.png", 0)
    with pytest.raises(DataNotFoundError, match="pictures of both sides, trainB too; got only those of trainA/a.png"):
        load(tmp_path, task="translation")
    draw(tmp_path / "trainB" / "a.png", 0)
    assert [len(part) for part in (load(tmp_path, task="translation").train,)] == [1]
    assert "one picture only on a side" in caplog.text


@pytest.mark.parametrize("names", [("photo/a.png", "photo/b.png"), ("fruit/trainA/a.png", "fruit/trainB/b.png")])
def test_pictures_of_one_folder_are_not_cut_in_halves(tmp_path, names):
    for name in names:
        draw(tmp_path / name, 0)
    folder = names[0].partition("/")[0]
    with pytest.raises(
        DataNotFoundError, match=f"pictures of two folders, or side by side.*got only those of {folder}"
    ):
        load(tmp_path, task="translation")


def test_sides_of_different_sizes(tmp_path):
    draw(tmp_path / "label" / "a.png", 0, (8, 8))
    draw(tmp_path / "photo" / "a.png", 0, (8, 4))
    with pytest.raises(ShapeError, match="pairs of one size; got 8x8 and 4x8 .label/a.png and photo/a.png"):
        load(tmp_path, task="translation")
    data = load(tmp_path, task="translation", size=(4, 6))
    assert data.input_shape == (1, 4, 6)
    assert data.train.targets.shape == (1, 1, 4, 6)


def test_empty_folder(tmp_path):
    with pytest.raises(DataNotFoundError, match="expected pictures .*; got none"):
        load(tmp_path, task="translation")


def test_sixteen_bits_are_kept(tmp_path):
    (tmp_path / "trainA").mkdir()
    (tmp_path / "trainB").mkdir()
    deep = np.array([[0, 1], [1000, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "trainA" / "a.png")
    np.save(tmp_path / "trainB" / "a.npy", np.full((2, 2, 5), 65535, dtype=np.uint16))
    data = load(tmp_path, task="translation")
    assert torch.equal(data.train.inputs[0, 0], torch.from_numpy(deep.astype(np.float32) / 65535))
    assert data.train.targets.shape == (1, 5, 2, 2)
    assert float(data.train.targets.min()) == 1.0


def test_facades(shared_data):
    data = load("facades", size=32)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [360, 40, 100]
    assert data.input_shape == (1, 32, 32)
    assert data.train.targets.shape == (360, 3, 32, 32)
    assert data.classes[:3] == ("background", "facade", "window")
    assert len(data.classes) == 12
    assert data.paired
    check_fit_data(data)
    whole = load("facades")
    ids, photographs = whole.test.batch(torch.tensor([0]))
    assert set(ids.unique().tolist()) <= set(range(12))
    assert len(photographs.unique()) > 100
