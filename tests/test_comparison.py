import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.attacks.suite import Member, Suite
from pluriform.data.data import Split
from pluriform.errors import ConfigError, LabelError, ShapeError

COST = {"latency", "peak_memory", "training_seconds"}
QUICK = pf.Training(epochs=2)
LINF = pf.Threat("linf", 0.1)


@pytest.fixture(scope="module")
def data():
    digits = pf.load("digits")
    return dataclasses.replace(
        digits,
        **{name: Split(*getattr(digits, name).batch(torch.arange(120))) for name in ("train", "validation", "test")},
    )


class Fragile(nn.Module):
    """Works until it is trained for the first time in a fit; then its forward fails."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        if self.training:
            raise RuntimeError("the fuse blew")
        return self.linear(x.flatten(1))


def figures(result):
    return [m for m in result.measures if m.name not in COST], result.curves


def test_a_form_that_fails_or_does_not_apply_is_a_row(data, tmp_path):
    results = pf.compare(Fragile(), data, [QUICK, pf.InfiniteWidth()], run=tmp_path / "run", network="fragile")
    assert [r.status for r in results] == ["failed", "ok"]
    assert "the fuse blew" in results[0].reason
    assert "the fuse blew" in (tmp_path / "run" / "log.jsonl").read_text()
    assert "fuse blew" in (tmp_path / "run" / "report.html").read_text()
    kept = [path.name for path in (tmp_path / "run" / "results").iterdir()]
    assert [name.partition("-")[0] for name in kept] == ["InfiniteWidth"], "a failed row is tried again"


def test_a_form_that_the_data_do_not_suit_is_a_row(tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator)
    table = pf.load(inputs, (inputs.sum(1) > 0).long())
    assert table.bounds is None
    robust = pf.AdversarialTraining(training=QUICK)
    results = pf.compare(nn.Linear(6, 2), table, [robust, pf.SWAG(training=QUICK)], run=tmp_path / "run")
    assert [r.status for r in results] == ["not applicable", "ok"]
    assert "bounds" in results[0].reason
    again = pf.compare(
        nn.Linear(6, 2), table, [robust, pf.SWAG(training=QUICK)], run=tmp_path / "again", threats=[LINF]
    )
    assert "skipped" in again[1].protocol["robustness"]


def test_memory_that_does_not_suffice_is_a_row(data, tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000, "total": 1000})())
    net = pf.nets.build("mlp", data)
    results = pf.compare(net, data, [pf.InfiniteWidth()], run=tmp_path / "run")
    assert results[0].status == "does not fit memory"
    assert "MiB" in results[0].reason or "GiB" in results[0].reason or "B" in results[0].reason


def test_results_are_kept_and_the_same_after_an_interruption(data, tmp_path, monkeypatch):
    net, methods = pf.nets.build("mlp", data), [QUICK, pf.InfiniteWidth()]
    whole = pf.compare(net, data, methods, run=tmp_path / "whole")
    told = []

    def stop(line):
        told.append(line)
        if line.startswith("InfiniteWidth: fitted"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pf.compare(net, data, methods, run=tmp_path / "cut", tell=stop)
    again = []
    resumed = pf.compare(net, data, methods, run=tmp_path / "cut", tell=again.append)
    assert "already evaluated" in again[0]
    assert [figures(r) for r in resumed] == [figures(r) for r in whole]


def test_auto_attack_is_a_figure_of_every_row_when_asked(data, tmp_path, monkeypatch):
    quick = Suite("quick", (Member("apgd-ce", {"steps": 10}),))
    monkeypatch.setattr("pluriform.attacks.auto_attack.auto_attack_suite", lambda *_: quick)
    threats = [pf.Threat("linf", 0.05)]
    results = pf.compare(
        pf.nets.build("mlp", data), data, [QUICK], run=tmp_path / "run", threats=threats, auto_attack=True
    )
    worst = results[0].get("robust_accuracy", threat="linf", attack="autoattack", eps=0.05)
    pgd = results[0].get("robust_accuracy", threat="linf", attack="pgd", eps=0.05)
    assert worst.count == pgd.count
    assert worst.value <= pgd.value
    assert list((tmp_path / "run").glob("forms/*/auto_attack/linf-0.05/state.safetensors"))


def test_faults_of_the_data_or_the_network_stop_everything_at_once(data, tmp_path):
    net = pf.nets.build("mlp", data)
    wrong = dataclasses.replace(data, train=Split(data.train.inputs, data.train.targets + 5))
    with pytest.raises(LabelError):
        pf.compare(net, wrong, [QUICK], run=tmp_path / "a")
    with pytest.raises(ShapeError):
        pf.compare(nn.Linear(3, 3), data, [QUICK], run=tmp_path / "b")
    with pytest.raises(ConfigError, match="different methods, at least one"):
        pf.compare(net, data, [QUICK, QUICK], run=tmp_path / "c")
    with pytest.raises(ConfigError, match="eps in input units, at most 1"):
        pf.compare(net, data, [QUICK], run=tmp_path / "f", threats=[pf.Threat("linf", 8)])
    with pytest.raises(ConfigError, match="a threat for AutoAttack"):
        pf.compare(net, data, [QUICK], run=tmp_path / "g", auto_attack=True)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="got none"):
        pf.compare(net, data, [], run=tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "abcd")
