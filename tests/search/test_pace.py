"""Lengths of trials against sums worked out by hand."""

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.graph.trace import trace
from pluriform.search.outline import Outline
from pluriform.search.pace import (
    Rounds,
    expected_seconds,
    measured_step,
    most_work,
    offered,
    paced,
    rounds_within,
)
from pluriform.search.size import work_of
from pluriform.training.recipe import Recipe


def test_without_a_limit_of_time_or_with_epochs_all_trials_are_alike():
    assert paced(None, 7, 100, None, 0.3, 0.0).start == Rounds(7, 100)
    assert paced(3, 7, 100, 60.0, 0.3, 0.01).child == Rounds(3, 100)
    assert paced(3, 7, 100, 60.0, 0.3, 0.01).start == Rounds(3, 100)


def test_with_a_limit_the_start_has_a_fifth_and_two_dozen_children_the_rest():
    pace = paced(None, 20, 100, 600.0, 0.3, 0.01)
    assert pace.start == Rounds(60, 100)  # three times the usual; a fifth would be 120 epochs
    assert pace.child == Rounds(8, 100)  # 0.5 * 600 s / (24 * 1.5 * 0.01 s) = 833 steps
    assert paced(None, 20, 100, 200.0, 0.3, 0.01).start == Rounds(40, 100)
    slow = paced(None, 1, 750, 900.0, 0.3, 0.1)
    assert slow.start == Rounds(2, 750)  # 1,800 steps
    assert slow.child == Rounds(1, 125)  # a part of an epoch
    assert paced(None, 20, 1000, 1.0, 0.3, 0.1).child == Rounds(1, 60)  # never next to nothing
    assert paced(None, 20, 5, 0.1, 0.3, 0.1).child == Rounds(1, 5)


def test_trainings_that_fit_the_time_that_is_left():
    assert rounds_within(950, 100, 50) == Rounds(9, 100)
    assert rounds_within(95_000, 100, 50) == Rounds(50, 100)
    assert rounds_within(70, 100, 50) == Rounds(1, 70)
    assert rounds_within(20, 100, 50) is None
    assert rounds_within(3, 4, 50) == Rounds(1, 3)


def test_time_is_expected_as_it_was_lately():
    assert expected_seconds(10.0, []) == 0.0
    done = [(1.0, 50.0)] + [(2.0, 1.0)] * 4 + [(0.0, 3.0), (1.0, 0.5)]
    assert expected_seconds(10.0, done) == pytest.approx(5.0)


def test_the_dearest_child_takes_a_tenth_of_the_time():
    pace = paced(None, 20, 100, 600.0, 0.3, 0.01)
    assert most_work(pace, 1e6, 600.0, 0.01) == pytest.approx(1e6 * 60.0 / 8.0)
    assert most_work(paced(None, 1, 1000, 1.0, 0.3, 0.1), 1e6, 1.0, 0.1) == 2e6


def test_choosing_takes_a_small_share_of_a_training():
    assert offered(paced(None, 20, 100, None, 0.3, 0.0), 0.0) == 24
    assert offered(paced(None, 20, 100, 600.0, 0.3, 0.01), 0.01) == 10  # 5 % of 8 s, 0.04 s each
    assert offered(paced(None, 20, 100, 30.0, 0.3, 0.01), 0.01) == 6
    assert offered(paced(None, 20, 100, 6e4, 0.3, 0.1), 0.1) == 24


def test_work_counts_products_and_what_stands_between_layers():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert work_of(Outline.of(trace(net, torch.zeros(2, 4)))) == 18 + 16 * 8


def test_a_step_is_timed_on_a_copy():
    data = pf.load("digits")
    small, large = pf.nets.build("mlp", data), nn.Sequential(nn.Flatten(), nn.Linear(64, 6000), nn.Linear(6000, 10))
    before = [weight.clone() for weight in small.parameters()]
    times = [measured_step(net, data, Recipe(), torch.device("cpu")) for net in (small, large)]
    assert 0 < times[0] < times[1] < 10
    assert all(torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))
