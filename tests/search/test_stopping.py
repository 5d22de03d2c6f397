import numpy as np
import pytest

from pluriform.search.stopping import hopeless, least_scores

INFINITE = float("inf")


def test_children_are_compared_at_equal_own_epochs():
    histories = [[0.90, 0.95], [0.10, 0.20, 0.30], [0.50, 0.40, 0.60], [0.30, 0.35, 0.36], [0.2, 0.9, 0.1]]
    least = least_scores(histories, epochs=4, grace=1, share=0.25)
    assert least[0] == -INFINITE  # grace
    assert least[1] == pytest.approx(np.quantile([0.95, 0.20, 0.50, 0.35, 0.9], 0.25))
    assert least[2] == pytest.approx(np.quantile([0.30, 0.60, 0.36, 0.9], 0.25))  # the best so far, not the last
    assert least[3] == -INFINITE  # it ends anyway


def test_few_children_or_no_share_stop_nobody():
    assert least_scores([[0.1, 0.2]] * 3, epochs=4) == (-INFINITE,) * 4
    assert least_scores([[0.1, 0.2, 0.3]] * 9, epochs=4, share=0) == (-INFINITE,) * 4
    assert least_scores([], epochs=2) == (-INFINITE,) * 2
    assert least_scores([[0.1, 0.2, 0.3]] * 9, epochs=4, grace=2)[:2] == (-INFINITE,) * 2


def test_a_child_ends_where_its_best_is_below_what_is_asked():
    least = (-INFINITE, 0.5, 0.6)
    assert not hopeless([0.1], least)
    assert hopeless([0.1, 0.49], least)
    assert not hopeless([0.55, 0.3], least)  # it was there
    assert hopeless([0.55, 0.3, 0.2], least)
    assert not hopeless([0.1, 0.1, 0.7, 0.0], least)
    assert not hopeless([], least)


def test_the_usual_share_ends():
    """Of many alike children about a quarter falls below the lower quartile at each of two looks."""
    generator = np.random.default_rng(0)
    histories = generator.uniform(size=(400, 3)).cumsum(1).tolist()
    least = least_scores(histories, epochs=3, grace=1)
    ended = sum(hopeless(history[:2], least) for history in generator.uniform(size=(4000, 3)).cumsum(1).tolist())
    assert ended / 4000 == pytest.approx(0.25, abs=0.05)
