import dataclasses

import pytest
import torch
from torch.utils.data import Dataset

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.energy.space import Space, training_samples
from pluriform.errors import BoundsError


def of(inputs, bounds=None):
    part = Split(inputs, torch.arange(len(inputs)) % 2)
    return Data("toy", "classification", part, part, part, ("a", "b"), bounds)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-3.0, 7.0)])
def test_bounds_become_minus_one_and_one(bounds):
    space = Space.of(of(torch.zeros(4, 1, 2, 2), bounds))
    assert [float((x - space.middle) / space.unit) for x in bounds] == [-1.0, 1.0]
    assert float(space.reach(torch.full((2, 3), bounds[1]))) == 1.0
    assert space.clamp(torch.tensor([[-1000.0, 1000.0]])).tolist() == [list(bounds)]


def test_features_of_a_table_get_unit_variance(table):
    space = Space.of(table)
    moved = (table.train.inputs - space.middle) / space.unit
    assert torch.allclose(moved.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(moved.square().mean(0), torch.ones(2), atol=1e-4)
    far = torch.tensor([[1e9, -1e9]])
    assert torch.equal(space.clamp(far.clone()), far)


def test_constant_features_have_a_unit_above_zero():
    inputs = torch.stack([torch.linspace(-2, 2, 50), torch.full((50,), 3.0)], 1)
    space = Space.of(of(inputs))
    assert float(space.unit[1]) == pytest.approx(float(space.unit[0]))
    assert float(Space.of(of(torch.ones(5, 3))).unit.min()) > 0


def test_images_without_bounds_are_refused_with_the_call_that_names_them():
    with pytest.raises(BoundsError, match=r"dataclasses\.replace\(data, bounds="):
        Space.of(of(torch.zeros(4, 1, 2, 2)))


def test_bounds_without_room_between_them_are_refused():
    with pytest.raises(BoundsError, match="below"):
        Space.of(of(torch.zeros(4, 3), (0.0, 0.0)))


def test_it_has_the_type_of_the_data():
    assert Space.of(of(torch.zeros(4, 3).double(), (0.0, 1.0))).unit.dtype == torch.float64
    assert Space.of(of(torch.rand(4, 3).double())).middle.dtype == torch.float64
    assert Space.of(of(torch.rand(4, 3))).middle.dtype == torch.float32


def test_the_reach_of_a_chain_that_is_lost_is_not_finite():
    space = Space.of(of(torch.zeros(4, 3), (0.0, 1.0)))
    assert not torch.isfinite(space.reach(torch.tensor([[0.0, float("nan"), 0.5]])))
    assert float(space.reach(torch.tensor([[0.0, 3.0]]))) == 5.0


class _Items(Dataset):
    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, place):
        return self.inputs[place], self.targets[place]


def test_samples_of_a_stream_follow_its_order(table):
    order = torch.arange(299, -1, -2)
    stream = StreamSplit(_Items(table.train.inputs, table.train.targets), order)
    found = training_samples(dataclasses.replace(table, train=stream))
    assert torch.equal(found.inputs, table.train.inputs[order])
    assert torch.equal(found.targets, table.train.targets[order])


def test_of_many_samples_a_spread_is_taken(monkeypatch, table):
    monkeypatch.setattr("pluriform.energy.space.SAMPLES", 50)
    found = training_samples(table)
    assert len(found) == 50
    assert torch.equal(found.inputs[0], table.train.inputs[0])
    assert torch.equal(found.inputs[-1], table.train.inputs[-1])
