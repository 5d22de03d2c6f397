import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import ConfigError, ShapeError
from pluriform.translate.distilled import DistilledTranslation
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.munit import MUNIT
from pluriform.translate.rivals.pix2pix import Pix2Pix
from pluriform.translate.scale import Scale
from pluriform.translate.spectral_norm import SpectralConv2d
from pluriform.translate.translated import Painter, Translated

SHORT = GameRecipe(updates=3, batch_size=4)


class Shifted(nn.Module):
    """Colours in another order, which no pair of the data shows."""

    def forward(self, images):
        return images.roll(1, 1)


@pytest.fixture(scope="module")
def wide(pairs, tmp_path_factory):
    painter = Painter(Shifted())
    form = Translated(painter, pairs.signature, Scale.of(pairs), None, history={}, facts={}, cost={}, events=[])
    path = tmp_path_factory.mktemp("wide") / "form"
    form.origin = {"label": "colours in another order"}
    form.save(path)
    return str(path)


def test_thin_translator_follows_the_wide_one_not_the_truth(pairs, wide):
    game = GameRecipe(updates=100, batch_size=8, generator_rate=5e-3, discriminator_rate=1e-5, beta1=0.5, ema=None)
    method = DistilledTranslation(wide, Pix2Pix(width=8, l1=0.0, training=game), weight=100.0)
    form = method.fit(None, pairs)
    contents = pairs.train.inputs
    found = form.translate(contents)
    to_wide = float((found - contents.roll(1, 1)).abs().mean())
    to_truth = float((found - pairs.train.targets).abs().mean())
    assert to_wide < 0.5 * to_truth
    assert form.history["wide"][-1] < 0.5 * form.history["wide"][0]


def test_weight_zero_is_the_thin_method_alone(pairs, wide):
    thin = TSIT(preset="tiny", training=SHORT)  # Without dropout, whose draws have the name of the method.
    alone, taught = thin.fit(None, pairs, seed=3), DistilledTranslation(wide, thin, 0.0).fit(None, pairs, seed=3)
    assert torch.equal(alone.translate(pairs.test.inputs), taught.translate(pairs.test.inputs))
    assert "wide" not in taught.history


def test_loss_is_the_distance_to_the_wide_image(pairs, wide):
    thin = TSIT(preset="tiny", training=GameRecipe(updates=1, batch_size=4, generator_rate=1e-12, flip=0.0, ema=None))
    form = DistilledTranslation(wide, thin, weight=7.0).fit(None, pairs)
    parts = {name: values[0] for name, values in form.history.items()}
    others = sum(parts[name] for name in ("adversarial", "feature_matching", "l1"))
    assert parts["generator"] == pytest.approx(others + parts["wide"], rel=1e-5)
    outputs = form.translate(pairs.train.inputs) * 2 - 1
    wanted = pairs.train.inputs.roll(1, 1) * 2 - 1
    each = 7.0 * (outputs - wanted).abs().flatten(1).mean(1)
    assert each.min() * 0.9 < parts["wide"] < each.max() * 1.1


def test_wide_one_is_told_and_not_stored(pairs, wide, tmp_path):
    form = DistilledTranslation(wide, Pix2Pix(width=4, training=SHORT)).fit(None, pairs, run=tmp_path / "run")
    assert form.facts["wide"].startswith("colours in another order, weights ")
    assert not any(isinstance(part, Shifted) for part in form.modules())
    again = pf.load_form(tmp_path / "run")
    assert torch.equal(again.translate(pairs.test.inputs), form.translate(pairs.test.inputs))


def test_style_of_the_batch_reaches_the_wide_one(unpaired, tmp_path):
    path = TSIT(preset="tiny", training=SHORT).fit(None, unpaired).save(tmp_path / "wide")
    form = DistilledTranslation(str(path), TSIT(preset="tiny", levels=2, training=SHORT)).fit(None, unpaired)
    assert form.reads_style
    assert form.history["wide"][0] > 0


def test_a_wide_one_whose_directions_are_too_short_shows_what_its_weights_say(pairs, tmp_path):
    wide = TSIT(preset="tiny", training=SHORT).fit(None, pairs)
    thin = TSIT(preset="tiny", levels=2, training=SHORT)
    taught = DistilledTranslation(str(wide.save(tmp_path / "wide")), thin).fit(None, pairs)
    for part in wide.modules():
        if isinstance(part, SpectralConv2d):
            part.u.mul_(0.7)
    again = DistilledTranslation(str(wide.save(tmp_path / "short")), thin).fit(None, pairs)
    assert again.history["wide"] == pytest.approx(taught.history["wide"], rel=1e-4)


def test_refusals(pairs, labelled, wide, tmp_path):
    thin = Pix2Pix(width=4, training=SHORT)
    with pytest.raises(ConfigError, match="the folder of a wide translator; got none"):
        DistilledTranslation(None, thin).fit(None, pairs)
    with pytest.raises(ShapeError, match="fit the wide translator on the same data"):
        DistilledTranslation(wide, thin).fit(None, labelled)
    with pytest.raises(ConfigError, match="a game of one generator; got MUNIT"):
        DistilledTranslation(wide, MUNIT(width=4, training=SHORT)).fit(None, pairs)
    digits = pf.load("digits")
    pf.Training(epochs=1).fit(pf.nets.build("mlp", digits), digits).save(tmp_path / "classifier")
    with pytest.raises(ConfigError, match="a fitted translator; got Network"):
        DistilledTranslation(str(tmp_path / "classifier"), thin).fit(None, pairs)
    with pytest.raises(ConfigError, match="weight of 0 or more"):
        DistilledTranslation(wide, thin, -1.0)
