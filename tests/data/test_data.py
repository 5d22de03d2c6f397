import dataclasses

import pytest
import torch
from torch.utils.data import TensorDataset

from pluriform.data.check import check_fit_data
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import BoundsError, ConfigError, LabelError, NonFiniteError, ShapeError


def toy(counts=(10, 20, 30), **changes):
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    inputs = torch.arange(len(targets), dtype=torch.float32)[:, None, None].expand(-1, 2, 2).contiguous() / 100
    part = Split(inputs, targets)
    names = tuple("abcdef"[: len(counts)])
    return dataclasses.replace(Data("toy", "classification", part, part, part, names, (0.0, 1.0)), **changes)


def numbers(inputs):
    return (inputs[:, 0, 0] * 100).round().long()


@pytest.mark.parametrize("count", [3, 6, 21, 30])
def test_as_many_labels_of_each_class(count):
    data = toy().with_labels(count)
    assert torch.bincount(data.train.targets).tolist() == [count // 3] * 3
    assert len(data.train) == count
    assert len(data.unlabelled) == 60 - count


def test_every_sample_stays_once_and_keeps_its_label():
    whole = toy()
    data = whole.with_labels(17)
    assert torch.equal(whole.train.targets[numbers(data.train.inputs)], data.train.targets)
    both = torch.cat([numbers(data.train.inputs), numbers(data.unlabelled)])
    assert torch.equal(both.sort().values, torch.arange(60))
    counts = torch.bincount(data.train.targets)
    assert int(counts.max() - counts.min()) == 1
    assert data.test is whole.test
    assert data.validation is whole.validation


def test_a_class_that_is_too_small_gives_all_that_it_has():
    data = toy((2, 20, 30)).with_labels(20)
    assert torch.bincount(data.train.targets).tolist() == [2, 9, 9]


def test_the_choice_is_that_of_the_seed_and_leaves_the_default_generator_alone():
    state = torch.get_rng_state()
    first, second, other = (numbers(toy().with_labels(9, seed=s).train.inputs) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_unlabelled_samples_are_added_to_those_that_are_there():
    more = torch.full((5, 2, 2), 0.99)
    data = toy(unlabelled=more).with_labels(30)
    assert len(data.unlabelled) == 35
    assert torch.equal(data.unlabelled[-5:], more)
    again = data.with_labels(12)
    assert len(again.unlabelled) == 53
    assert toy().with_labels(60).unlabelled is None
    assert torch.equal(toy(unlabelled=more).with_labels(60).unlabelled, more)


@pytest.mark.parametrize("count", [0, 2, 61, -3])
def test_counts_that_cannot_be(count):
    with pytest.raises(ConfigError, match=f"expected 3 to 60 labels.*got {count} labels"):
        toy().with_labels(count)


def test_streams_and_regression_have_no_labels_to_leave_out():
    stream = StreamSplit(TensorDataset(torch.zeros(60, 2, 2), torch.zeros(60)), torch.arange(60))
    with pytest.raises(ConfigError, match="in memory"):
        toy(train=stream).with_labels(6)
    part = Split(torch.zeros(9, 2), torch.zeros(9, 1))
    with pytest.raises(ConfigError, match="in classification"):
        Data("line", "regression", part, part, part).with_labels(3)


def test_unlabelled_samples_count_in_the_fingerprint():
    plain = toy()
    first, second = toy(unlabelled=torch.zeros(4, 2, 2)), toy(unlabelled=torch.zeros(4, 2, 2))
    other = toy(unlabelled=torch.full((4, 2, 2), 0.5))
    assert first.fingerprint == second.fingerprint
    assert len({plain.fingerprint, first.fingerprint, other.fingerprint}) == 3
    assert first.signature == plain.signature


def test_good_unlabelled_samples_pass():
    check_fit_data(toy(unlabelled=torch.rand(7, 2, 2)))
    check_fit_data(toy(unlabelled=torch.rand(0, 2, 2)))
    check_fit_data(toy().with_labels(6))
    part = Split(torch.zeros(9, 2), torch.arange(9.0)[:, None])
    check_fit_data(Data("line", "regression", part, part, part, unlabelled=torch.zeros(3, 2)))


@pytest.mark.parametrize(
    ("unlabelled", "error", "words"),
    [
        (torch.zeros(4, 3, 2), ShapeError, r"inputs of shape \(2, 2\).*toy\.unlabelled"),
        (torch.zeros(4, 2, 2, dtype=torch.uint8), ShapeError, r"floating-point inputs.*toy\.unlabelled"),
        (torch.zeros(4, 2, 2).double(), ShapeError, r"torch\.float32.*torch\.float64.*toy\.unlabelled"),
        (torch.full((4, 2, 2), 1.5), BoundsError, r"toy\.unlabelled, first in sample 0"),
        (torch.full((4, 2, 2), float("nan")), NonFiniteError, r"toy\.unlabelled, sample 0"),
        (torch.zeros(4), ShapeError, r"toy\.unlabelled"),
    ],
)
def test_bad_unlabelled_samples(unlabelled, error, words):
    with pytest.raises(error, match=words):
        check_fit_data(toy(unlabelled=unlabelled))


def test_labels_of_minus_one_are_told_where_to_go():
    data = toy()
    targets = data.train.targets.clone()
    targets[5:] = -1
    with pytest.raises(LabelError, match=r"label -1 \(toy\.train, sample 5\).*Data\.unlabelled"):
        check_fit_data(dataclasses.replace(data, train=Split(data.train.inputs, targets)))
    targets[5:] = 7
    with pytest.raises(LabelError, match="check the target column"):
        check_fit_data(dataclasses.replace(data, train=Split(data.train.inputs, targets)))


def test_fingerprint_knows_whether_sides_are_pairs_and_which_styles_there_are():
    images = torch.rand(4, 1, 3, 3)
    part = Split(images, images)
    data = Data("a", "translation", part, part, part)
    kinds = [data, dataclasses.replace(data, paired=False), dataclasses.replace(data, styles=("day", "night"))]
    assert len({kind.fingerprint for kind in kinds}) == 3
    assert data.fingerprint == Data("a", "translation", part, part, part).fingerprint


def test_a_shorter_side_is_gone_round_again():
    split = Split(torch.arange(5.0)[:, None], torch.arange(3.0)[:, None])
    assert len(split) == 5
    inputs, targets = split.batch(torch.tensor([0, 3, 4]))
    assert inputs.flatten().tolist() == [0, 3, 4]
    assert targets.flatten().tolist() == [0, 0, 1]
    assert len(Split(torch.zeros(0, 1), torch.zeros(0, 1))) == 0
