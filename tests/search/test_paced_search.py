"""A search with a limit of time and nothing else: the pace is journaled, and trials keep to it."""

import dataclasses
import json
import time

import pytest
import torch

import pluriform as pf
from pluriform.data.data import Split
from pluriform.search import trial as trial_file
from pluriform.search.journal import Journal
from pluriform.search.trial import Common, Task, network_of, read_weights, run_trial
from pluriform.training.loop import Loop
from pluriform.training.recipe import Recipe


@pytest.fixture(scope="module")
def data():
    digits = pf.load("digits", validation=0.2)
    return dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(320))))


def test_children_are_shorter_and_gentler_than_the_start(data, tmp_path, monkeypatch):
    real, seen = trial_file._measured, []

    def watched(task, *rest):
        seen.append(task)
        return real(task, *rest)

    monkeypatch.setattr(trial_file, "_measured", watched)
    monkeypatch.setattr("pluriform.search.trials.measured_step", lambda *_: 0.032)
    net = pf.nets.build("mlp", data)
    pf.MorphismSearch(trials=1, epochs=1, final=0).fit(net, data)  # What is imported the first time takes seconds.
    seen.clear()
    method = pf.MorphismSearch(minutes=0.4, strategy="mutate")
    form = method.fit(net, data, seed=1, run=tmp_path / "run")
    start, *others = seen
    steps = 5  # Of an epoch; 24 s / 5 at 0.032 s are 150 steps, 24 s / 2 / 6 at 0.032 s are 62.
    assert (start.epochs, start.steps, start.rate) == (30, None, 1.0)
    children = [task for task in others if task.moves]
    assert all(task.epochs <= 12 for task in children)
    assert all(
        task.rate == pytest.approx(max(0.25, (task.epochs * (task.steps or steps) / 150) ** 0.5)) for task in children
    )
    assert form.facts["seconds"] < 24 + 5
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert journal.fact("pace") == [24.0, 0.032]
    assert len(form.facts["trials"]) < 400


def test_children_are_trained_until_the_end_begins_however_little_it_takes(data, tmp_path):
    """Half of the time is set aside for the end, whose 50 epochs of five steps take a tenth of it."""
    net = pf.nets.build("mlp", data)
    pf.MorphismSearch(minutes=0.15, final=0.5, strategy="mutate").fit(net, data, seed=1, run=tmp_path / "run")
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        children = [trial for trial in journal.trials() if not trial.plan.get("final")]
        told = [trial for trial in journal.told() if not trial.plan.get("final")]
    assert max(trial.figures["told_seconds"] for trial in told) > 0.6 * 9
    assert len(children) - len(told) <= 1  # The last one may have had no time.


def stopping_at(step):
    """Ctrl-C in that step."""
    real = Loop._add

    def add(self, values):
        if self._done == step:
            raise KeyboardInterrupt
        return real(self, values)

    return add


def test_the_end_is_as_long_as_there_is_time_for(data, tmp_path, monkeypatch):
    common = Common(pf.nets.build("mlp", data, seed=1), data, Recipe(schedule="cosine"), "cpu")
    task = Task(0, str(tmp_path / "long"), epochs=2, steps=2, most=7, deadline=time.time() + 600)
    assert run_trial(task, common).figures["steps"] == 2 * 7
    stopped = dataclasses.replace(task, folder=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_due", lambda self, _: True)  # A checkpoint after every step.
        patch.setattr(Loop, "_add", stopping_at(step=9))
        run_trial(stopped, common)
    assert run_trial(stopped, common).figures["steps"] == 2 * 7
    begin = time.time()
    task = Task(0, str(tmp_path / "short"), epochs=10_000, most=10_000, deadline=begin + 3)
    measured = run_trial(task, common)
    assert time.time() - begin < 4
    assert len(measured.figures["scores"]) < 5000
    rows = [json.loads(row) for row in (tmp_path / "short" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["learning_rate"] < 0.02 * max(row["learning_rate"] for row in rows)


def test_a_round_is_a_part_of_an_epoch(data, tmp_path):
    common = Common(pf.nets.build("mlp", data, seed=1), data, Recipe(), "cpu")
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=3, steps=2, seed=3), common)
    assert measured.figures["steps"] == 6
    assert measured.figures["epochs"] == pytest.approx(6 / 5)
    assert len(measured.figures["scores"]) == 3


def test_the_rate_is_a_factor(data, tmp_path):
    common = Common(pf.nets.build("mlp", data, seed=1), data, Recipe(learning_rate=4e-3), "cpu")
    slow = dataclasses.replace(common, recipe=Recipe(learning_rate=1e-3))
    run_trial(Task(0, str(tmp_path / "0"), epochs=2, rate=0.25), common)
    run_trial(Task(0, str(tmp_path / "1"), epochs=2), slow)
    one, other = (read_weights(tmp_path / name / "weights.safetensors") for name in "01")
    assert all(torch.equal(one[name], other[name]) for name in one)
    fresh = network_of(Task(0, ""), common).module.state_dict()
    assert not all(torch.equal(one[name], fresh[name]) for name in one)
