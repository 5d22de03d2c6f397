"""Pairs of a unit: on the device of the networks, in order, in no more room than is stated."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.graph.trace import trace
from pluriform.narrow.imitation import Imitation
from pluriform.narrow.plan import plan_units
from pluriform.narrow.source import Held, Streamed
from pluriform.narrow.unit import principal, refitted
from pluriform.training.recipe import Recipe

ELSEWHERE = torch.device("meta")  # Where numbers of the CPU cannot be read by accident.


@pytest.fixture(scope="module")
def data():
    found = pf.load("digits")
    return replace(
        found,
        train=Split(*found.train.batch(torch.arange(600))),
        validation=Split(*found.validation.batch(torch.arange(20))),
    )


def there(x):
    assert x.device.type == "meta"
    return x


@pytest.mark.parametrize("made", [Held.of, lambda data, wide, device: Streamed(data, there, wide, device)])
def test_networks_are_given_tensors_on_their_device(data, made):
    source = made(data, lambda x: there(x).flatten(1), ELSEWHERE)
    following = source.advanced(there, lambda x: there(x)[:, :5])
    assert all(x.is_meta and y.is_meta for x, y in following.batches(following.data.train))
    assert [tuple(x.shape) for x in following.drawn(7)] == [(7, 1, 8, 8), (7, 5)]
    inputs, targets = source.forced(lambda x: there(x)[:, :5]).drawn(7)
    assert inputs.is_meta
    assert [tuple(inputs.shape), tuple(targets.shape)] == [(7, 64), (7, 5)]


def test_maps_stay_on_the_device_of_the_features():
    thin, wide = torch.ones(9, 4, device=ELSEWHERE), torch.ones(9, 6, device=ELSEWHERE)
    assert principal(wide, 4, 1).is_meta
    assert refitted(thin, wide, 1).is_meta


@pytest.mark.parametrize("cache_bytes", [0, None])
def test_units_compute_where_the_network_is(data, cache_bytes):
    with ELSEWHERE:
        nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.ReLU(), nn.Linear(w, 10)) for w in (4, 8)]
    graphs = [trace(net.eval(), torch.zeros(2, 1, 8, 8, device=ELSEWHERE)) for net in nets]
    source = Imitation(*graphs, plan_units(*graphs), Recipe(epochs=1), cache_bytes=cache_bytes)._source(data)
    assert all(each.is_meta for each in source.drawn(3))


def test_pairs_are_held_in_order_and_format(data):
    conv = nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last)
    held = Held.of(data, conv)
    assert torch.equal(held.data.train.inputs, data.train.inputs)
    with torch.no_grad():
        assert torch.allclose(held.data.train.targets, conv(data.train.inputs), atol=1e-6)
        expected = conv(data.train.inputs[:3]).stride()
    assert held.data.train.targets[:3].stride() == expected
    assert (len(held.data.validation), len(held.data.test)) == (20, 0)
