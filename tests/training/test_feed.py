import dataclasses

import torch

from pluriform.data.data import Split, StreamSplit
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Feed

CPU = torch.device("cpu")


def indices(data, **kwargs):
    """The order of the samples: each input holds its own position."""
    numbers = torch.arange(float(len(data.train)))[:, None]
    marked = dataclasses.replace(data, train=Split(numbers, data.train.targets), bounds=None)
    arguments = {"batch_size": 64, "seeds": 0, "augmentation": Augmentation(), "device": CPU} | kwargs
    return Feed(marked, *arguments.values())


def test_every_sample_once_an_epoch_in_another_order(digits):
    feed = indices(digits)
    first, second = (torch.cat([b.inputs for b in feed.batches(epoch)]).flatten() for epoch in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(200))
    assert not torch.equal(first, second)
    assert feed.steps == len(list(feed.batches(0))) == 4


def test_the_order_depends_on_seed_and_epoch_alone(digits):
    whole = [batch.inputs for batch in indices(digits).batches(3)]
    rest = [batch.inputs for batch in indices(digits).batches(3, start=2)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    other = next(indices(digits, seeds=1).batches(3)).inputs
    assert not torch.equal(whole[0], other)


def test_targets_go_with_their_inputs(digits):
    for batch in indices(digits).batches(0):
        assert torch.equal(batch.targets, digits.train.targets[batch.inputs.flatten().long()])


def test_members_see_their_own_order_which_is_that_of_their_seed(digits):
    for batch, first, second in zip(
        indices(digits, seeds=[4, 5]).batches(1),
        indices(digits, seeds=4).batches(1),
        indices(digits, seeds=5).batches(1),
        strict=True,
    ):
        assert torch.equal(batch.inputs, torch.stack([first.inputs, second.inputs]))
        assert torch.equal(batch.targets, torch.stack([first.targets, second.targets]))


def test_members_are_augmented_as_if_alone(digits):
    augmentation = Augmentation(shift=1)
    together = next(Feed(digits, 64, [4, 5], augmentation, CPU).batches(0))
    alone = [next(Feed(digits, 64, seed, augmentation, CPU).batches(0)) for seed in (4, 5)]
    assert torch.equal(together.inputs, torch.stack([batch.inputs for batch in alone]))


def test_a_last_batch_of_one_sample_is_left_out(digits):
    feed = indices(digits, batch_size=199)
    assert [len(batch.inputs) for batch in feed.batches(0)] == [199]
    assert [len(batch.inputs) for batch in indices(digits, batch_size=198).batches(0)] == [198, 2]
    assert [len(batch.inputs) for batch in indices(digits, batch_size=999).batches(0)] == [200]


def test_streams_give_the_same_batches(digits):
    pairs = torch.utils.data.TensorDataset(digits.train.inputs, digits.train.targets)
    streamed = dataclasses.replace(digits, train=StreamSplit(pairs, torch.arange(200)))
    for first, second in zip(
        Feed(digits, 64, 0, Augmentation(), CPU).batches(0),
        Feed(streamed, 64, 0, Augmentation(), CPU).batches(0),
        strict=True,
    ):
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.targets, second.targets)
