import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import ConfigError
from pluriform.evaluation.pictures import coloured, palette
from pluriform.evaluation.translations import measure_translations
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.pix2pix import Pix2Pix

SHORT = GameRecipe(updates=9, batch_size=4)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(float) / 255


def rounded(image):
    return (image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1) * 255).round().numpy() / 255


@pytest.fixture(scope="module")
def labelled():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, (60, 1, 4, 4), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    colours = torch.tensor([[0.1, 0.2, 0.9], [0.9, 0.8, 0.1], [0.2, 0.9, 0.3]])
    return pf.load(ids, colours[ids[:, 0]].permute(0, 3, 1, 2), task="translation", classes=("sky", "sun", "tree"))


@pytest.fixture(scope="module")
def unpaired(labelled):
    images = labelled.train.targets
    return pf.load(images[:20], 1 - images[20:], task="translation", validation=4)


@pytest.fixture(scope="module")
def paired_form(labelled):
    return Pix2Pix(width=4, training=SHORT).fit(None, labelled)


@pytest.fixture(scope="module")
def styled_form(unpaired):
    return TSIT(preset="tiny", training=SHORT).fit(None, replace(unpaired, paired=False))


@pytest.fixture(scope="module")
def pairs_of_styles(labelled):
    """One pair to judge by, and a form that reads styles."""
    images = labelled.train.targets
    data = pf.load(images, 1 - images, task="translation", validation=4)
    data = replace(data, test=Split(data.test.inputs[:1], data.test.targets[:1]))
    return data, TSIT(preset="tiny", style=True, training=SHORT).fit(None, data)


def found(findings, name):
    return {made.condition["part"]: made for made in findings.pictures if made.name == name}


def test_held_out_images_are_the_first_of_the_test_split(labelled, paired_form):
    shown = found(measure_translations(paired_form, labelled), "translation")
    assert list(shown) == ["content", "output", "truth"]
    outputs = paired_form.translate(labelled.test.inputs[:12])
    for place in range(12):
        assert np.allclose(pixels(shown["output"].png[place]), rounded(outputs[place]), atol=1e-6)
        assert np.allclose(pixels(shown["truth"].png[place]), rounded(labelled.test.targets[place]), atol=1e-6)
        own = coloured(labelled.test.inputs[place : place + 1], 3)[0]
        assert np.allclose(pixels(shown["content"].png[place]), rounded(own), atol=1e-6)


def test_a_form_of_one_answer_shows_no_styles(labelled, paired_form):
    names = {made.name for made in measure_translations(paired_form, labelled).pictures}
    assert names == {"translation", "training", "ranked", "classes"}


def test_every_content_takes_the_style_beside_it(unpaired, styled_form):
    data = replace(unpaired, paired=False)
    findings = measure_translations(styled_form, data)
    shown = found(findings, "translation")
    assert list(shown) == ["content", "style", "output"]
    contents, styles = data.test.inputs[:4], data.test.targets[:4]
    for place in range(4):
        own = styled_form.translate(contents[place : place + 1], styles[place : place + 1])[0]
        assert np.allclose(pixels(shown["output"].png[place]), rounded(own), atol=2 / 255)
        assert np.allclose(pixels(shown["style"].png[place]), rounded(styles[place]), atol=1e-6)
    grid = found(findings, "styles")
    across = len(grid["style"].png)
    other = styled_form.translate(contents[1:2], styles[2:3])[0]
    assert np.allclose(pixels(grid["output"].png[across + 2]), rounded(other), atol=2 / 255)


def test_interpolation_ends_at_both_styles(unpaired, styled_form):
    data = replace(unpaired, paired=False)
    shown = found(measure_translations(styled_form, data), "interpolation")
    shares = shown["output"].columns["share"][:5]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(shown["style"].png) == 2
    content, last = data.test.inputs[1:2], min(5, len(data.test.targets)) - 1
    for share, style in ((0, 0), (4, last)):
        own = styled_form.translate(content, data.test.targets[style : style + 1])[0]
        assert np.allclose(pixels(shown["output"].png[5 + share]), rounded(own), atol=2 / 255)


def test_training_is_shown_over_its_updates(labelled, paired_form):
    shown = found(measure_translations(paired_form, labelled), "training")
    output = shown["output"]
    assert output.columns["update"] == [1, 2, 4, 9] * 4
    assert len(output.png) == 16
    assert not any((pixels(png) == 0).all() for png in output.png)
    last = paired_form.translate(labelled.validation.inputs[:4])
    for place in range(4):
        assert np.allclose(pixels(output.png[4 * place + 3]), rounded(last[place]), atol=2 / 255)


def test_a_form_of_eight_times_shows_those_that_were_made(labelled, paired_form):
    from copy import copy

    form = copy(paired_form)
    form.snapshots = torch.cat([torch.zeros_like(form.snapshots), form.snapshots])
    expected, shown = (found(measure_translations(own, labelled), "training") for own in (paired_form, form))
    assert shown["output"] == expected["output"]


def test_the_style_of_a_single_pair_is_no_truth_of_its_own(pairs_of_styles):
    data, form = pairs_of_styles
    shown = found(measure_translations(form, data), "translation")
    assert len(shown["style"].png) == len(shown["output"].png) == 1
    assert np.allclose(pixels(shown["style"].png[0]), rounded(data.train.targets[0]), atol=1e-6)
    assert not np.allclose(pixels(shown["style"].png[0]), pixels(shown["truth"].png[0]), atol=0.1)


class ByColour(nn.Module):
    """Labels every pixel by the nearest colour."""

    def forward(self, images):
        colours = torch.tensor([[0.1, 0.2, 0.9], [0.9, 0.8, 0.1], [0.2, 0.9, 0.3]])
        return -(images[:, None] - colours[None, :, :, None, None]).square().sum(2)


@pytest.mark.parametrize("judge", [None, ByColour()])
def test_best_and_worst_are_those_of_their_score(labelled, paired_form, judge):
    findings = measure_translations(paired_form, labelled, segmentation=judge)
    columns = found(findings, "ranked")["output"].columns
    outputs = paired_form.translate(labelled.test.inputs)
    told = findings.protocol["translations"]["ranked"]
    if judge is None:
        from pluriform.metrics.images import ssim_terms

        scores = ssim_terms(outputs, labelled.test.targets)
        assert told["by"] == "SSIM to the truth"
    else:
        hits = judge(outputs).argmax(1) == labelled.test.inputs[:, 0]
        scores = hits.double().flatten(1).mean(1)
        assert told["by"] == "label accuracy"
    order = scores.sort(descending=True).values
    assert columns["score"] == pytest.approx([*order[:4].tolist(), *order[-4:].tolist()], abs=1e-6)
    assert [float(scores[int(sample)]) for sample in columns["sample"]] == pytest.approx(columns["score"], abs=1e-6)
    assert told["mean"] == pytest.approx(float(scores.mean()), abs=1e-6)


def test_losses_are_the_history(labelled, paired_form):
    (curve,) = measure_translations(paired_form, labelled).curves
    assert curve.name == "losses"
    assert curve.columns["update"] == [float(place) for place in range(1, 10)]
    assert curve.columns["l1"] == paired_form.history["l1"]


@pytest.mark.parametrize(("updates", "last"), [(7, [6.0, 7.0]), (120, [117.0, 120.0]), (101, [99.0, 101.0])])
def test_updates_of_spans(paired_form, labelled, updates, last):
    from copy import copy

    form = copy(paired_form)
    every = -(-updates // 50)
    form.history = {"generator": [0.0] * -(-updates // every)}
    form.cost = {"updates": updates}
    form.snapshots = None
    assert measure_translations(form, labelled).curves[0].columns["update"][-2:] == last


def test_nothing_is_shown_of_what_remembers_nothing(labelled):
    class Plain:
        def translate(self, content, style=None, *, seed=0):
            return content

    assert measure_translations(Plain(), labelled) == type(measure_translations(Plain(), labelled))()


def test_classes_have_colours_of_their_own():
    colours = palette(20)
    distances = torch.cdist(colours, colours) + torch.eye(20)
    assert float(distances.min()) > 0.1
    assert palette(1).shape == (1, 3)


def test_evaluate_takes_judges_of_translators_only(labelled, paired_form):
    result = pf.evaluate(paired_form, labelled, segmentation=ByColour())
    ceiling = next(m for m in result.measures if m.name == "miou" and m.condition)
    assert ceiling.value == pytest.approx(1)
    assert {"losses"} <= {curve.name for curve in result.curves}
    digits = pf.load("digits")
    with pytest.raises(ConfigError, match="a translator for these"):
        pf.evaluate(pf.nets.build("mlp", digits), digits, segmentation=ByColour())


def test_few_images_are_not_ranked(labelled, paired_form):
    few = replace(labelled, test=Split(labelled.test.inputs[:5], labelled.test.targets[:5]))
    findings = measure_translations(paired_form, few)
    assert not found(findings, "ranked")
    assert findings.protocol["translations"]["ranked"] == {"by": "too few images"}
