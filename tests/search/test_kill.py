"""A search that is killed (signal 9, at any moment) and started again loses no trial and runs none twice."""

import os
import runpy
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pluriform.search.journal import Journal

SCRIPT = """
    import dataclasses, sys
    import torch
    import pluriform as pf
    from pluriform.data.data import Split

    def main(run, workers, trials, strategy):
        torch.set_num_threads(1)
        digits = pf.load("digits", validation=0.2)
        data = dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(400))))
        net = pf.nets.build("mlp", data, seed=1)
        method = pf.MorphismSearch(trials=trials, epochs=6, final=0, strategy=strategy, workers=workers)
        form = method.fit(net, data, seed=4, run=run)
        form.save(run + "-form")

    if __name__ == "__main__":
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
"""
SECONDS = 900


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "search.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


@pytest.fixture
def search(script, tmp_path):
    """Start a search in a process of its own."""
    started = []

    def start(run: Path, workers: str, trials: int, strategy: str = "bayesian") -> subprocess.Popen:
        words = [sys.executable, str(script), str(run), workers, str(trials), strategy]
        with open(tmp_path / "stderr", "wb") as stderr:
            started.append(subprocess.Popen(words, stderr=stderr, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def rows(run: Path) -> list[tuple]:
    """What the journal holds while another process writes it."""
    try:
        with sqlite3.connect(f"file:{run}/journal.sqlite?mode=ro", uri=True) as file:
            return file.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    except sqlite3.OperationalError:
        return []


def wait_for(run: Path, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(rows(run)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def held(run: Path) -> list:
    with Journal(run / "journal.sqlite") as journal:
        return journal.trials()


def timeless(trial) -> tuple:
    figures = {name: value for name, value in trial.figures.items() if "seconds" not in name and name != "latency"}
    plan = {name: value for name, value in trial.plan.items() if name != "cap"}  # Of the memory that is free.
    return trial.number, trial.parent, trial.moves, trial.key, plan, trial.state, trial.told, trial.score, figures


def killed_again_and_again(search, run: Path, workers: str, moments: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    total, stamps, before = 2 * moments + 3, {}, []
    for _ in range(moments):
        process = search(run, workers, total)
        wait_for(run, process, min(total, len(before) + int(generator.integers(1, 3))))
        time.sleep(float(generator.uniform(0, 1.0)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1.0)  # Its workers end.
        after = held(run)
        for old, new in zip(before, after, strict=False):
            assert timeless(new) == timeless(old) if old.state != "running" else new.key == old.key
            assert (new.parent, new.moves) == (old.parent, old.moves)
        for trial in after:
            written = run / "trials" / f"{trial.number:06d}" / "result.json"
            if written.exists():
                stamps.setdefault(trial.number, written.stat().st_mtime_ns)
                assert written.stat().st_mtime_ns == stamps[trial.number]  # never written again
        before = after
    process = search(run, workers, total)
    assert process.wait(SECONDS) == 0
    trials = held(run)
    assert [trial.number for trial in trials] == list(range(total))
    assert all(trial.state == "done" for trial in trials), [trial.failure for trial in trials]
    assert sorted(trial.told for trial in trials) == list(range(total))
    assert len({trial.key for trial in trials}) == total
    for number, stamp in stamps.items():
        assert (run / "trials" / f"{number:06d}" / "result.json").stat().st_mtime_ns == stamp


@pytest.mark.timeout(2000)
def test_a_kill_on_two_processes(search, tmp_path):
    killed_again_and_again(search, tmp_path / "run", "processes", moments=1, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("workers", ["processes", "ray"])
def test_ten_kills(search, tmp_path, workers):
    if workers == "ray":
        pytest.importorskip("ray")
    killed_again_and_again(search, tmp_path / "run", workers, moments=10, seed=1)


@pytest.mark.timeout(2000)
def test_a_killed_search_ends_as_one_that_was_left_alone(search, script, tmp_path):
    """Killed twice: every proposal, score and weight afterwards is that of the search in one process, uninterrupted."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    generator = np.random.default_rng(3)
    for count in (2, 4):
        process = search(killed, "serial", 6)
        wait_for(killed, process, count)
        time.sleep(float(generator.uniform(0, 0.5)))
        process.kill()
        process.wait()
    fit = runpy.run_path(str(script))["main"]
    for run in (killed, whole):
        fit(str(run), "serial", 6, "bayesian")
    assert [timeless(trial) for trial in held(killed)] == [timeless(trial) for trial in held(whole)]
    first, second = (Path(f"{run}-form") / "weights.safetensors" for run in (whole, killed))
    assert first.read_bytes() == second.read_bytes()
