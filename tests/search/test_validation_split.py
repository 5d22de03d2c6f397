import math

import pytest
import torch

import pluriform as pf
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import EmptySplitError
from pluriform.search.validation_split import with_validation


def made(train, validation, classes=4, stream=False):
    def split(count, offset):
        inputs = torch.arange(offset, offset + count).float()[:, None]
        return Split(inputs, torch.arange(count) % classes)

    names = tuple(map(str, range(classes)))
    train, held, test = split(train, 0), split(validation, 10**6), split(10, 2 * 10**6)
    if stream:
        pairs = torch.utils.data.TensorDataset(train.inputs, train.targets)
        train = StreamSplit(pairs, torch.arange(len(pairs)))
        held = StreamSplit(torch.utils.data.TensorDataset(held.inputs, held.targets), torch.arange(len(held)))
    return Data("made", "classification", train, held, test, names)


@pytest.mark.parametrize(
    ("train", "validation", "wanted"),
    [
        (60_000, 0, 10_000),  # half a point at an accuracy of one half
        (54_000, 6_000, 10_000),
        (40_000, 0, 8_000),  # at most a fifth
        (1_000, 437, 437),  # what is held out stays held out
        (1_294, 143, 287),
    ],
)
def test_size(train, validation, wanted):
    data = made(train, validation)
    sized = with_validation(data, 0)
    assert len(sized.validation) == wanted
    assert len(sized.train) == train + validation - wanted
    assert math.sqrt(0.25 / wanted) <= 0.005 or wanted >= (train + validation) // 5
    everything = torch.cat([sized.train.inputs, sized.validation.inputs]).flatten()
    assert len(everything.unique()) == train + validation  # none lost, none in both
    assert sized.test is data.test
    held = set(data.validation.inputs.flatten().tolist())
    assert held <= set(sized.validation.inputs.flatten().tolist())


def test_the_draw_is_stratified_and_follows_the_seed():
    data = made(1000, 0)
    one, same, other = (with_validation(data, seed).validation for seed in (0, 0, 1))
    assert torch.equal(one.inputs, same.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.bincount(one.targets).tolist() == [50] * 4
    assert not torch.equal(one.inputs.flatten(), torch.arange(200).float())


def test_streams():
    data = made(400, 20, stream=True)
    sized = with_validation(data, 0)
    assert (len(sized.train), len(sized.validation)) == (336, 84)
    inputs, targets = sized.validation.batch(torch.arange(84))
    assert (inputs[:20] >= 10**6).all()
    assert (inputs[20:] < 400).all()
    assert torch.equal(targets[20:], inputs[20:].flatten().long() % 4)
    rest, _ = sized.train.batch(torch.arange(336))
    assert not set(rest.flatten().tolist()) & set(inputs.flatten().tolist())


def test_real_data():
    data = pf.load("digits")
    sized = with_validation(data, 0)
    assert len(sized.validation) == (len(data.train) + len(data.validation)) // 5


def test_too_few_samples_to_hold_some_out():
    with pytest.raises(EmptySplitError, match="5 samples or more, a fifth of them held out; got 4"):
        with_validation(made(4, 0), 0)
    assert len(with_validation(made(3, 1), 0).validation) == 1
