"""Results of several seeds as one, against SciPy's t-interval."""

from dataclasses import replace

import pytest
from scipy import stats

from pluriform.errors import ConfigError
from pluriform.evaluation.seeds import combine
from pluriform.result import Curve, Measure, Result


def result(seed, accuracy, temperature=1.0, **changes):
    measures = (
        Measure("accuracy", accuracy, better="higher", low=0.0, high=1.0, count=100, interval="bootstrap"),
        Measure("ece", accuracy / 10, better="lower", condition={"temperature": temperature}),
    )
    curves = (
        Curve("robustness", {"eps": [0.0, 0.1], "accuracy": [accuracy, accuracy / 2]}, {"threat": "linf"}),
        Curve(
            "reliability", {"confidence": [0.25, 0.8], "accuracy": [0.0, accuracy], "count": [0.0, 10.0 * (seed + 1)]}
        ),
    )
    plain = Result("A", {}, "mlp", {"name": "digits"}, seed, measures=measures, curves=curves, protocol={"bins": 15})
    return replace(plain, **changes)


def test_means_and_t_intervals():
    values = [0.9, 0.92, 0.97]
    combined = combine([result(seed, value) for seed, value in enumerate(values)])
    found = combined.get("accuracy")
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert found.value == pytest.approx(sum(values) / 3)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.count, found.interval, found.better) == (3, "over 3 seeds", "higher")
    assert combined.protocol == {"bins": 15, "seeds": [0, 1, 2], "intervals": "95 % t-interval over 3 seeds"}


def test_temperatures_are_averaged_like_their_figures():
    combined = combine([result(0, 0.9, 1.2), result(1, 0.8, 1.6)])
    assert combined.get("ece", temperature=pytest.approx(1.4)).value == pytest.approx(0.085)


def test_curves_are_averaged_and_pooled():
    combined = combine([result(0, 0.6), result(1, 0.9)])
    robust, reliable = combined.curves
    assert robust.columns["accuracy"] == pytest.approx([0.75, 0.375])
    assert robust.columns["eps"] == [0.0, 0.1]
    assert reliable.columns["accuracy"] == pytest.approx([0.0, 0.8])
    assert reliable.columns["count"] == [0.0, 30.0]


def test_one_result_stays_as_it_is_and_failures_are_counted():
    single = result(0, 0.9)
    assert combine([single]) is single
    failed = result(2, 0.0, status="failed", reason="boom", measures=(), curves=())
    combined = combine([result(0, 0.9), result(1, 0.7), failed])
    assert combined.get("accuracy").interval == "over 2 seeds"
    assert combined.protocol["seeds_without_figures"] == [2]
    assert combine([failed, replace(failed, seed=3)]).reason == "boom"


@pytest.mark.parametrize(
    ("other", "words"),
    [(result(0, 0.8), r"got seeds \[0, 0\]"), (result(1, 0.8, network="lenet"), "got 2 different kinds")],
)
def test_results_that_do_not_belong_together(other, words):
    with pytest.raises(ConfigError, match=f"expected results of one form, network and data.*{words}"):
        combine([result(0, 0.9), other])


def test_roll_backs_of_all_trainings_are_told():
    first = result(0, 0.9, protocol={"roll_backs": {"count": 0}})
    second = result(1, 0.9, protocol={"roll_backs": {"count": 1, "events": ["at step 9: loss is nan"]}})
    found = combine([first, second]).protocol["roll_backs"]
    assert found == {"trainings": 2, "count": 1, "events": ["seed 1, at step 9: loss is nan"]}
    assert "roll_backs" not in combine([result(0, 0.9), result(1, 0.9)]).protocol
