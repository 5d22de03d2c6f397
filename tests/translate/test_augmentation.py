"""Translation as augmentation: what stays, what changes, and that a classifier gains by it in the other domain."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pluriform as pf
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import BoundsError, ConfigError, ShapeError
from pluriform.metrics.classification import accuracy
from pluriform.translate.augmentation import mixed_with_translations
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.cyclegan import CycleGAN
from pluriform.translate.scale import Scale
from pluriform.translate.translated import Painter, Translated


class Negative(nn.Module):
    """Black for white."""

    def forward(self, images):
        return -images


class Tint(Painter):
    """The content, half as strong, on the mean colour of the style."""

    def forward(self, content, style, seed, alpha):
        return 0.5 * content + 0.5 * style.mean((2, 3), keepdim=True)


class Noisy(Painter):
    """The content shifted by a number that the seed draws."""

    def forward(self, content, style, seed, alpha):
        return 0.5 * content + 0.5 * torch.rand(1, generator=torch.Generator().manual_seed(seed))


def coloured(count=60, classes=3, bounds=(0.0, 1.0)):
    """Images of one grey each, so that where one went can be read off; a label each."""
    images = torch.linspace(0.1, 0.9, count)[:, None, None, None].expand(count, 3, 6, 6).clone()
    labels = torch.arange(count) % classes
    split = Split(images, labels)
    names = tuple(f"class {number}" for number in range(classes))
    return Data("greys", "classification", split, Split(images[:6], labels[:6]), split, names, bounds)


def form_of(painter, styles=None, outputs=3, classes=0, channels=3):
    """A fitted translator of pictures without any training."""
    signature = replace(coloured().signature, task="translation", classes=())
    scale = Scale(0.0, 1.0, classes, channels, outputs)
    return Translated(painter, signature, scale, styles, history={}, facts={}, cost={}, events=[])


def patches(count=20):
    """Images of one colour each, all different."""
    return torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(1)).expand(count, 3, 4, 4).clone()


def test_share_stays_and_the_rest_is_translated_in_place():
    data = coloured()
    before = data.train.inputs.clone()
    found = form_of(Painter(Negative())).augment(data, originals=0.25, seed=3)
    same = (found.train.inputs - before).flatten(1).abs().amax(1) < 1e-6
    assert int(same.sum()) == 15
    assert torch.allclose(found.train.inputs[~same], 1 - before[~same], atol=1e-6)
    assert torch.equal(found.train.targets, data.train.targets)
    assert torch.bincount(found.train.targets[same]).tolist() == [5, 5, 5]  # By class share.
    assert torch.equal(data.train.inputs, before)
    assert found.validation is data.validation
    assert found.test is data.test
    assert found.classes == data.classes


def test_nothing_stays_where_no_originals_are_wanted():
    data = coloured()
    found = form_of(Painter(Negative())).augment(data, originals=0)
    assert torch.allclose(found.train.inputs, 1 - data.train.inputs, atol=1e-6)


def test_every_image_takes_the_style_of_one_reference():
    data, references = coloured(), patches()
    found = form_of(Tint(nn.Identity(), reads_style=True), patches(2)).augment(data, originals=0, references=references)
    tints = 2 * found.train.inputs[:, :, 0, 0] - data.train.inputs[:, :, 0, 0]
    distances = (tints[:, None] - references[None, :, :, 0, 0]).abs().amax(2)
    assert float(distances.min(1).values.max()) < 1e-5
    assert len(distances.argmin(1).unique()) > 12  # Of 20, in 60 draws.
    neighbours = distances.argmin(1)
    assert not torch.equal(neighbours[:28], neighbours[32:])  # Every batch draws anew.


def test_without_references_the_remembered_styles_serve():
    data, styles = coloured(), patches(4)
    found = form_of(Tint(nn.Identity(), reads_style=True), styles).augment(data, originals=0)
    tints = 2 * found.train.inputs[:, :, 0, 0] - data.train.inputs[:, :, 0, 0]
    distances = (tints[:, None] - styles[None, :, :, 0, 0]).abs().amax(2)
    assert float(distances.min(1).values.max()) < 1e-5
    assert len(distances.argmin(1).unique()) == 4


def test_versions_stand_one_after_the_other_with_draws_of_their_own():
    data = coloured()
    form = form_of(Noisy(nn.Identity(), draws=True))
    found = form.augment(data, versions=3, seed=1)
    assert torch.equal(found.train.targets, data.train.targets.repeat(3))
    stays = (found.train.inputs == data.train.inputs.repeat(3, 1, 1, 1)).flatten(1).all(1).view(3, -1)
    assert stays.sum(1).tolist() == [30, 30, 30]
    assert not torch.equal(stays[0], stays[1])
    shift = (2 * found.train.inputs - data.train.inputs.repeat(3, 1, 1, 1))[:, 0, 0, 0].view(3, -1)
    assert len(shift[~stays].round(decimals=4).unique()) == 3  # 30 translations of a version share one draw of noise.


def test_seed_decides_and_nothing_else():
    data, form = coloured(), form_of(Tint(nn.Identity(), reads_style=True), patches(9))
    torch.manual_seed(1)
    one = form.augment(data, seed=5)
    torch.manual_seed(2)
    other, third = form.augment(data, seed=5), form.augment(data, seed=6)
    assert torch.equal(one.train.inputs, other.train.inputs)
    assert not torch.equal(one.train.inputs, third.train.inputs)
    assert one.fingerprint != data.fingerprint


def test_values_of_regression_stay_too():
    images = coloured().train.inputs
    values = torch.rand(60, 2)
    split = Split(images, values)
    data = Data("greys", "regression", split, split, split, (), (0.0, 1.0))
    found = form_of(Noisy(nn.Identity(), draws=True)).augment(data, versions=2)
    assert torch.equal(found.train.targets, values.repeat(2, 1))


def test_classifier_gains_in_the_domain_of_the_translations():
    """Handwritten digits in negative: the translator is right, so what it teaches must carry over."""
    data = pf.load("digits", validation=0)
    low, high = data.bounds
    scale = Scale(low, high, 0, 1, 1)
    signature = replace(data.signature, task="translation", classes=())
    form = Translated(Painter(Negative()), signature, scale, None, history={}, facts={}, cost={}, events=[])
    method, net = pf.Training(epochs=5), pf.nets.build("mlp", data)
    negative = low + high - data.test.inputs
    figures = {}
    for name, own in (("source", data), ("translated", form.augment(data))):
        fitted = method.fit(net, own)
        figures[name] = [
            float(accuracy(fitted.predict(images).mean, data.test.targets)) for images in (data.test.inputs, negative)
        ]
    assert figures["source"][1] < 0.5
    assert figures["translated"][1] > 0.85
    assert figures["translated"][0] > figures["source"][0] - 0.05


def test_fitted_translator_of_one_look():
    """CycleGAN has no styles: one version, translated by what `translate` gives."""
    data = coloured(24)
    images = data.train.inputs.repeat_interleave(2, 2).repeat_interleave(2, 3)
    data = replace(data, train=Split(images, data.train.targets), validation=Split(images[:3], data.train.targets[:3]))
    sides = pf.load(images, 1 - images[:18], task="translation", validation=0, bounds=(0.0, 1.0))
    form = CycleGAN(width=4, blocks=1, training=GameRecipe(updates=2, batch_size=2)).fit(None, sides)
    found = form.augment(data, originals=0)
    assert torch.allclose(found.train.inputs, form.translate(images), atol=1e-5)
    with pytest.raises(ConfigError, match="a translator of several styles; got one of one"):
        form.augment(data, versions=2)


def test_refusals():
    data, form = coloured(), form_of(Painter(Negative()))
    with pytest.raises(ConfigError, match=r"originals in \[0, 1\); got 1"):
        form.augment(data, originals=1)
    with pytest.raises(ConfigError, match="at least 1 version; got 0"):
        form.augment(data, versions=0)
    with pytest.raises(BoundsError, match=r"bounds \(0.0, 1.0\); got \(-1.0, 1.0\)"):
        form.augment(coloured(bounds=(-1.0, 1.0)))
    grey = replace(data, train=Split(data.train.inputs[:, :1], data.train.targets))
    with pytest.raises(ShapeError, match="images of 3 channels that become 3; got .*expand"):
        form.augment(grey)
    with pytest.raises(ShapeError, match="which become 1"):
        form_of(Painter(Negative()), outputs=1).augment(data)
    with pytest.raises(ConfigError, match="a translator of pictures; got one of label maps"):
        form_of(Painter(Negative()), classes=3).augment(data)
    styled = form_of(Tint(nn.Identity(), reads_style=True), patches(2))
    with pytest.raises(ShapeError, match="style"):
        styled.augment(data, references=patches()[:0])
    with pytest.raises(ShapeError, match="style"):
        styled.augment(data, references=patches()[:, :1])
    with pytest.raises(ConfigError, match="labelled images in memory; got data for translation"):
        form.augment(replace(data, task="translation", classes=()))
    streamed = StreamSplit(TensorDataset(data.train.inputs, data.train.targets), torch.arange(60))
    with pytest.raises(ConfigError, match="labelled images in memory; got samples read on demand"):
        mixed_with_translations(replace(data, train=streamed), lambda images, seed: images, 0.5, 1, 0)
