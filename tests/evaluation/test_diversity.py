"""Diversity of members: Jensen's inequality, true collapse and true diversity, weights, history, single networks."""

import copy

import pytest
import torch
from torch import nn

from pluriform.ensemble.deep_ensemble import Ensemble
from pluriform.evaluation.diversity import measure_diversity, member_weights
from pluriform.evaluation.evaluate import evaluate
from pluriform.evaluation.subject import Subject
from pluriform.metrics.classification import accuracy, nll
from pluriform.metrics.diversity import error_correlation
from pluriform.metrics.uncertainty import mutual_information


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 3))


def trained_members(data, count, steps=40):
    inputs, targets = data.train.batch(torch.arange(len(data.train)))
    members = []
    for seed in range(count):
        net = network(seed)
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            optimiser.step()
        members.append(net.eval())
    return members


@pytest.fixture(scope="module")
def members(data):
    return trained_members(data, 6)


def figures(subject):
    return {entry.name: entry for entry in measure_diversity(subject).measures if not entry.condition}


def verdict(form, data):
    return measure_diversity(Subject(form, data)).protocol["diversity"]["verdict"]


def test_figures_equal_plain_means_and_the_ensemble_gains(pair, data):
    subject = Subject(pair, data)
    found = figures(subject)
    members, y = subject.test.prediction.members, subject.test.targets
    assert found["member_accuracy"].value == pytest.approx(sum(accuracy(p, y) for p in members) / 2)
    assert found["member_nll"].value == pytest.approx(sum(nll(p, y) for p in members) / 2)
    gain = found["member_nll"].value - nll(subject.test.prediction.mean, y)
    assert found["ensemble_gain"].value == pytest.approx(gain, abs=1e-7)
    assert gain > 0
    differ = (members[0].argmax(-1) != members[1].argmax(-1)).double().mean()
    assert found["disagreement"].value == pytest.approx(float(differ))
    assert found["mutual_information"].value == pytest.approx(float(mutual_information(members).mean()))
    assert "error_correlation" not in found  # One of the two is always right.
    for name in ("ensemble_gain", "mutual_information"):
        assert found[name].low <= found[name].value <= found[name].high


def test_members_that_err_have_a_correlation(data):
    subject = Subject(Ensemble(trained_members(data, 3, 8), data.signature), data)
    members, y = subject.test.prediction.members, subject.test.targets
    assert figures(subject)["error_correlation"].value == pytest.approx(error_correlation(members, y))


def test_identical_members_have_collapsed_and_a_single_network_has_no_diversity(pair, form, data):
    same = type(pair)(pair.parts[0], pair.parts[0], data.signature)
    found = figures(Subject(same, data))
    zero = ("disagreement", "ensemble_gain", "mutual_information")
    assert all(found[name].value == pytest.approx(0, abs=1e-9) for name in zero)
    assert found["error_correlation"].value == pytest.approx(1)
    assert found["collapsed"].value == 1
    assert measure_diversity(Subject(form, data)).measures == ()


def test_networks_trained_apart_are_diverse_and_one_under_noise_has_collapsed(members, data):
    apart = Ensemble(members, data.signature)
    found = measure_diversity(Subject(apart, data))
    assert verdict(apart, data).startswith("diverse: the 6 members differ")
    assert next(e for e in found.measures if e.name == "collapsed").value == 0
    generator = torch.Generator().manual_seed(0)
    near = [copy.deepcopy(members[0]) for _ in range(6)]
    with torch.no_grad():
        for net in near:
            for weight in net.parameters():
                weight += 3e-3 * weight.norm() / weight.numel() ** 0.5 * torch.randn(weight.shape, generator=generator)
    collapsed = Ensemble(near, data.signature)
    said = verdict(collapsed, data)
    assert said.startswith("collapsed: the 6 members are one network for all purposes")
    assert "their weights lie 0.27 % from their mean" in said
    result = evaluate(collapsed, data, corruptions=())
    assert result.get("collapsed").value == 1
    assert result.protocol["diversity"]["verdict"] == said


def test_weights_of_stacked_forms_and_of_modules_are_compared(members, data):
    form = Ensemble(members, data.signature)
    stacked = member_weights(form)
    assert {name: tuple(value.shape) for name, value in stacked.items()} == {
        "1.weight": (6, 24, 36),
        "1.bias": (6, 24),
        "3.weight": (6, 3, 24),
        "3.bias": (6, 3),
    }
    found = {
        (e.name, *e.condition.values()): e.value
        for e in measure_diversity(Subject(form, data)).measures
        if e.name.startswith("weight") or e.condition
    }
    norms = stacked["3.weight"].flatten(1).norm(dim=1)
    assert found["weight_spread", "3.weight"] == pytest.approx(float(norms.std() / norms.mean()), rel=1e-5)
    assert found["weight_distance",] > 0.5
    assert found["effective_rank", "weights"] > 3

    class Drawn(type(form)):
        def member_weights(self):
            return {"1.weight": stacked["1.weight"], "2.running_mean": torch.zeros(6, 24)}

    drawn = Drawn(members, data.signature)
    assert set(member_weights(drawn)) == {"1.weight", "2.running_mean"}
    drawn.template = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.BatchNorm1d(24))
    assert set(member_weights(drawn)) == {"1.weight"}


def test_members_of_different_architecture_have_no_common_weights(members, data):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 30), nn.ReLU(), nn.Linear(30, 3))
    mixed = Ensemble([members[0], wide], data.signature)
    assert member_weights(mixed) == {}
    found = measure_diversity(Subject(mixed, data))
    assert not any(entry.name.startswith("weight") for entry in found.measures)
    assert found.protocol["diversity"]["weights"] == "the form does not give those of its members"


def test_the_history_becomes_a_curve(form, data):
    plain = copy.deepcopy(form)
    plain.history = {
        "epoch": [0, 1, 2],
        "validation_nll": [2.0, 1.0, 0.9],
        "disagreement": [0.3, float("nan"), 0.1],
        "never": [None, None, None],
        "short": [1.0],
        "kept": [False, True, False],
        "words": "abc",
    }
    (curve,) = measure_diversity(Subject(plain, data)).curves
    assert curve.name == "diversity_history"
    assert curve.columns == {"epoch": [0, 2], "validation_nll": [2.0, 0.9], "disagreement": [0.3, 0.1]}
    assert curve.condition == {"kept": 1}
    plain.history = {"epoch": [0, 1], "validation_nll": [2.0, 1.0], "kept": 1}
    assert measure_diversity(Subject(plain, data)).curves[0].condition == {"kept": 1}
    for nothing in ({}, {"epoch": []}, {"epoch": [0, 1]}, [1, 2], None):
        plain.history = nothing
        assert measure_diversity(Subject(plain, data)).curves == ()


def test_regression_members_are_compared_by_their_spread(curve_form, curve_data):
    twins = Ensemble([curve_form.module, copy.deepcopy(curve_form.module)], curve_data.signature)
    found = figures(Subject(twins, curve_data))
    assert found["member_spread"].value == 0
    assert found["collapsed"].value == 1
    with torch.no_grad():
        twins.members[1][2].bias += 0.3
    found = figures(Subject(twins, curve_data))
    assert found["member_spread"].value == pytest.approx(0.3 / 2**0.5, rel=1e-4)
    assert found["collapsed"].value == 0
    assert found["member_rmse"].value > 0.2
