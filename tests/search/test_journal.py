import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pluriform.errors import CorruptFileError, RunError
from pluriform.search.journal import Journal, Trial


def test_a_trial_is_kept_as_it_was_written(tmp_path):
    trial = Trial(0, None, ({"kind": "widen", "by": 3},), "abc", {"threshold": [0.1, None]})
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin(trial)
        assert journal.running() == [trial]
        ended = journal.end(0, score=0.75, figures={"seconds": 1.5})
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.trials() == [ended]
        assert (ended.state, ended.score, ended.figures, ended.told) == ("done", 0.75, {"seconds": 1.5}, 0)
        assert (ended.moves, ended.plan, ended.key) == (trial.moves, trial.plan, "abc")


def test_the_orders_of_asking_and_telling_are_both_kept(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        for number in range(4):
            journal.begin(Trial(number, key=str(number)))
        for number in (2, 0, 3):
            journal.end(
                number, score=None if number == 0 else 0.5, failure="boom\nValueError: no" if number == 0 else ""
            )
        assert [trial.number for trial in journal.told()] == [2, 0, 3]
        assert [trial.number for trial in journal.running()] == [1]
        assert [trial.state for trial in journal.trials()] == ["failed", "running", "done", "done"]
        assert journal.trial(0).reason == "ValueError: no"


def test_no_trial_is_begun_or_ended_twice(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin(Trial(0))
        with pytest.raises(RunError, match=r"a new number.*begin each trial once"):
            journal.begin(Trial(0, key="other"))
        journal.end(0, score=1.0)
        with pytest.raises(RunError, match=r"one running trial; got 0 of number 0"):
            journal.end(0, score=2.0)
        assert journal.trial(0).score == 1.0
        with pytest.raises(RunError, match="number 5"):
            journal.trial(5)


def test_facts(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.fact("seconds", 0.0) == 0.0
        journal.note("seconds", 12.5)
        journal.note("seconds", 13.25)
        assert journal.fact("seconds") == 13.25


def test_another_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_text("no journal" * 1000)
    with pytest.raises(CorruptFileError, match="the journal of a search; got .*delete this file"):
        Journal(path)
    assert path.read_text() == "no journal" * 1000
    with pytest.raises(RunError, match="a journal that can be written"):
        Journal(tmp_path / "missing" / "journal.sqlite")


def test_what_was_written_survives_a_kill_at_any_moment(tmp_path):
    """A process writes and says so; killed, it leaves all it said, and at most one trial more."""
    script = f"""
        import sys
        from pathlib import Path
        from pluriform.search.journal import Journal, Trial

        with Journal(Path({str(tmp_path)!r}) / "journal.sqlite") as journal:
            for number in range(100000):
                journal.begin(Trial(number, key="k" * 500))
                journal.end(number, score=number / 7, figures={{"seconds": number}})
                print(number, flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        first = process.stdout.readline()
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        said = [int(line) for line in [first, *process.stdout.read().splitlines()] if line.strip()]
    with Journal(tmp_path / "journal.sqlite") as journal:
        trials = journal.trials()
        assert len(said) > 5
        assert said[-1] + 1 <= len(trials) <= said[-1] + 3
        assert [trial.score for trial in trials[: said[-1] + 1]] == [number / 7 for number in said]
        journal.begin(Trial(len(trials)))


def test_trials_are_forgotten_only_where_all_that_were_told_failed(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin(Trial(0, key="a"))
        assert not journal.forget_failures()
        journal.end(0, failure="out of room")
        assert journal.forget_failures()
        assert journal.trials() == []
        journal.begin(Trial(0, key="a"))
        journal.end(0, score=0.5)
        journal.begin(Trial(1, key="b"))
        journal.end(1, failure="out of room")
        assert not journal.forget_failures()
        assert len(journal.trials()) == 2
