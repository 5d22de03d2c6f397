"""Parts of the reproductions of translation: data made in code, baselines, budgets, rows of figures."""

import argparse
import importlib
from pathlib import Path

import pytest
import torch

import pluriform as pf
from pluriform.evaluation.findings import Findings, measure

FOLDER = Path(__file__).parents[2] / "reproductions"


@pytest.fixture
def script(monkeypatch):
    """A reproduction by name, importable as it is from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def strokes(count=40, side=32):
    images = torch.zeros(count, 1, side, side)
    images[:, :, 8:24, 14:18] = 1.0
    return images


def test_styles_colour_stroke_and_ground_alike_for_every_seed(script):
    digits, styles = strokes(), torch.arange(40) % 4
    one, other = (script("translate_digits").styled(digits, styles, seed) for seed in (0, 1))
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    assert not torch.equal(one, other)
    assert torch.equal(one, script("translate_digits").styled(digits, styles, 0))
    stroke = one[:, :, 12, 16]
    assert torch.equal(stroke, one[:, :, 20, 15])  # One colour for the whole stroke.
    means = torch.stack([stroke[styles == style].mean(0) for style in range(4)])
    spread = torch.stack([stroke[styles == style].std(0).max() for style in range(4)])
    assert float(torch.pdist(means).min()) > 3 * float(spread.max())  # Styles are farther apart than they vary.


def test_textures_differ(script):
    images = script("translate_digits").styled(torch.zeros(4, 1, 32, 32), torch.arange(4), 0)
    light = images.mean(1)
    colours = [len(torch.unique(image.round(decimals=4))) for image in light[:3]]
    assert colours == [2, 2, 2]
    assert torch.equal(light[0, 3:, :-3], light[0, :-3, 3:])  # Stripes along the antidiagonal.
    assert torch.equal(light[1, :24, :24], light[1, 8:, 8:])  # Checks of eight pixels.
    assert torch.allclose(light[3], light[3, :, :1].expand(-1, 32))  # The gradient knows rows only.
    assert len(torch.unique(light[3, :, 0])) == 32


def test_nearest_is_the_photograph_of_the_map_that_agrees_most(script):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, (30, 1, 8, 8), generator=generator)
    photographs = torch.rand(30, 3, 8, 8, generator=generator)
    data = pf.load(ids, photographs, task="translation", classes=("a", "b", "c"), validation=0)
    data.test.inputs[0] = data.train.inputs[5]
    data.test.inputs[1] = data.train.inputs[7]
    data.test.inputs[1, 0, 0, 0] = (data.test.inputs[1, 0, 0, 0] + 1) % 3
    found = script("translate_facades").nearest(data)
    assert torch.equal(found[:2], data.train.targets[[5, 7]])


def test_rows_name_extractors_and_keep_the_kinds_of_images_apart(script):
    real = {"images": "real test images"}
    told = {"extractors": [{"name": "long name"}]}
    findings = Findings(
        (
            measure("pixel_accuracy", 0.25),
            measure("pixel_accuracy", 0.5, condition=real),
            measure("frechet_distance", 3.0, condition={"extractor": "long name", "unreliable": "100 images"}),
            measure("psnr", 12.0),
        ),
        protocol={"images": told},
    )
    row = script("translate_networks").row_of(findings, ("short",))
    assert row == {"pixel_accuracy": 25.0, "frechet_distance [short] (unreliable)": 3.0, "psnr": 12.0}
    assert script("translate_networks").row_of(findings, ("short",), "real test images") == {"pixel_accuracy": 50.0}


def test_budget_becomes_updates_measured_once(script, tmp_path):
    calls = []

    class Method:
        def __init__(self, updates):
            self.updates = updates

        def fit(self, module, data):
            calls.append(self.updates)
            end = script("translate_networks").clock() + 0.01 * self.updates
            while script("translate_networks").clock() < end:
                pass

    found = [script("translate_networks").seconds_an_update("x", Method, None, None, tmp_path) for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(0.01, rel=0.3)
    assert calls == [1, 12, 20]
    assert script("translate_networks").updates_in(1.0, 0.01) == 6000
    assert script("translate_networks").updates_in(0.0, 0.01) == 2


def test_known_images_are_answered_in_order(script):
    given = script("translate_networks").Given(torch.arange(5.0))
    assert given.translate(torch.zeros(3)).tolist() == [0, 1, 2]
    assert given.translate(torch.zeros(2)).tolist() == [3, 4]


def test_parts_become_means_over_seeds(script):
    facts = {"generator_parameters": 7, "updates": 3, "training_seconds": 2.0, "events": []}
    facts["work_seconds_of_last_sitting"] = 1.0
    parts = [
        {"key": {"minutes": 1.0, "seed": seed}, "facts": facts, "figures": {"miou": value}}
        for seed, value in ((1, 30.0), (0, 20.0))
    ]
    row = script("translate_networks").row(parts)
    assert (row["seeds"], row["updates"]) == ([0, 1], 3)
    assert row["miou"]["mean"] == 25.0
    assert row["miou"]["sd"] == pytest.approx(7.0711, abs=1e-3)
    baseline = script("translate_networks").row([{"facts": {}, "figures": {"miou": 10.0}}])
    assert baseline == {"miou": {"mean": 10.0, "sd": None, "seeds": 1}}


def test_digits_on_photographs_are_the_difference(script):
    photographs = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = script("translate_digits").on_photographs(strokes(20), photographs, 0)
    ground = images[:, :, :8]  # No stroke there: the photograph itself.
    nearest = (ground[:, None] - photographs[None, :, :, :8]).abs().flatten(2).amax(2)
    assert float(nearest.min(1).values.max()) == 0
    own = nearest.argmin(1)
    assert own[:7].sort().values.tolist() == list(range(7))  # Each once before any comes again.
    assert torch.allclose(images[:, :, 12, 16], 1 - photographs[own][:, :, 12, 16])


def test_random_colours_keep_the_stroke_in_one(script):
    images = script("translate_augmentation").recoloured(strokes(30).expand(-1, 3, -1, -1), 0)
    stroke, ground = images[:, :, 12, 16], images[:, :, 0, 0]
    assert torch.equal(images[:, :, 8:24, 14:18], stroke[:, :, None, None].expand(-1, -1, 16, 4))
    assert torch.equal(images[:, :, :8], ground[:, :, None, None].expand(-1, -1, 8, 32))
    assert float(torch.pdist(torch.cat((stroke, ground))).min()) > 1e-3


def augmented_parts():
    figures = {"source": (20.0, 30.0), "tsit": (50.0, 70.0), "ceiling": (80.0, 90.0)}
    for arm, values in figures.items():
        for seed, value in enumerate(values):
            key = {"look": "styles", "arm": arm, "seed": seed, "minutes": 4.0 if arm == "tsit" else None, "epochs": 3}
            facts = {"test digits": 9}
            if arm == "tsit":
                facts |= {"content kept": 91.0, "seconds_to_translate": 2.0}
                facts["translator"] = {"generator_parameters": 7, "updates": 5}
            yield {"key": key, "figures": {"target": value, "source": 99.0}, "facts": facts}


def test_gains_are_over_the_source_of_the_same_seed(script):
    found = script("translate_augmentation").outcome(list(augmented_parts()))["styles"]
    row = found["tsit"]
    assert row["gain over source"]["mean"] == 35.0
    assert row["gain over source"]["interval"][0] < 35 < row["gain over source"]["interval"][1]
    assert row["moved"] == pytest.approx(100 * 35 / 60)
    assert row["by_seed"] == {"0": 50.0, "1": 70.0}
    assert found["ceiling"]["moved"] == 100.0
    assert "gain over source" not in found["source"]


@pytest.mark.parametrize("family", ["pix2pix", "spade", "tsit"])
def test_weights_of_truth_and_wide_images_are_one_sum(script, family, tmp_path):
    thin = script("translate_thin")
    images = torch.zeros(40, 1, 8, 8)
    data = pf.load(images, images, task="translation", classes=("a", "b"), validation=0)
    chosen = argparse.Namespace(passes=2, limit=None, out=tmp_path)
    width = thin.WIDTHS[family][-1]
    methods = [thin.method_of(family, width, arm, 0, data, chosen) for arm in thin.SHARES]
    assert methods[0].l1 == thin.TRUTH[family]
    assert [method.weight + method.thin.l1 for method in methods[1:]] == [thin.TRUTH[family]] * 2
    assert [method.weight for method in methods[1:]] == [thin.TRUTH[family] / 2, thin.TRUTH[family]]
    assert len({method.recipe.updates for method in methods}) == 1
    assert methods[1].wide.endswith(f"{family}-{thin.WIDTHS[family][0]}-alone-0-2-all/form")


def thin_parts():
    rows = (("32", "alone", 40.0), ("8", "alone", 20.0), ("8", "half", 26.0), ("4", "alone", 10.0))
    for width, arm, value in rows:
        for seed in (0, 1):
            key = {"family": "pix2pix", "width": width, "arm": arm, "seed": seed, "passes": 30}
            names = ("miou", "kernel_distance [CIFAR-10]", "perceptual_distance [CIFAR-10]")
            cost = {"parameters": 9.0, "macs": int(width) ** 2 * 1e6, "latency, batch 1": 2.0, "latency, batch 16": 9.0}
            yield {
                "key": key,
                "figures": dict.fromkeys(names, value + (3 if arm == "half" else 1) * seed),
                "ceiling": {"miou": 60.0},
                "floor": {},
                "mean": {"psnr": 14.0},
                "protocol": {},
                "facts": {"updates": 5, "training_seconds": 1.0},
                "cost": cost,
            }


def test_thin_ones_stand_beside_the_same_width_alone(script):
    found = script("translate_thin").outcome(list(thin_parts()))["pix2pix"]
    assert found["wide"]["miou"]["mean"] == 40.5
    assert list(found["thin"]) == ["16", "8", "4"]
    assert found["thin"]["16"] == {}
    assert found["thin"]["8"]["half"]["less alone"]["miou"]["mean"] == 7.0  # 6 and 8.
    assert "less alone" not in found["thin"]["8"]["alone"]


def test_figures_are_drawn_from_records(script, tmp_path):
    pytest.importorskip("matplotlib")
    figures = script("translate_figures")
    figures.draw_augmentation(script("translate_augmentation").outcome(list(augmented_parts())), tmp_path / "a.png")
    figures.draw_thin(script("translate_thin").outcome(list(thin_parts())), tmp_path / "b.png")
    assert min(path.stat().st_size for path in tmp_path.glob("*.png")) > 5000
