from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import ConfigError
from pluriform.translate.distilled import DistilledTranslation
from pluriform.translate.fit import TSIT
from pluriform.translate.game import Game
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.cyclegan import CycleGAN
from pluriform.translate.rivals.munit import MUNIT
from pluriform.translate.rivals.pix2pix import Pix2Pix
from pluriform.translate.rivals.spade import SPADE

RECIPE = GameRecipe(updates=6, batch_size=4)
CASES = {
    "pix2pix": (Pix2Pix(width=4, training=RECIPE), "pairs"),
    "pix2pix of labels": (Pix2Pix(width=4, training=RECIPE), "labelled"),
    "spade": (SPADE(width=4, cap=2, hidden=4, discriminator_width=4, training=RECIPE), "labelled"),
    "spade with encoder": (
        SPADE(width=4, cap=2, hidden=4, discriminator_width=4, encoder=True, training=RECIPE),
        "labelled",
    ),
    "cyclegan": (CycleGAN(width=4, blocks=1, training=RECIPE), "unpaired"),
    "munit": (MUNIT(width=4, blocks=1, training=RECIPE), "unpaired"),
}


@pytest.mark.parametrize(
    ("method", "name", "value", "least"),
    [
        (Pix2Pix, "width", 0, 1),
        (Pix2Pix, "l1", float("nan"), 0),
        (CycleGAN, "blocks", 0, 1),
        (CycleGAN, "cycle", -1, 0),
        (MUNIT, "style", 0, 1),
        (MUNIT, "codes", float("inf"), 0),
        (SPADE, "hidden", 0, 1),
        (SPADE, "l1", -1, 0),
    ],
)
def test_numbers_that_mean_nothing(method, name, value, least):
    with pytest.raises(ConfigError, match=f"expected {name} of {least} or more; got {value} .{method.__name__}"):
        method(**{name: value})


def test_networks_that_nothing_would_read_are_refused(pairs, unpaired):
    """Silently left out, they would seem to have been used."""
    module = nn.Conv2d(3, 2, 3)
    for method, data in ((Pix2Pix(width=4), pairs), (CycleGAN(width=4), unpaired), (MUNIT(width=4), unpaired)):
        with pytest.raises(ConfigError, match="no network: this method reads no features; got Conv2d"):
            method.fit(module, data)
    with pytest.raises(ConfigError, match=r"reads no features; got Conv2d .Pix2Pix"):
        DistilledTranslation("nowhere", Pix2Pix(width=4)).fit(module, pairs)


@pytest.fixture(params=sorted(CASES))
def case(request):
    method, name = CASES[request.param]
    return method, request.getfixturevalue(name)


def test_resumed_equals_uninterrupted_and_loaded(case, tmp_path, monkeypatch):
    method, data = case
    whole = method.fit(None, data, seed=5)
    monkeypatch.setattr("pluriform.training.iterations.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("pluriform.training.iterations.CHECKPOINT_SHARE", 1e9)
    step = Game.step

    def killed(game, update):
        if update == 4:
            raise MemoryError("killed")
        return step(game, update)

    monkeypatch.setattr(Game, "step", killed)
    with pytest.raises(MemoryError, match="killed"):
        method.fit(None, data, seed=5, run=tmp_path / "run")
    monkeypatch.setattr(Game, "step", step)
    resumed = method.fit(None, data, seed=5, run=tmp_path / "run")
    first, second = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    content = data.test.inputs
    images = whole.translate(content, seed=1)
    assert images.shape == (len(content), 3, 16, 16)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(pf.load_form(tmp_path / "run").translate(content, seed=1), images)
    text = (tmp_path / "run" / "log.jsonl").read_text()
    assert '"told_apart"' in text
    assert whole.facts["discriminator_parameters"] > 0


def test_which_draw_several(case):
    method, data = case
    form = method.fit(None, data, seed=1)
    several = isinstance(method, MUNIT) or getattr(method, "encoder", False)
    if several:
        first, second = form.draw(data.test.inputs, 2)
        assert (first - second).abs().max() > 1e-6
    else:
        with pytest.raises(ConfigError, match="several styles"):
            form.draw(data.test.inputs, 2)


def test_pix2pix_overfits_one_pair(pairs):
    one = replace(pairs, train=pf.Split(pairs.train.inputs[:2], pairs.train.targets[:2]))
    recipe = GameRecipe(150, 2, 4e-3, 1e-4, beta1=0.5, beta2=0.999, ema=None, flip=0)
    form = Pix2Pix(width=8, training=recipe).fit(None, one)
    error = (form.translate(one.train.inputs) - one.train.targets).abs().mean()
    assert form.history["l1"][-1] < 0.3 * form.history["l1"][0]
    assert 2 * error < 0.3  # In [-1, 1]; BatchNorm of two images is another thing in use, dropout is on in training.


def test_what_they_need_is_said(pairs, unpaired, labelled):
    with pytest.raises(ConfigError, match="pairs of images; got arrays, whose sides are no pairs .Pix2Pix"):
        Pix2Pix(training=RECIPE).fit(None, unpaired)
    with pytest.raises(ConfigError, match="label maps as inputs; got arrays, whose inputs are pictures .SPADE"):
        SPADE(training=RECIPE).fit(None, pairs)
    for method in (CycleGAN(training=RECIPE), MUNIT(training=RECIPE)):
        with pytest.raises(ConfigError, match="pictures on both sides; got arrays, whose inputs are label maps"):
            method.fit(None, labelled)


def test_pairs_are_taken_apart_where_they_are_not_needed(pairs):
    form = CycleGAN(width=4, blocks=1, training=RECIPE).fit(None, pairs)
    assert form.facts["task"] == "unpaired"


def test_methods_survive_json():
    from pluriform.encoding import record_from_json

    for method, _ in CASES.values():
        assert record_from_json(method.to_json()) == method
        missing = [
            name for name in (field.name for field in fields(method)) if f" {name}: " not in type(method).__doc__
        ]
        assert not missing


def test_a_classifier_holds_the_content(pairs, labelled):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for method, data in (
        (TSIT(preset="tiny", training=RECIPE), pairs),
        (TSIT(preset="tiny", task="style-transfer", training=RECIPE), pairs),
        (CASES["spade"][0], labelled),
    ):
        form = method.fit(network, data)
        assert form.facts["extractor"].startswith("Sequential at 1, 4, weights ")
        assert len(form.history["perceptual"]) == 6
        assert "l1" not in form.history
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.training


def test_other_extractors_and_networks_that_do_not_fit(pairs):
    from pluriform.errors import ShapeError
    from pluriform.translate.perceptual import random_extractor

    method = TSIT(preset="tiny", training=RECIPE)
    form = method.fit(random_extractor(3, layers=2, width=4), pairs)
    assert form.facts["extractor"].startswith("random network, seed 0, weights ")
    with pytest.raises(ShapeError, match=r"a network that takes images of shape .3, 16, 16."):
        method.fit(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), pairs)
