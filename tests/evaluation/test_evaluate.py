"""The whole evaluation: every protocol, JSON there and back, the same figures again, nothing changed."""

import copy
import json

import pytest
import torch
from torch import nn

from pluriform.attacks.threat import Threat
from pluriform.evaluation.evaluate import evaluate
from pluriform.result import Result
from pluriform.runs import Run

COSTS = {"latency", "peak_memory"}


@pytest.fixture(scope="module")
def result(pair, data):
    return evaluate(pair, data, threats=[Threat("linf", 0.1)], seed=3, label="Pair", network="stripe net")


def test_every_protocol_left_its_figures(result):
    names = {found.name for found in result.measures}
    assert names == {
        *("accuracy", "nll", "brier", "aurc", "ece", "calibration_gap", "auroc", "aupr", "fpr95"),
        *("member_accuracy", "member_nll", "disagreement"),
        *("ensemble_gain", "mutual_information", "effective_rank", "collapsed"),
        *("masked", "robust_accuracy", "corrupted_accuracy", "parameters", "macs", "latency", "peak_memory"),
    }
    assert {curve.name for curve in result.curves} == {"reliability", "risk_coverage", "score_histogram", "robustness"}
    assert set(result.protocol) == {
        *("seed", "accuracy", "calibration", "outliers", "robustness", "corruptions", "cost", "diversity", "detection"),
        "adversarial",
    }
    assert [found.name for found in result.pictures] == ["clean", "attacked", "perturbation", "input_gradient"]
    assert (result.form, result.network, result.seed, result.status) == ("Pair", "stripe net", 3, "ok")
    assert result.data["test"] == 240


def test_the_result_survives_json(result):
    assert Result.from_json(json.loads(json.dumps(result.to_json()))).to_json() == result.to_json()
    assert "NaN" not in json.dumps(result.to_json())


def test_no_figure_stands_twice(result):
    keys = [(found.name, json.dumps(dict(found.condition))) for found in result.measures]
    assert len(set(keys)) == len(keys)


def test_figures_lie_in_their_intervals(result):
    for found in result.measures:
        if found.low is not None:
            assert found.low - 1e-9 <= found.value <= found.high + 1e-9, found


def test_a_second_evaluation_gives_the_same_figures_costs_apart(result, pair, data):
    again = evaluate(pair, data, threats=[Threat("linf", 0.1)], seed=3, label="Pair", network="stripe net")
    first, second = ([m for m in found.measures if m.name not in COSTS] for found in (result, again))
    assert first == second
    assert again.curves == result.curves
    assert again.pictures == result.pictures


def test_the_form_stays_as_it_was(form, data):
    form.train()
    state = copy.deepcopy(form.state_dict())
    gradients = [weight.grad.clone() for weight in form.parameters()]
    random = torch.get_rng_state()
    evaluate(form, data, threats=[Threat("l2", 0.5)], corruptions=())
    assert form.training
    assert all(torch.equal(value, state[name]) for name, value in form.state_dict().items())
    assert all(torch.equal(weight.grad, old) for weight, old in zip(form.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    form.eval()


def test_a_plain_module_is_judged_too(net, data, form):
    plain = evaluate(net, data, corruptions=())
    assert plain.get("accuracy").value == evaluate(form, data, corruptions=()).get("accuracy").value
    assert plain.form == "Sequential"


def test_regression_has_its_own_protocols(curve_form, curve_data):
    found = evaluate(curve_form, curve_data, threats=[Threat("linf", 0.1)])
    assert found.protocol["robustness"] == {"skipped": "defined for classification"}
    assert {m.name for m in found.measures} >= {"rmse", "nll", "coverage", "parameters", "latency"}
    assert {curve.name for curve in found.curves} == {"predictive_band", "observations"}


def test_tables_without_bounds_are_judged_without_attacks():
    from pluriform.data.data import Data, Split

    def split(size):
        inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(size))
        return Split(inputs, (inputs[:, 0] > 0).long())

    table = Data("table", "classification", split(50), split(30), split(40), ("no", "yes"))
    found = evaluate(nn.Linear(4, 2), table, threats=[Threat("linf", 0.1)])
    assert found.protocol["robustness"]["skipped"] == "table has no bounds, which a threat needs"
    assert found.get("accuracy").count == 40


def test_the_result_is_written_to_a_run_or_a_folder(form, data, tmp_path):
    with Run(tmp_path / "run", {"work": 1}) as run:
        found = evaluate(form, data, corruptions=(), run=run)
    assert Result.load(tmp_path / "run" / "result.json").to_json() == found.to_json()
    evaluate(form, data, corruptions=(), run=tmp_path / "folder")
    assert Result.load(tmp_path / "folder" / "result.json").form == "Plain"
