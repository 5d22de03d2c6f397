import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

import pluriform as pf
from pluriform.cli.main import main
from pluriform.cli.translate import TRANSLATORS, options, translate_folder
from pluriform.data.signature import Signature
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError
from pluriform.prediction import Translator
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.pix2pix import Pix2Pix
from pluriform.translate.rivals.spade import SPADE
from pluriform.translate.scale import Scale


def draw(folder, side, values, name):
    (folder / side).mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / side / f"{name}.png")


@pytest.fixture
def photographs(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    for at in range(8):
        values = generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        draw(folder, "before", values, at)
        draw(folder, "after", 255 - values, at)
    return folder


@pytest.mark.parametrize("name", sorted(TRANSLATORS))
def test_flags_of_every_method_can_be_read(name):
    found = tyro.cli(options(name), args=["facades", "--updates", "7", "--size", "32", "48"])
    assert found.method.training.updates == 7
    assert found.size == (32, 48)


def test_fit_goes_on_and_translates_a_folder(photographs, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["translate", "tsit", str(photographs), "--preset", "tiny", "--updates", "3", "--batch-size", "2"]
    words += ["--run", str(run)]
    assert main(words) == 0
    assert main(words) == 0  # A finished run is loaded.
    assert "16x16 in [0, 1], image to image" in capsys.readouterr().err
    form = pf.load_form(run)
    assert form.origin["method"]["class"].endswith("TSIT")
    new = tmp_path / "new"
    draw(new, "some", np.full((20, 24, 3), 100, dtype=np.uint8), "a")
    draw(new, "some", np.full((16, 16), 100, dtype=np.uint8), "grey")
    assert main(["translate", "images", str(run), str(new), "--out", str(out)]) == 0
    with Image.open(out / "some" / "a.png") as picture:
        assert (picture.size, picture.mode) == ((24, 20), "RGB")
        content = np.full((1, 3, 20, 24), 100 / 255, dtype=np.float32)
        wanted = form.translate(pf.load(content, content, task="translation", validation=0).train.inputs)[0]
        assert np.abs(np.asarray(picture) / 255 - wanted.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert (out / "some" / "grey.png").is_file()


def test_faults_have_a_sentence(photographs, tmp_path, capsys):
    assert main(["translate", "nonsense", str(photographs)]) == 1
    assert "expected one of images, tsit, pix2pix" in capsys.readouterr().err
    (photographs / "after" / "3.png").unlink()
    assert main(["translate", "pix2pix", str(photographs), "--run", str(tmp_path / "run")]) == 1
    assert "before/3.png in one only" in capsys.readouterr().err
    (photographs / "before" / "3.png").unlink()
    digits = pf.load("digits")
    pf.Training(epochs=1).fit(pf.nets.build("mlp", digits), digits).save(tmp_path / "form")
    assert main(["translate", "images", str(tmp_path / "form"), str(photographs), "--out", str(tmp_path / "o")]) == 1
    assert "expected a translator" in capsys.readouterr().err
    (tmp_path / "vgg19.pth").write_text("no weights")  # A file holds VGG-19, a folder a form.
    for flag in ("--extractor", "--judges"):
        words = ["translate", "tsit", str(photographs), "--preset", "tiny", "--updates", "1", flag]
        assert main([*words, str(tmp_path / "vgg19.pth"), "--run", str(tmp_path / f"run{flag}")]) == 1
        assert "expected a state_dict of tensors" in capsys.readouterr().err


def test_label_maps_are_checked_by_name(tmp_path, capsys):
    folder = tmp_path / "data"
    ids = np.random.default_rng(0).integers(0, 3, (6, 16, 16)).astype(np.uint8)
    for at, own in enumerate(ids):
        draw(folder, "label", own, at)
        draw(folder, "photo", np.stack([own * 80] * 3, -1), at)
    words = ["translate", "spade", str(folder), "--width", "4", "--cap", "2", "--updates", "2", "--batch-size", "2"]
    assert main([*words, "--run", str(tmp_path / "run"), "--classes", "a", "b", "c"]) == 0
    wrong = tmp_path / "wrong"
    draw(wrong, "x", ids[0] + 7, "bad")
    assert main(["translate", "images", str(tmp_path / "run"), str(wrong), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "expected label ids 0..2 for 3 classes; got " in error.replace("\n", " ")
    assert "x/bad.png" in error


def test_coloured_label_maps_need_no_table(tmp_path):
    """Their classes are called by the colours, and a table beside their folder is read as for the training."""
    colours = np.array([[0, 0, 255], [255, 0, 0]], dtype=np.uint8)
    ids = np.random.default_rng(0).integers(0, 2, (4, 16, 16))
    folder, out = tmp_path / "data", tmp_path / "out"
    for at, own in enumerate(ids):
        draw(folder, "label", colours[own], at)
        draw(folder, "photo", colours[own] // 2, at)
    form = Pix2Pix(width=2, training=GameRecipe(updates=1, batch_size=2)).fit(None, pf.load(folder, task="translation"))
    assert form.signature.classes == ("#0000ff", "#ff0000")
    assert translate_folder(form, folder / "label", out) == 4
    wanted = form.translate(torch.from_numpy(ids[:1, None]).float())[0].permute(1, 2, 0)
    with Image.open(out / "0.png") as picture:
        assert np.abs(np.asarray(picture) / 255 - wanted.numpy()).max() <= 0.5 / 255 + 1e-6

    with Image.open(folder / "label" / "0.png") as picture:
        indexed = picture.quantize(2)  # Its indices need not be the ids.
    turned = Image.fromarray(1 - np.asarray(indexed), "P")
    turned.putpalette([*indexed.getpalette()[3:6], *indexed.getpalette()[:3]])
    form.signature = replace(form.signature, classes=("wall", "door"))
    (folder / "classes.json").write_text(json.dumps({"wall": [0, 0, 255], "door": [255, 0, 0]}))
    for place, picture in (("first", indexed), ("second", turned)):
        (folder / place).mkdir()
        picture.save(folder / place / "0.png")
        translate_folder(form, folder / place, tmp_path / place)
        assert (tmp_path / place / "0.png").read_bytes() == (out / "0.png").read_bytes()


def test_translated_files_lose_nothing(tmp_path):
    """Depth of grey contents, many channels, names with points; and never each other or the originals."""
    folder, out = tmp_path / "new", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200).save(folder / "x.0.png")
    assert translate_folder(_Same(1), folder, out) == 1
    with Image.open(out / "x.0.png") as picture:
        assert np.array_equal(np.asarray(picture), np.arange(256).reshape(16, 16) * 200)
    many = np.random.default_rng(0).random((2, 4, 5, 6), dtype=np.float32)
    (folder / "x.0.png").unlink()
    for at, values in enumerate(many):
        np.save(folder / f"x.{at}.npy", values)
    assert translate_folder(_Same(6), folder, out) == 2
    assert all(np.array_equal(np.load(out / f"x.{at}.npy"), values) for at, values in enumerate(many))
    with pytest.raises(pf.PluriformError, match="which would be overwritten"):
        translate_folder(_Same(6), folder, folder / ".." / "new")
    np.save(folder / "x.1.png", many[0])
    (folder / "x.1.png.npy").rename(folder / "x.1.png")
    with pytest.raises(pf.PluriformError, match=r"pictures of different names; got x.1.npy and x.1.png"):
        translate_folder(_Same(6), folder, out)


def test_a_grey_style_is_a_style_of_three_channels(tmp_path):
    form, seen = _Same(3), {}
    form.translate = lambda content, style, *, seed: seen.update(style=style) or content
    Image.new("L", (4, 4), 51).save(tmp_path / "style.png")
    (tmp_path / "new").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "new" / "a.png")
    translate_folder(form, tmp_path / "new", tmp_path / "out", str(tmp_path / "style.png"))
    assert torch.equal(seen["style"], torch.full((1, 3, 4, 4), 51 / 255))
    form.reads_style = False
    with pytest.raises(pf.PluriformError, match="expected a translator that reads styles; got one that reads none"):
        translate_folder(form, tmp_path / "new", tmp_path / "out", str(tmp_path / "style.png"))


def test_outputs_inside_the_folder_are_not_read_again(tmp_path):
    folder, out = tmp_path / "new", tmp_path / "new" / "deeper" / "out"
    draw(folder, "some", np.zeros((4, 4, 3), dtype=np.uint8), "a")
    draw(folder, "deeper", np.zeros((4, 4, 3), dtype=np.uint8), "b")
    for _ in range(2):
        assert translate_folder(_Same(3), folder, out) == 2
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert found == ["deeper/b.png", "some/a.png"]
    assert translate_folder(_Same(3), out, tmp_path / "new") == 2  # Outputs above the pictures leave none out.
    (out / "some" / "a.png").unlink()
    with pytest.raises(DataNotFoundError, match="pictures to translate; got only those below --out"):
        translate_folder(_Same(3), out, out / "deeper")


def test_one_picture_and_paths_that_hold_none(tmp_path, capsys):
    out, picture = tmp_path / "out", tmp_path / "new" / "some" / "a.png"
    draw(tmp_path / "new", "some", np.full((4, 4, 3), 9, dtype=np.uint8), "a")
    draw(tmp_path / "new", "some", np.zeros((4, 4, 3), dtype=np.uint8), "b")
    assert translate_folder(_Same(3), picture, out) == 1
    assert [path.name for path in out.iterdir()] == ["a.png"]
    with pytest.raises(pf.PluriformError, match="which would be overwritten"):
        translate_folder(_Same(3), picture, picture.parent)
    with pytest.raises(DataNotFoundError, match="a folder of pictures, or a picture; got nothing .*nowhere"):
        translate_folder(_Same(3), tmp_path / "nowhere", out)
    for style, got in (("nostyle.png", "nothing"), ("new", "a folder")):
        with pytest.raises(DataNotFoundError, match=f"a style picture; got {got} .*{style}.*give --style a picture"):
            translate_folder(_Same(3), picture, out, str(tmp_path / style))


def test_a_picture_of_a_wrong_size_is_named(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 16, 16, generator=generator)
    ids = torch.randint(2, (6, 1, 16, 16), generator=generator)
    training = GameRecipe(updates=1, batch_size=2)
    tsit = pf.TSIT(preset="tiny", training=training).fit(None, pf.load(images, 1 - images, task="translation"))
    spade = SPADE(width=4, cap=2, encoder=True, training=training).fit(
        None, pf.load(ids, images, task="translation", classes=("a", "b"))
    )
    draw(tmp_path, "small", np.zeros((2, 3, 3), dtype=np.uint8), "b")
    draw(tmp_path, "maps", np.zeros((20, 24), dtype=np.uint8), "c")
    advice = "To fix: give --size 16 16, the size of the images it was fitted on, or remove the picture"
    with pytest.raises(ConfigError, match=f"b.png, 2x3: expected images of at least 3x3 pixels.*{advice}"):
        translate_folder(tsit, tmp_path / "small", tmp_path / "out")
    with pytest.raises(ShapeError, match=f"c.png, 20x24: expected .*{advice}"):
        translate_folder(spade, tmp_path / "maps", tmp_path / "out")
    assert translate_folder(spade, tmp_path / "maps", tmp_path / "out", size=(16, 16)) == 1


def test_the_layout_the_direction_and_a_missing_page_are_told(tmp_path, capsys):
    picture = Image.new("RGB", (32, 16), (9, 9, 9))
    picture.paste((200, 200, 200), (16, 0, 32, 16))
    folder = tmp_path / "pair"
    folder.mkdir()
    picture.save(folder / "0.png")
    words = ["translate", "pix2pix", str(folder), "--width", "2", "--updates", "1", "--batch-size", "1"]
    assert main([*words, "--run", str(tmp_path / "there")]) == 0
    told = capsys.readouterr().err
    assert "pairs side by side, the left half is the input" in told
    assert "one picture only on a side" in told
    assert "no test images: no page" in told
    assert not (tmp_path / "there" / "report.html").exists()
    assert logging.getLogger("pluriform").level == logging.NOTSET
    assert main([*words, "--run", str(tmp_path / "back"), "--direction", "BtoA"]) == 0
    assert "pairs side by side, the right half is the input" in capsys.readouterr().err
    assert pf.load_form(tmp_path / "back").signature.input_shape == (3, 16, 16)
    assert main([*words, "--run", str(tmp_path / "never"), "--unpaired"]) == 1
    assert "two folders where paired=False is given" in capsys.readouterr().err


class _Same(Translator):
    """Gives the contents back."""

    reads_style = True

    def __init__(self, channels):
        super().__init__(Signature("same", "translation", (channels, 16, 16), channels, (), (0.0, 1.0)))
        self.scale = Scale(0.0, 1.0, 0, channels, channels)

    def forward(self, content, style=None):
        return content

    def translate(self, content, style=None, *, seed=0):
        return content


def test_evaluate_judges_translators(photographs, tmp_path):
    data = pf.load(photographs, task="translation")
    form = pf.TSIT(preset="tiny", training=GameRecipe(updates=2, batch_size=2)).fit(None, data)
    result = pf.evaluate(form, data, run=tmp_path / "judged")
    names = {(found.name, found.condition.get("images")) for found in result.measures}
    assert ("psnr", None) in names
    assert ("psnr", "mean training image") in names
    assert ("training_seconds", None) in names
    assert json.loads((tmp_path / "judged" / "result.json").read_text())["form"].startswith("TSIT(")
    with pytest.raises(pf.PluriformError, match="a form that predicts classes; got Translated"):
        pf.evaluate(form, data, threats=[pf.Threat("linf", 0.1)])
