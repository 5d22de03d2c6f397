import dataclasses

import pytest
import torch
from torch.utils.data import Dataset

from pluriform.data.data import StreamSplit
from pluriform.energy.streams import Cycle, density_data
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Feed

CPU = torch.device("cpu")


def feed(data, size=64, seed=0):
    return Feed(data, size, seed, Augmentation(), CPU)


def same(first, second):
    return torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)


def test_epochs_of_the_feed_follow_one_another(digits):
    cycle, plain = Cycle(feed(digits)), feed(digits)
    wanted = [batch for epoch in range(3) for batch in plain.batches(epoch)]
    assert len(wanted) == 12
    assert all(same(cycle.at(step), batch) for step, batch in enumerate(wanted))


@pytest.mark.parametrize("begin", [1, 3, 4, 5, 8, 11])
def test_it_goes_on_from_any_step(digits, begin):
    whole, resumed = Cycle(feed(digits)), Cycle(feed(digits))
    wanted = [whole.at(step) for step in range(14)]
    assert all(same(resumed.at(step), wanted[step]) for step in range(begin, 14))


def test_steps_may_be_asked_for_again_or_left_out(digits):
    cycle, wanted = Cycle(feed(digits)), [batch for epoch in range(3) for batch in feed(digits).batches(epoch)]
    for step in (0, 1, 1, 1, 5, 2, 3, 11, 0, 0, 4):
        assert same(cycle.at(step), wanted[step])


def test_a_feed_of_one_batch(digits):
    cycle, plain = Cycle(feed(digits, 500)), feed(digits, 500)
    for step in range(4):
        assert same(cycle.at(step), next(iter(plain.batches(step))))


def test_without_unlabelled_samples_the_density_is_that_of_the_training_split(digits):
    assert density_data(digits) is digits


def test_the_density_is_that_of_labelled_and_unlabelled_samples(digits):
    data = digits.with_labels(50)
    found = density_data(data)
    assert found.unlabelled is None
    assert len(found.train) == 200

    def rows(inputs):
        return sorted(map(tuple, inputs.flatten(1).tolist()))

    assert rows(found.train.inputs) == rows(digits.train.inputs)
    assert torch.equal(found.train.inputs[:50], data.train.inputs)


class _Items(Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, place):
        return self.split.inputs[place], self.split.targets[place]


def test_a_labelled_stream_beside_unlabelled_samples(digits):
    stream = StreamSplit(_Items(digits.train), torch.arange(30, 60))
    found = density_data(dataclasses.replace(digits, train=stream, unlabelled=digits.test.inputs))
    assert len(found.train) == 130
    inputs, _ = found.train.batch(torch.tensor([0, 29, 30, 129]))
    wanted = [digits.train.inputs[30], digits.train.inputs[59], digits.test.inputs[0], digits.test.inputs[99]]
    assert torch.equal(inputs, torch.stack(wanted))
