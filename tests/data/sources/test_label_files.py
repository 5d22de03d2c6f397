import json

import numpy as np
import pytest
import torch
from PIL import Image

from pluriform.data.check import check_fit_data
from pluriform.data.load import load
from pluriform.errors import ConfigError, CorruptFileError, LabelError

IDS = np.array([[0, 1, 1], [2, 2, 2]], dtype=np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [10, 20, 30]], dtype=np.uint8)


def pair(folder, label, suffix=".png", name="a"):
    """One photograph and one label map."""
    for side in ("label", "photo"):
        (folder / side).mkdir(exist_ok=True)
    Image.new("RGB", IDS.shape[::-1], (9, 9, 9)).save(folder / "photo" / f"{name}.png")
    path = folder / "label" / f"{name}{suffix}"
    if isinstance(label, np.ndarray) and suffix == ".npy":
        np.save(path, label)
    else:
        (label if isinstance(label, Image.Image) else Image.fromarray(label)).save(path)


def palette():
    picture = Image.fromarray(IDS, mode="P")
    picture.putpalette(COLOURS.flatten().tolist())
    return picture


def read(folder, **options):
    return load(folder, task="translation", **options)


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["grey", "palette", "deep", "npy", "npy64"])
def test_ids_in_every_form(tmp_path, kind):
    label = {
        "grey": IDS,
        "palette": palette(),
        "deep": IDS.astype(np.uint16),
        "npy": IDS,
        "npy64": IDS.astype(np.int64),
    }[kind]
    pair(tmp_path, label, ".npy" if kind.startswith("npy") else ".png")
    data = read(tmp_path)
    assert data.classes == ("0", "1", "2")
    assert torch.equal(data.train.inputs[0, 0], torch.from_numpy(IDS).float())
    check_fit_data(data)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.json", json.dumps({"sky": [0, 0, 0], "wall": [255, 0, 0], "door": [10, 20, 30]})),
        ("class_dict.csv", "name, r, g, b\nsky,0,0,0\nwall,255,0,0\ndoor,10,20,30\n"),
        ("label_colors.txt", "0 0 0\tsky\n255 0 0\t\twall\n10 20 30 door\n"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("as_palette", [False, True])
def test_colours_by_a_table(tmp_path, file, content, as_palette):
    (tmp_path / file).write_text(content)
    pair(tmp_path, palette() if as_palette else COLOURS[IDS])
    data = read(tmp_path)
    assert data.classes == ("sky", "wall", "door")
    assert torch.equal(data.train.inputs[0, 0], torch.from_numpy(IDS).float())


def test_colours_without_a_table(tmp_path):
    pair(tmp_path, COLOURS[IDS])
    data = read(tmp_path)
    assert data.classes == ("#000000", "#0a141e", "#ff0000")
    assert data.train.inputs[0, 0].tolist() == [[0, 2, 2], [1, 1, 1]]


def test_a_colour_of_no_class_is_named(tmp_path):
    (tmp_path / "classes.json").write_text('{"sky": [0, 0, 0], "wall": [255, 0, 0]}')
    pair(tmp_path, COLOURS[IDS])
    expected = "got red, green, blue 10, 20, 30 .label/a.png; 3 of 6 pixels have colours of no class"
    with pytest.raises(LabelError, match=expected):
        read(tmp_path)


def test_an_id_of_no_class_is_named_with_a_histogram(tmp_path):
    pair(tmp_path, IDS)
    pair(tmp_path, IDS + 5, name="b")
    with pytest.raises(
        LabelError, match=r"ids 0..2 for 3 classes; got 5, 1 pixel of it \(label/b.png; its values: 7 in"
    ):
        read(tmp_path, classes=("x", "y", "z"))
    assert len(read(tmp_path).classes) == 8


def test_255_is_unlabelled(tmp_path):
    pair(tmp_path, np.where(IDS == 1, 255, IDS).astype(np.uint8))
    data = read(tmp_path)
    assert data.classes == ("0", "1", "2", "unknown")
    assert data.train.inputs[0, 0].tolist() == [[0, 3, 3], [2, 2, 2]]
    with pytest.raises(LabelError, match="got 255"):
        read(tmp_path, classes=("a", "b", "c"))
    assert read(tmp_path, classes=("a", "b", "c", "unknown")).train.inputs.max() == 3


def test_jpeg_and_many_colours_are_refused(tmp_path):
    pair(tmp_path, COLOURS[IDS], ".jpg")
    with pytest.raises(CorruptFileError, match="lossless format; got JPEG .label/a.jpg"):
        read(tmp_path)
    (tmp_path / "label" / "a.jpg").unlink()
    noisy = np.random.default_rng(0).integers(0, 255, (30, 30, 3)).astype(np.uint8)
    pair(tmp_path, noisy)
    with pytest.raises(LabelError, match="at most 256 colours; got [0-9]* up to this file .label/a.png"):
        read(tmp_path)


def test_resizing_takes_the_nearest(tmp_path):
    pair(tmp_path, IDS)
    data = read(tmp_path, size=(4, 6))
    assert torch.equal(
        data.train.inputs[0, 0], torch.from_numpy(IDS).float().repeat_interleave(2, 0).repeat_interleave(2, 1)
    )


def test_tables_that_are_none(tmp_path):
    pair(tmp_path, IDS)
    (tmp_path / "classes.json").write_text('{"sky": [0, 0]}')
    with pytest.raises(CorruptFileError, match="expected a table of classes"):
        read(tmp_path)
    (tmp_path / "classes.json").write_text('{"sky": [0, 0, 0], "wall": [255, 0, 0]}')
    with pytest.raises(ConfigError, match="expected 2 classes, one a colour of classes.json; got 1"):
        read(tmp_path, classes=("sky",))


def test_fractions_of_ids_are_refused(tmp_path):
    pair(tmp_path, IDS.astype(np.float32), ".npy")
    with pytest.raises(CorruptFileError, match="expected integer ids .height, width.; got float32"):
        read(tmp_path)


MASK = (IDS == 2).astype(np.uint8) * 255


def test_a_mask_has_a_foreground(tmp_path, caplog):
    caplog.set_level("INFO", "pluriform")
    pair(tmp_path, MASK)
    data = read(tmp_path)
    assert data.classes == ("0", "255")
    assert data.train.inputs[0, 0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert "(label/a.png): no table names the classes, found are 0: 50 %, 255: 50 %" in caplog.text
    assert torch.equal(read(tmp_path, classes=("ground", "building")).train.inputs, data.train.inputs)
    assert read(tmp_path, classes=data.classes).train.inputs.max() == 1  # As a fitted form remembers them.
    assert read(tmp_path, classes=("ground", "unknown")).classes == ("ground", "unknown")
    check_fit_data(data)
    pair(tmp_path, IDS // 2, name="b")  # With a class 1, 255 is what nobody labelled.
    assert read(tmp_path).classes == ("0", "1", "unknown")
    with pytest.raises(LabelError, match="got 255"):
        read(tmp_path, classes=("ground", "building"))


def test_grey_levels_are_warned_of_and_named_by_a_table(tmp_path, caplog):
    pair(tmp_path, IDS * 127)
    assert len(read(tmp_path).classes) == 255
    assert "found are 0: 16.7 %, 127: 33.3 %, 254: 50 %; 252 of the classes 0..254 never occur" in caplog.text
    assert 'write {"name": [127, 127, 127], ...} into classes.json' in caplog.text
    caplog.clear()
    (tmp_path / "classes.json").write_text('{"sky": [127, 127, 127], "wall": [0, 0, 0], "door": [254, 254, 254]}')
    data = read(tmp_path)
    assert data.classes == ("sky", "wall", "door")
    assert data.train.inputs[0, 0].tolist() == [[1, 0, 0], [2, 2, 2]]
    assert "label maps" not in caplog.text


def test_most_ids_in_use_are_no_matter(tmp_path, caplog):
    pair(tmp_path, IDS * 2)  # 0, 2 and 4 of five
    assert len(read(tmp_path).classes) == 5
    assert "never occur" not in caplog.text
