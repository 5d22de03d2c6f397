import copy
import dataclasses
import itertools
import logging
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import ConfigError, RunConflictError, TaskError, UnsupportedOpError
from pluriform.search import fit as fit_file
from pluriform.search import trial as trial_file
from pluriform.search.fit import MorphismSearch
from pluriform.search.journal import Journal
from pluriform.training.loss import Loss
from pluriform.training.validation import assess

QUICK = MorphismSearch(trials=4, epochs=1, final=0, strategy="mutate")


@pytest.fixture(scope="module")
def data():
    digits = pf.load("digits", validation=0.2)
    return dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(300))))


@pytest.fixture(scope="module")
def net(data):
    return pf.nets.build("mlp", data, seed=1)


@pytest.fixture(scope="module")
def form(net, data):
    return QUICK.fit(net, data, seed=2)


def shown(form):
    """What must not depend on how the search went about it."""
    timed = ("seconds", "total_seconds", "latency")
    return [{name: value for name, value in trial.items() if name not in timed} for trial in form.facts["trials"]]


def equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_exported_network_has_the_recorded_score(form, data):
    best = form.facts["trials"][form.facts["best"]]
    held = fit_file.with_validation(data, 2).validation
    found = assess(form.module, held, Loss("classification"), torch.device("cpu"))
    assert float(found.accuracy) == pytest.approx(best["score"], abs=1e-7)
    assert best["score"] == max(trial["score"] for trial in form.facts["trials"])
    assert len(held) == form.facts["validation"]
    assert sum(p.numel() for p in form.module.parameters()) == best["parameters"]


def test_the_tree_is_in_the_facts(form):
    trials = form.facts["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert [trial["parent"] is None for trial in trials] == [True, False, False, False]
    assert trials[0]["operation"] == "start"
    assert all(trial["moves"] for trial in trials[1:])
    for trial in trials[1:]:
        parent = trials[trial["parent"]]
        assert trial["total_epochs"] == parent["total_epochs"] + 1
        assert trial["total_seconds"] > parent["total_seconds"]
    assert trials[form.facts["front"][0]]["score"] == trials[form.facts["best"]]["score"]


def test_export(form, data, tmp_path):
    x = data.test.inputs[:5]
    program = torch.export.export(form.module, (x,))
    assert torch.allclose(program.module()(x), form(x), atol=1e-6)
    again = pf.load_form(form.save(tmp_path / "form"))
    assert torch.equal(again(x), form(x))
    assert again.facts == form.facts
    assert again.to_python() == form.to_python()


def test_a_larger_budget_goes_on_with_a_finished_run(form, net, data, tmp_path):
    small = dataclasses.replace(QUICK, trials=2)
    first = small.fit(net, data, seed=2, run=tmp_path / "run")
    assert shown(first) == shown(form)[:2]
    more = QUICK.fit(net, data, seed=2, run=tmp_path / "run")
    assert shown(more) == shown(form)
    assert equal(more, form)
    stamp = (tmp_path / "run" / "done").stat().st_mtime_ns
    assert shown(small.fit(net, data, seed=2, run=tmp_path / "run")) == shown(form)  # nothing is thrown away
    assert (tmp_path / "run" / "done").stat().st_mtime_ns == stamp


def test_another_search_is_refused(net, data, tmp_path):
    QUICK.fit(net, data, seed=2, run=tmp_path / "run")
    for other, seed in ((dataclasses.replace(QUICK, epochs=2), 2), (QUICK, 3)):
        with pytest.raises(RunConflictError, match="nothing was overwritten"):
            other.fit(net, data, seed=seed, run=tmp_path / "run")
    wide = pf.nets.build("lenet", data)
    with pytest.raises(RunConflictError, match="network="):
        QUICK.fit(wide, data, seed=2, run=tmp_path / "run")


def test_a_journal_of_another_search_is_refused(net, data, tmp_path):
    QUICK.fit(net, data, seed=2, run=tmp_path / "run")
    (tmp_path / "run" / "done").unlink()
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        journal.note("start", ["anothernetwork", 2])
    with pytest.raises(RunConflictError, match="the search stored there, from anothernetwork"):
        QUICK.fit(net, data, seed=2, run=tmp_path / "run")


def test_a_search_that_was_refused_leaves_its_run_free(net, data, tmp_path):
    with pytest.raises(ConfigError, match="raise max_parameters"):
        dataclasses.replace(QUICK, trials=1, max_parameters=10).fit(net, data, run=tmp_path / "run")
    found = dataclasses.replace(QUICK, trials=1, max_parameters=10**9).fit(net, data, run=tmp_path / "run")
    assert len(found.facts["trials"]) == 1


def test_failures_are_recorded_and_the_search_goes_on(net, data, monkeypatch):
    """One injected out-of-memory and one crashing child."""
    real = trial_file._measured

    def faulty(task, common, run, device):
        if task.number == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if task.number == 3:
            raise ZeroDivisionError("a crash")
        return real(task, common, run, device)

    monkeypatch.setattr(trial_file, "_measured", faulty)
    found = dataclasses.replace(QUICK, trials=6, strategy="bayesian").fit(net, data, seed=2)
    trials = found.facts["trials"]
    assert [trial["state"] for trial in trials] == ["done", "failed", "done", "failed", "done", "done"]
    assert "out of memory" in trials[1]["reason"]
    assert "ZeroDivisionError: a crash" in trials[3]["failure"]
    assert "Traceback" in trials[3]["failure"]
    assert all(trial["parent"] not in (1, 3) for trial in trials)


def test_running_out_of_memory_lowers_the_cap_of_the_searcher(net, data, monkeypatch):
    real, seen = trial_file._measured, []

    def faulty(task, common, run, device):
        network = trial_file.network_of(task, common).module
        seen.append(sum(p.numel() for p in network.parameters()))
        if task.number and seen[-1] > 1.3 * seen[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(task, common, run, device)

    monkeypatch.setattr(trial_file, "_measured", faulty)
    found = dataclasses.replace(QUICK, trials=12, strategy="random").fit(net, data, seed=5)
    failed = [trial for trial in found.facts["trials"] if trial["state"] == "failed"]
    assert failed
    sizes = [trial["parameters"] for trial in failed]
    assert all(later < earlier for earlier, later in itertools.pairwise(sizes))  # never as large again


def test_a_search_whose_trials_all_fail_stops_with_the_common_cause(net, data, monkeypatch):
    count = []

    def faulty(task, *_):
        count.append(task.number)
        raise ZeroDivisionError("the same each time")

    monkeypatch.setattr(trial_file, "_measured", faulty)
    with pytest.raises(TaskError, match=r"(?s)3 that failed, 3 of them with ZeroDivisionError: the same.*Traceback"):
        dataclasses.replace(QUICK, trials=50).fit(net, data, seed=2)
    assert count == [0, 1, 2]


def test_what_made_all_trials_fail_can_be_mended(net, data, tmp_path, monkeypatch):
    def faulty(*_):
        raise ZeroDivisionError("the same each time")

    monkeypatch.setattr(trial_file, "_measured", faulty)
    with pytest.raises(TaskError, match="mend the cause"):
        QUICK.fit(net, data, seed=2, run=tmp_path / "run")
    monkeypatch.undo()
    found = QUICK.fit(net, data, seed=2, run=tmp_path / "run")
    assert {trial["state"] for trial in found.facts["trials"]} == {"done"}


def test_constraints_that_nothing_meets_name_the_closest(net, data, monkeypatch):
    size = sum(p.numel() for p in net.parameters())
    with pytest.raises(ConfigError, match=rf"at most 10 parameters; got {size:,} of the start.*trial 0"):
        dataclasses.replace(QUICK, max_parameters=10).fit(net, data)
    slow = dataclasses.replace(QUICK, max_latency=1e-6, trials=2)
    with pytest.raises(ConfigError, match=r"at most 1e-06 ms.*got .* ms of trial 0, the start, the smallest"):
        slow.fit(net, data)
    monkeypatch.setattr("pluriform.search.choice.SLACK", 1e9)
    with pytest.raises(ConfigError, match=r"at most 1e-06 ms.*got .* ms of trial \d, the closest.*raise max_latency"):
        slow.fit(net, data)
    limit = int(1.1 * size)
    found = dataclasses.replace(QUICK, max_parameters=limit).fit(net, data)
    assert all(trial["parameters"] <= limit for trial in found.facts["trials"])


@pytest.mark.parametrize("bad", [{"minutes": 0}, {"trials": 0}, {"trials": -1}])
def test_a_budget_of_nothing(bad):
    with pytest.raises(ConfigError, match="give the search some time or at least one trial"):
        MorphismSearch(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"final": 1},
        {"early_stopping": 1.5},
        {"processes": 0},
        {"max_latency": 0},
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        MorphismSearch(**bad)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("minutes", "5"),
        ("trials", 2.5),
        ("epochs", 2.5),
        ("retrain", None),
        ("max_parameters", "many"),
        ("early_stopping", True),
        ("objective", 5),
    ],
)
def test_settings_of_another_type(name, value):
    """Set past the annotations, which are checked in tests only."""
    method = copy.copy(QUICK)
    object.__setattr__(method, name, value)
    with pytest.raises(ConfigError, match=f"{name}: a"):
        method.__post_init__()


def test_a_start_that_cannot_be_morphed_names_the_node(data):
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) if x.sum() > 0 else self.layer(-x.flatten(1))

    with pytest.raises(UnsupportedOpError, match="a network whose layers can be read; got .*Looking"):
        QUICK.fit(Looking(), data)


def test_minutes_are_kept(net, data):
    begin = time.monotonic()
    timed = MorphismSearch(minutes=0.15, epochs=20, strategy="mutate")
    found = timed.fit(net, data, seed=1)
    assert 5 < time.monotonic() - begin < 9 + 8  # reading the start and the last network are outside the budget
    assert found.facts["seconds"] < 9 + 2
    assert found.facts["trials"][0]["state"] == "done"


def test_ctrl_c_gives_the_best_so_far_and_the_next_fit_goes_on(net, data, tmp_path, caplog):
    method = dataclasses.replace(QUICK, trials=40, epochs=5)

    def press():
        while not (tmp_path / "run" / "trials" / "000002").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with caplog.at_level(logging.WARNING, "pluriform"):
        found = method.fit(net, data, seed=2, run=tmp_path / "run")
    thread.join()
    assert found.facts["interrupted"]
    assert "the same call goes on" in caplog.text
    stopped = len(found.facts["trials"])
    assert 3 <= stopped < 40
    assert found.predict(data.test.inputs[:4]).mean.shape == (4, 10)
    more = dataclasses.replace(method, trials=stopped + 1).fit(net, data, seed=2, run=tmp_path / "run")
    whole = dataclasses.replace(method, trials=stopped + 1).fit(net, data, seed=2)
    assert not more.facts["interrupted"]
    assert shown(more) == shown(whole)
    assert equal(more, whole)


@pytest.mark.parametrize("final", [0, 0.5])
def test_ctrl_c_in_the_last_trial_is_gone_on_with(net, data, tmp_path, monkeypatch, final):
    method, real = dataclasses.replace(QUICK, trials=3, final=final), trial_file._measured
    last = 3 if final else 2

    def stopped(task, *rest):
        if task.number == last:
            raise KeyboardInterrupt
        return real(task, *rest)

    monkeypatch.setattr(trial_file, "_measured", stopped)
    found = method.fit(net, data, seed=2, run=tmp_path / "run")
    assert found.facts["interrupted"]
    assert found.facts["trials"][last]["state"] == "running"
    monkeypatch.setattr(trial_file, "_measured", real)
    more, whole = method.fit(net, data, seed=2, run=tmp_path / "run"), method.fit(net, data, seed=2)
    assert not more.facts["interrupted"]
    assert shown(more) == shown(whole)
    assert equal(more, whole)
    monkeypatch.setattr(trial_file, "_measured", lambda *_: pytest.fail("it ran again"))
    method.fit(net, data, seed=2, run=tmp_path / "run")


def test_an_end_that_was_stopped_is_not_what_more_trials_begin_with(net, data, tmp_path, monkeypatch):
    real, seen = trial_file._measured, []

    def watched(task, *rest):
        seen.append(task)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(task, *rest)

    monkeypatch.setattr(trial_file, "_measured", watched)
    method = dataclasses.replace(QUICK, trials=3, final=0.5)
    method.fit(net, data, seed=2, run=tmp_path / "run")
    assert not seen[-1].moves  # The end.
    found = dataclasses.replace(method, trials=6).fit(net, data, seed=2, run=tmp_path / "run")
    assert [bool(task.moves) for task in seen[4:]] == [True, True, True, False]
    assert [trial["state"] for trial in found.facts["trials"]].count("running") == 1


def test_an_objective_without_a_name_and_what_is_no_function_are_refused(net, data, tmp_path):
    with pytest.raises(ConfigError, match=r"a named objective; got a lambda.*with def"):
        dataclasses.replace(QUICK, objective=lambda *_: 1.0).fit(net, data, run=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"os:path.*a module, which cannot be called"):
        dataclasses.replace(QUICK, objective="os:path").fit(net, data)


def test_the_best_is_trained_on_and_never_gets_worse(net, data):
    found = dataclasses.replace(QUICK, trials=3, final=0.9).fit(net, data, seed=2)
    last = found.facts["trials"][-1]
    assert last["operation"] == "train on"
    assert last["epochs"] == 3
    assert last["score"] >= max(trial["score"] for trial in found.facts["trials"])
    assert last["untrained"] == found.facts["trials"][last["parent"]]["score"]


def test_regression(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator)
    y = (x[:, :1] * x[:, 1:2]).contiguous()
    split = [Split(x[rows], y[rows]) for rows in (slice(0, 200), slice(200, 250), slice(250, 300))]
    table = pf.Data("made", "regression", *split)
    found = QUICK.fit(pf.nets.build("mlp", table), table, seed=1)
    assert all(trial["score"] < 0 for trial in found.facts["trials"])
    prediction = found.predict(x[:4])
    assert (prediction.variance > 0).all()


def test_the_disk_holds_weights_of_good_trials_only(net, data, tmp_path, monkeypatch):
    monkeypatch.setattr("pluriform.search.kept_weights.KEPT", 2)
    QUICK.fit(net, data, seed=2, run=tmp_path / "run")
    kept = [path.parent.name for path in (tmp_path / "run" / "trials").glob("*/weights.safetensors")]
    assert 2 <= len(kept) <= 3
    assert "000000" in kept


class Jittered(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.out(self.hidden(x.flatten(1)).relu() + 0.0 * torch.randn(x.shape[0], 8))


def test_a_network_that_a_run_could_not_keep_is_refused_before_the_first_trial(data, tmp_path):
    with pytest.raises(UnsupportedOpError, match=r"got randn \(randn, test_fit.py:\d+\) \(search from Jittered\)"):
        QUICK.fit(Jittered(), data, run=tmp_path / "run")
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert journal.trials() == []
    once = dataclasses.replace(QUICK, trials=1).fit(Jittered(), data)
    assert [trial["state"] for trial in once.facts["trials"]] == ["done"]
