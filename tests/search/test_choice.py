import pytest

from pluriform.errors import ConfigError, TaskError
from pluriform.search.choice import best_of, common_cause, feasible, score_of
from pluriform.search.facts import operation, pareto_front, trial_facts
from pluriform.search.journal import Trial


def done(number, score, parameters=10, latency=1.0, **more):
    return Trial(
        number, state="done", told=number, score=score, figures={"parameters": parameters, "latency": latency}, **more
    )


FAILED = Trial(7, state="failed", told=7, failure="Traceback\n  in f\nValueError: no")


def test_the_best_is_the_first_of_equals():
    assert best_of([done(0, 0.5), done(1, 0.9), done(2, 0.9), FAILED]).number == 1
    assert best_of([done(0, -3.0), done(1, -2.0)]).number == 1
    assert score_of(FAILED) == float("-inf")


def test_constraints():
    trials = [done(0, 0.5, latency=1.0), done(1, 0.9, latency=3.0)]
    assert [trial.number for trial in feasible(trials, 2.0)] == [0]
    assert best_of(trials, 2.0).number == 0
    assert best_of(trials, None).number == 1
    with pytest.raises(ConfigError, match=r"at most 0.5 ms for one input; got 1 ms of trial 0, the closest"):
        best_of(trials, 0.5)


def test_nothing_with_a_score():
    with pytest.raises(TaskError, match="got none before the time was up"):
        best_of([])
    other = Trial(8, state="failed", told=8, failure="KeyError: 1")
    assert "got 3 that failed, 2 of them with ValueError: no" in str(common_cause([other, FAILED, FAILED]))
    with pytest.raises(TaskError, match="(?s)1 that failed.*Traceback"):
        best_of([FAILED])


def test_the_front_holds_what_nothing_beats():
    trials = [
        done(0, 0.80, 100, 1.0),
        done(1, 0.90, 300, 3.0),
        done(2, 0.85, 400, 4.0),  # beaten by 1
        done(3, 0.85, 200, 5.0),  # fewest parameters above 0.8
        done(4, 0.70, 500, 0.5),  # the fastest
        done(5, 0.80, 100, 1.0),  # as good as 0
    ]
    assert pareto_front(trials) == [1, 3, 0, 5, 4]
    assert pareto_front([]) == []


def test_words_of_trials():
    moves = tuple({"operation": name, "place": ["a"], "numbers": [3], "seed": 0} for name in ("widen", "deepen"))
    assert operation(Trial(0)) == "start"
    assert operation(Trial(3, 1, moves)) == "widen + deepen"
    assert operation(Trial(4, 1, plan={"final": True})) == "train on"
    facts = trial_facts(Trial(3, 1, moves, plan={"predicted": 0.5, "deviation": 0.1}, failure="a\nb"))
    assert (facts["moves"], facts["predicted"], facts["reason"]) == (["widen a 3", "deepen a 3"], 0.5, "b")
