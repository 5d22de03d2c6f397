"""Which weights stay on the disk."""

import pytest

from pluriform.search import kept_weights
from pluriform.search.journal import Trial
from pluriform.search.kept_weights import KeptWeights


def done(number, score, latency=1.0):
    return Trial(number, 0, key=str(number), state="done", told=number, score=score, figures={"latency": latency})


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """The best by value is too slow."""
    monkeypatch.setattr(kept_weights, "KEPT", 1)
    found = [done(0, 0.1), done(1, 0.2), done(2, 0.3), done(3, 0.4), done(4, 0.5, latency=9.0)]
    for trial in found:
        (tmp_path / f"{trial.number:06d}").mkdir()
        (tmp_path / f"{trial.number:06d}" / "weights.safetensors").write_text("")
    return found


def test_what_may_be_grown_trained_on_or_come_out_is_kept(trials, tmp_path):
    values = {0: 0.0, 1: 0.9, 2: 0.1, 3: 0.2, 4: 1.0}
    kept = KeptWeights(tmp_path, lambda trial: values[trial.number], max_latency=2.0)
    assert kept.numbers(trials) == {0, 1, 3, 4}  # The start; best feasible by value and by score; best by value.
    kept.prune(trials, [])
    assert not kept.path(2).exists()
    assert [trial.number for trial in kept.usable(trials)] == [0, 1, 3, 4]


def test_what_a_trial_under_way_needs_is_kept(trials, tmp_path):
    kept = KeptWeights(tmp_path, lambda trial: trial.score)
    kept.prune(trials, [2, None])
    assert [kept.path(number).exists() for number in range(5)] == [True, False, True, False, True]


def test_a_file_that_another_budget_deleted_is_not_used(trials, tmp_path):
    kept = KeptWeights(tmp_path, lambda trial: trial.score)
    kept.path(4).unlink()
    assert [trial.number for trial in kept.usable(trials)] == [0]
