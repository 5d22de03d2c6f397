import json

import numpy as np
import pytest
import tyro
from PIL import Image

import pluriform as pf
from pluriform.cli.main import main
from pluriform.cli.translate import TRANSLATORS, options
from pluriform.translate.game_recipe import GameRecipe


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
    digits = pf.load("digits")
    pf.Training(epochs=1).fit(pf.nets.build("mlp", digits), digits).save(tmp_path / "form")
    assert main(["translate", "images", str(tmp_path / "form"), str(photographs), "--out", str(tmp_path / "o")]) == 1
    assert "expected a translator" in capsys.readouterr().err


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
