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
    paced,
    rounds_within,
)
from pluriform.search.size import step_work, work_of
from pluriform.training.recipe import Recipe


def test_without_a_limit_of_time_or_with_epochs_all_trials_are_alike():
    assert paced(None, 7, 100, None, 0.3, 0.0).start == Rounds(7, 100)
    assert paced(3, 7, 100, 60.0, 0.3, 0.01).child == Rounds(3, 100)
    assert paced(3, 7, 100, 60.0, 0.3, 0.01).start == Rounds(3, 100)


def test_with_a_limit_the_start_has_a_fifth_and_two_dozen_children_the_rest():
    pace = paced(None, 20, 100, 600.0, 0.3, 0.01)
    assert pace.start == Rounds(60, 100)  # three times the usual; a fifth would be 120 epochs
    assert pace.child == Rounds(12, 100)  # 0.5 * 600 s / (24 * 0.01 s) = 1,250 steps
    assert paced(None, 20, 100, 200.0, 0.3, 0.01).start == Rounds(40, 100)
    slow = paced(None, 1, 750, 900.0, 0.3, 0.1)
    assert slow.start == Rounds(2, 750)  # 1,800 steps
    assert slow.child == Rounds(1, 200)  # a part of an epoch, for fewer children than 24
    assert paced(None, 20, 1000, 1.0, 0.3, 0.1).child == Rounds(1, 60)  # never next to nothing
    assert paced(None, 20, 5, 0.1, 0.3, 0.1).child == Rounds(1, 5)


def test_with_plenty_of_time_trials_are_longer_not_more():
    plenty = paced(None, 4, 187, 900.0, None, 0.00077)
    assert plenty.child == Rounds(31, 187)  # 0.5 * 900 s / (100 * 0.00077 s) = 5,844 steps
    assert plenty.start == Rounds(93, 187)
    assert paced(None, 4, 187, 9000.0, None, 0.00077).child == Rounds(50, 187)


def test_workers_share_the_children_alone():
    one, two = (paced(None, 20, 100, 600.0, None, 0.01, abreast) for abreast in (1, 2))
    assert (one.start, one.final) == (two.start, two.final)
    assert (one.steps, two.steps) == (pytest.approx(1250), pytest.approx(2500))


def test_trainings_that_fit_the_time_that_is_left():
    assert rounds_within(950, 100, 50) == Rounds(10, 95)
    assert rounds_within(900, 100, 50) == Rounds(9, 100)
    assert rounds_within(95_000, 100, 50) == Rounds(50, 100)
    assert rounds_within(70, 100, 50) == Rounds(1, 70)
    assert rounds_within(20, 100, 50) is None
    assert rounds_within(3, 4, 50) == Rounds(1, 3)


def test_time_is_expected_as_it_was_lately():
    assert expected_seconds(10.0, []) == 0.0
    done = [(1.0, 50.0)] + [(2.0, 1.0)] * 4 + [(0.0, 3.0), (1.0, 0.5)]
    assert expected_seconds(10.0, done) == pytest.approx(5.0)


def test_the_end_has_thirty_epochs_of_the_start_where_there_is_time():
    shares = [paced(None, 1, 734, 60.0 * minutes, None, 0.066).final for minutes in (15, 40, 90)]
    assert shares == [0.7, pytest.approx(30 * 734 * 0.066 / 2400), 0.3]
    short = paced(None, 1, 734, 900.0, None, 0.066)
    assert short.start == Rounds(1, 734)  # 2 / 7 of 0.3 of 13,636 steps are 1,168
    assert short.child == Rounds(1, 200)
    assert paced(None, 1, 734, None, None, 0.0).final == paced(4, 1, 734, 900.0, None, 0.066).final == 0.3


def test_children_have_equal_times_and_at_most_the_usual_epochs():
    pace = paced(None, 10, 100, 600.0, 0.3, 0.01)
    assert [pace.of_child(ratio, 100) for ratio in (0.5, 1.0, 1.25)] == [Rounds(10, 100)] * 3
    assert pace.of_child(2.5, 100) == Rounds(5, 100)
    assert pace.of_child(15.0, 100) == Rounds(1, 83)
    assert paced(3, 10, 100, 600.0, 0.3, 0.01).of_child(50.0, 100) == Rounds(3, 100)


def test_the_dearest_child_makes_a_few_steps():
    assert paced(None, 20, 100, 600.0, 0.3, 0.01).most_work(1e6, 100) == pytest.approx(1e6 * 1250 / 60)
    assert paced(None, 20, 10, 600.0, 0.3, 0.01).most_work(1e6, 10) == pytest.approx(1e6 * 1250 / 10)
    assert paced(None, 1, 1000, 1.0, 0.3, 0.1).most_work(1e6, 1000) == 2e6


def test_a_dear_network_takes_no_longer_in_a_hurry():
    hurried, unhurried = paced(None, 20, 100, 60.0, 0.7, 0.01), paced(None, 20, 100, None, 0.3, 0.0)
    assert hurried.duration(3.0) == hurried.duration(1.5) == pytest.approx(200.0)
    assert unhurried.duration(3.0) == 3 * unhurried.duration(1.0) == 6000
    several = paced(None, 20, 100, 1800.0, 0.3, 0.01)
    assert several.duration(1.0) == 2000 < several.duration(1.5) == 3000 < several.duration(4.0) == several.steps


def test_choosing_takes_a_small_share_of_a_training():
    assert paced(None, 20, 100, None, 0.3, 0.0).offered(0.0) == 24
    assert paced(None, 20, 100, 600.0, 0.3, 0.01).offered(0.01) == 15  # 5 % of 12 s, 0.04 s each
    assert paced(None, 20, 100, 30.0, 0.3, 0.01).offered(0.01) == 6
    assert paced(None, 20, 100, 6e4, 0.3, 0.1).offered(0.1) == 24


def test_work_counts_products_and_what_stands_between_layers():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert work_of(Outline.of(trace(net, torch.zeros(2, 4)))) == 18 + 16 * 8
    assert step_work(100.0, 23, 64) == 6e6 + 6400 + 128 * 23


def test_a_step_is_timed_on_a_copy():
    data = pf.load("digits")
    small, large = pf.nets.build("mlp", data), nn.Sequential(nn.Flatten(), nn.Linear(64, 6000), nn.Linear(6000, 10))
    before = [weight.clone() for weight in small.parameters()]
    times = [measured_step(net, data, Recipe(), torch.device("cpu")) for net in (small, large)]
    assert 0 < times[0] < times[1] < 10
    assert all(torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))
