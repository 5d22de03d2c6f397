from dataclasses import replace

import torch

import pluriform as pf
from pluriform.translate.album import some_styles
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.translated import moments_of


def test_styles_are_drawn_of_every_kind(unpaired):
    targets = torch.arange(30.0).view(30, 1, 1, 1).expand(30, 3, 4, 4) / 30
    styles = torch.tensor([0] * 24 + [1] * 4 + [2] * 2)
    data = replace(unpaired, train=pf.Split(unpaired.train.inputs, targets, styles), styles=("a", "b", "c"))
    found = some_styles(data, 6, seed=0)
    kinds = styles[(found[:, 0, 0, 0] * 30).round().long()]
    assert kinds.bincount().tolist() == [2, 2, 2]
    assert torch.equal(found, some_styles(data, 6, seed=0))
    assert not torch.equal(found, some_styles(data, 6, seed=1))
    assert len(some_styles(unpaired, 100, 0)) == len(unpaired.train.targets)


def test_short_trainings_keep_one_row_a_moment(pairs):
    form = TSIT(preset="tiny", training=GameRecipe(updates=3, batch_size=4)).fit(None, pairs)
    assert form.moments == [1, 2, 3]
    assert form.snapshots.shape == (3, 2, 3, 16, 16)
    assert all(picture.any() for picture in form.snapshots)


def test_moments_are_those_of_halves():
    assert moments_of(1) == [1]
    assert moments_of(95) == [1, 3, 6, 12, 24, 48, 95]
    assert moments_of(96) == [1, 2, 3, 6, 12, 24, 48, 96]
    assert moments_of(4000) == [31, 62, 125, 250, 500, 1000, 2000, 4000]
