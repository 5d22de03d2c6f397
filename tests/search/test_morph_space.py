import math

import numpy as np
import pytest
import torch

import pluriform as pf
from pluriform.search.morph_space import MorphSpace
from pluriform.search.moves import replay
from pluriform.search.start import morphable


@pytest.fixture(scope="module", params=["mlp", "lenet"])
def space(request):
    data = pf.load("digits")
    net = pf.nets.build(request.param, data)
    graph = morphable(net, data.train.inputs[:2])
    made = MorphSpace(graph, seed=3)
    made.graph = graph
    return made


def test_candidates_grow_and_are_counted_right(space):
    for one in space.neighbours(space.start):
        network = replay(space.graph, one.moves).module
        assert one.parameters == sum(p.numel() for p in network.parameters())
        assert one.parameters >= space.start.parameters
        assert one != space.start
        assert space.grown(one.moves) == one
    far = space.random(np.random.default_rng(5))
    assert 1 <= len(far.moves) <= 3


def test_the_same_draws_give_the_same_networks(space):
    again = MorphSpace(space.graph, seed=3)
    assert [one.moves for one in space.neighbours(space.start)] == [one.moves for one in again.neighbours(again.start)]
    assert [space.random(np.random.default_rng(s)).key for s in range(5)] == [
        again.random(np.random.default_rng(s)).key for s in range(5)
    ]
    assert len({space.random(np.random.default_rng(s)).key for s in range(8)}) > 4


def test_distances(space):
    found = [space.start, *space.neighbours(space.start)]
    parts = space.distance_parts(found, found)
    assert parts.shape == (3, len(found), len(found))
    sizes = [math.log2(one.parameters / space.start.parameters) for one in found]
    assert parts[2, 0] == pytest.approx(sizes)
    total = space.distances(found, found)
    assert np.array_equal(total, parts[:2].sum(0))
    assert np.allclose(total, total.T)
    assert (np.diag(total) == 0).all()
    assert (total[~np.eye(len(found), dtype=bool)] > 0).all()
    assert total[0, 1] == space.distance(found[0], found[1])
    for each in (total, *parts):
        assert (each[:, :, None] + each[None] - each[:, None] >= -1e-9).all()


def test_limits_hold(space):
    limit = int(1.2 * space.start.parameters)
    small = MorphSpace(space.graph, fits=lambda one: one.parameters <= limit)
    for seed in range(5):
        assert small.random(np.random.default_rng(seed)).parameters <= limit
    assert all(one.parameters <= limit for one in small.neighbours(small.start))
    assert any(one.parameters > limit for one in space.neighbours(space.start))
    assert torch.is_tensor(space.graph.examples[0])
