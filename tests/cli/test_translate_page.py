"""The page that a translation ends with, and the network that labels photographs in it."""

import json

import numpy as np
import pytest
from PIL import Image

import pluriform as pf
from pluriform.cli.main import main


@pytest.fixture
def labelled(tmp_path):
    generator = np.random.default_rng(0)
    colours = np.array([[30, 60, 230], [230, 200, 30], [60, 230, 80]], dtype=np.uint8)
    for at in range(40):
        ids = generator.integers(0, 3, (4, 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        for side, values in (("label", ids), ("photo", colours[ids])):
            (tmp_path / "data" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "data" / side / f"{at}.png")
    return tmp_path / "data"


def measured(run):
    found = json.loads((run / "result.json").read_text())["measures"]
    return {(m["name"], m["condition"].get("images"), m["condition"].get("extractor")): m["value"] for m in found}


def test_page_is_written_with_labels_beside_their_ceiling(labelled, tmp_path, capsys):
    classes = ["--classes", "a", "b", "c"]
    words = [
        "translate",
        "segmentation",
        str(labelled),
        "--width",
        "4",
        "--epochs",
        "10",
        "--batch-size",
        "8",
        *classes,
    ]
    assert main([*words, "--learning-rate", "0.01", "--run", str(tmp_path / "segmentation")]) == 0
    words = ["translate", "tsit", str(labelled), "--preset", "tiny", "--updates", "4", "--batch-size", "4", *classes]
    words += ["--segmentation", str(tmp_path / "segmentation"), "--run", str(tmp_path / "run")]
    assert main(words) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    for said in ("What does it make?", "How did the game go?", "Highest label accuracy", "Colours of the classes"):
        assert said in page
    found = measured(tmp_path / "run")
    assert found["pixel_accuracy", "real test images", None] > 0.9
    assert found["pixel_accuracy", None, None] < found["pixel_accuracy", "real test images", None]
    assert ("kernel_distance", None, "random network (seed 0)") in found
    told = capsys.readouterr().err
    assert "report.html" in told.replace("\n", "")
    assert "Label accuracy" in told


def test_judges_of_the_user_stand_in_place_of_random_features(labelled, tmp_path):
    photographs = pf.load(labelled, task="translation", classes=("a", "b", "c")).train.targets
    labels = (photographs[:, 0] > photographs[:, 2]).float().mean((1, 2)).gt(0.5).long()
    data = pf.load(photographs, labels, bounds=(0.0, 1.0))
    pf.Training(epochs=1).fit(pf.nets.build("lenet", data), data).save(tmp_path / "judge")
    words = ["translate", "pix2pix", str(labelled), "--width", "4", "--updates", "2", "--classes", "a", "b", "c"]
    assert main([*words, "--judges", str(tmp_path / "judge"), "--run", str(tmp_path / "run")]) == 0
    extractors = {extractor for name, _, extractor in measured(tmp_path / "run") if name == "kernel_distance"}
    assert extractors == {"Training(epochs=1) on arrays"}
