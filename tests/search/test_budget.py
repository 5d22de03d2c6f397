import math
import time

import pytest

from pluriform.errors import ConfigError
from pluriform.search.budget import Budget


@pytest.mark.parametrize("bad", [{"trials": 0}, {"minutes": 0}, {"minutes": -1.0}, {"minutes": math.inf}])
def test_a_budget_of_nothing_is_refused(bad):
    with pytest.raises(ConfigError, match=r"a number above 0, or None; got .*give the search some time"):
        Budget(**bad)


def test_trials_time_or_both():
    assert Budget().spent(20)
    assert not Budget().spent(19)
    assert Budget().left == math.inf
    assert Budget().deadline() is None
    timed = Budget(minutes=1, earlier=59.5)
    assert timed.most_trials == math.inf
    assert 0 < timed.left <= 0.5
    assert timed.deadline() == pytest.approx(time.time() + 0.5, abs=0.2)
    assert timed.deadline(30.0) == pytest.approx(time.time() - 29.5, abs=0.2)
    assert not timed.spent(1000)
    assert Budget(minutes=1, earlier=60).spent(0)
    both = Budget(trials=3, minutes=1)
    assert both.spent(3)
    assert not both.spent(2)


def test_seconds_of_earlier_sittings_count():
    budget = Budget(minutes=1, earlier=10)
    time.sleep(0.05)
    assert 10.05 <= budget.seconds < 10.5


def test_time_that_the_machine_slept_counts_as_deadlines_do():
    """Asleep, the steady clock stands still."""
    slept = Budget(minutes=10, begin=time.monotonic(), wall=time.time() - 500)
    assert 500 <= slept.seconds < 501
    assert slept.left == pytest.approx(slept.deadline() - time.time(), abs=0.2)
