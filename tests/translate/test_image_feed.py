from dataclasses import replace

import pytest
import torch

from pluriform.data.data import Split
from pluriform.errors import ConfigError
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageFeed
from pluriform.translate.scale import Scale

CPU = torch.device("cpu")


def feed(data, seed=0, **options):
    return ImageFeed(data, GameRecipe(**options), Scale.of(data), seed, CPU)


def test_pairs_stay_together_under_flips_and_crops(pairs):
    made = feed(pairs, batch_size=5, crop=7)
    for update in range(6):
        batch = made.at(update)
        assert batch.content.shape == (5, 3, 7, 7)
        torch.testing.assert_close(batch.target, -batch.content)  # The targets are the inverted contents.


def test_flips_mirror_and_nothing_else(pairs):
    plain, mirrored = (feed(pairs, batch_size=4, flip=flip).at(3) for flip in (0, 1))
    assert torch.equal(plain.content.flip(-1), mirrored.content)
    some = feed(pairs, batch_size=16, flip=0.5).at(3).content
    same = (some == feed(pairs, batch_size=16, flip=0).at(3).content).flatten(1).all(1)
    assert 0 < same.sum() < 16


def test_every_epoch_sees_every_pair_once(pairs):
    count = len(pairs.train)
    made = feed(pairs, batch_size=1, flip=0)
    epochs = [[made.at(epoch * count + i).content.sum().item() for i in range(count)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == count
    assert epochs[0] != epochs[1]


def test_batches_depend_on_seed_and_update_alone(pairs):
    made = feed(pairs, batch_size=3, crop=8)
    wanted = [made.at(update) for update in range(20)]
    late = feed(pairs, batch_size=3, crop=8)
    for update in (19, 7, 8, 0):
        assert torch.equal(late.at(update).content, wanted[update].content)
    assert not torch.equal(feed(pairs, 1, batch_size=3, crop=8).at(0).content, wanted[0].content)
    assert torch.equal(wanted[3].generator("a").get_state(), late.at(3).generator("a").get_state())


def test_unpaired_sides_meet_anew(unpaired):
    first, second = len(unpaired.train.inputs), len(unpaired.train.targets)
    assert first > second
    made = feed(unpaired, batch_size=1, flip=0)
    seen = [[(side.sum().item()) for side in (batch.content, batch.target)] for batch in map(made.at, range(2 * first))]
    assert len({content for content, _ in seen[:first]}) == first
    assert len({target for _, target in seen[:second]}) == second
    assert dict(seen[:first]) != dict(seen[first:])


def test_label_maps_become_channels(labelled):
    batch = feed(labelled, batch_size=4).at(0)
    assert batch.content.shape == (4, 3, 16, 16)
    assert torch.equal(batch.content.sum(1), torch.ones(4, 16, 16))
    assert float(batch.target.min()) < -0.5


def test_crops_larger_than_images_are_refused(pairs, unpaired):
    with pytest.raises(ConfigError, match="a crop of at most 16 pixels; got crop=17 for images of 16x16"):
        feed(pairs, crop=17)
    small = replace(unpaired, train=Split(unpaired.train.inputs, unpaired.train.targets[..., :10]))
    with pytest.raises(ConfigError, match="a crop of at most 10 pixels; got crop=12 for images of 16x16 and 16x10"):
        feed(small, crop=12)
