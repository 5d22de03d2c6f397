import dataclasses
import logging

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import MemoryBudgetError
from pluriform.graph.fingerprint import fingerprint
from pluriform.narrow.teacher import Teacher
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Feed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    data = pf.load("digits", seed=0)
    return dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(300))))


def feed(data: Data, seeds=3, augmentation: Augmentation | None = None) -> Feed:
    return Feed(data, 64, seeds, augmentation or Augmentation(), CPU)


@pytest.mark.parametrize("name", ["mlp-bn", "lenet-bn"])
def test_cached_outputs_are_those_of_the_batch(digits, name):
    net = pf.nets.build(name, digits)
    for part in net.modules():  # Statistics that evaluation mode has to use.
        if hasattr(part, "running_mean"):
            part.running_mean += 0.3
    mark, batches = fingerprint(net), feed(digits)
    held, fresh = Teacher(net, batches), Teacher(net, batches, cache_bytes=0)
    assert (held.cache is None, fresh.cache is None) == (False, True)
    net.eval()
    for batch in batches.batches(2):
        expected = net(batch.inputs)
        assert torch.allclose(held(batch), expected, atol=1e-5)
        assert torch.allclose(fresh(batch), expected, atol=1e-5)
        assert not held(batch).requires_grad
        assert not fresh(batch).requires_grad
    assert fingerprint(net) == mark


def test_a_cache_computes_every_sample_once(digits):
    seen = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    batches = feed(digits)
    teacher = Teacher(net, batches)
    for epoch in range(3):
        for batch in batches.batches(epoch):
            teacher(batch)
    assert sum(seen) == 300 + 2  # And a trial.


def test_stacked_members_and_streams_are_served(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    stream = dataclasses.replace(digits, train=StreamSplit(Pairs(digits.train), torch.arange(300).flip(0)))
    for data, seeds in ((digits, [1, 2]), (stream, 5)):
        batches = feed(data, seeds)
        teacher = Teacher(net, batches)
        for batch in batches.batches(0):
            expected = net(batch.inputs.flatten(0, -4)).unflatten(0, batch.targets.shape)
            assert torch.allclose(teacher(batch), expected, atol=1e-5)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, place: int):
        return self.split.inputs[place], self.split.targets[place]

    def __len__(self) -> int:
        return len(self.split)


def test_augmented_inputs_are_computed_anew_and_it_is_said(digits, caplog):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    batches = feed(digits, augmentation=Augmentation(shift=1))
    with caplog.at_level(logging.INFO, "pluriform"):
        teacher = Teacher(net, batches)
    assert "computed anew: inputs are augmented" in caplog.text
    batch = next(batches.batches(0))
    assert torch.allclose(teacher(batch), net(batch.inputs))
    assert not torch.allclose(teacher(batch), net(digits.train.inputs[batch.index]), atol=1e-3)


def test_a_budget_that_is_too_small_is_told_before_anything_is_computed(digits):
    net, seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
    net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with pytest.raises(MemoryBudgetError, match=r"at most 11,999 bytes.*\(10,\) for 300 samples.*cache_bytes to 12000"):
        Teacher(net, feed(digits), cache_bytes=11_999)
    assert sum(seen) <= 2
    assert Teacher(net, feed(digits), cache_bytes=12_000).cache is not None
    assert Teacher(net, feed(digits), cache_bytes=11_999, strict=False).cache is None
