"""Where the end of a search takes networks, against sums worked out by hand."""

import numpy as np
import pytest

import pluriform as pf
from pluriform.search.budget import Budget
from pluriform.search.ending import ending_of
from pluriform.search.journal import Trial
from pluriform.search.plan import Plan
from pluriform.search.projection import Projection
from pluriform.search.surrogate import Belief

PLAN = Plan(Budget(), None, 5, 0.3, 0, "mutate", "parameters", 0.0, None, None, "serial", 1, 0)


def done(number, score, epochs, step_seconds, **figures):
    found = {"total_epochs": epochs, "step_seconds": step_seconds, "latency": 1.0, **figures}
    return Trial(number, 0, key=str(number), state="done", told=number, score=score, figures=found)


def test_error_falls_with_the_fourth_root_of_the_epochs():
    projection = Projection(150.0, 100, 1.0)
    assert projection.value(done(0, 0.8, 1.0, 0.1)) == pytest.approx(1 - 0.2 / 2)  # 15 epochs more: 16 times as many
    looks = done(0, 0.8, 1.0, 0.05, look_seconds=5.0)
    assert projection.value(looks) == pytest.approx(1 - 0.2 / 2)
    assert Projection(150.0, 100, 0.0).value(done(0, -3.0, 1.0, 0.1)) == pytest.approx(-1.5)  # minus an error
    assert Projection(150.0, 100, 1.0, max_latency=0.5).value(done(0, 0.8, 1.0, 0.1)) == pytest.approx(0.9 - 1.0)


def test_scores_stay_where_there_is_no_end_and_nearly_so_after_a_long_training():
    trial = done(0, 0.8, 300.0, 0.1, merit=0.7999)
    assert Projection(0.0, 100, 1.0).value(trial) == pytest.approx(0.7999)
    assert 0.7999 < Projection(150.0, 100, 1.0).value(trial) < 0.803


def test_a_belief_in_units_of_the_score():
    projection = Projection(150.0, 100, 1.0)
    found = projection.now(Belief(np.array([0.9]), np.array([0.01])), projection.factor(1.0, 0.1))
    assert found == {"predicted": pytest.approx(0.8), "deviation": pytest.approx(0.02)}


def test_in_a_hurry_the_end_takes_a_network_that_it_can_train():
    """15 epochs more for the cheap one, 1.5 for the dear one: 0.2 / 2 against 0.18 / 2 ^ (1/4)."""
    cheap, dear = done(1, 0.80, 1.0, 0.01), done(2, 0.82, 1.5, 0.1)
    hurried, unhurried = Projection(15.0, 100, 1.0), Projection(0.0, 100, 1.0)
    assert ending_of([cheap, dear], PLAN, hurried.value)[0].of is cheap
    assert ending_of([cheap, dear], PLAN, unhurried.value)[0].of is dear
    assert ending_of([cheap, dear], PLAN)[0].of is dear


def test_weights_of_what_comes_out_are_kept_however_it_is_projected(monkeypatch):
    data = pf.load("digits")
    monkeypatch.setattr(Projection, "value", lambda _, trial: -trial.score)
    monkeypatch.setattr("pluriform.search.kept_weights.KEPT", 1)
    form = pf.MorphismSearch(trials=4, epochs=1, final=0).fit(pf.nets.build("mlp", data), data)
    scores = [trial["score"] for trial in form.facts["trials"]]
    assert scores[form.facts["best"]] == max(scores) > scores[0]
