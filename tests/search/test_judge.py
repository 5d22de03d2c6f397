"""Scores of networks: accuracy with ties decided by the loss, errors, and metrics of the user's own."""

import math

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError
from pluriform.search.choice import best_of
from pluriform.search.journal import Trial
from pluriform.search.judge import Judge, objective_name

CPU = torch.device("cpu")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 3, generator=generator)
    split = Split(inputs, inputs.argmax(1))
    return Data("made", "classification", split, split, split, classes=("a", "b", "c"))


def scaled(factor):
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data = factor * torch.eye(3)
    return layer


def test_equal_accuracies_are_decided_by_the_loss_and_never_more(data):
    judge = Judge(data, CPU)
    unsure, sure = judge(scaled(0.1)), judge(scaled(5.0))
    assert judge.score(unsure.log()) == judge.score(sure.log()) == 1.0
    assert float(sure.criterion) < float(unsure.criterion)
    wrong = judge(scaled(-1.0))
    assert judge.score(wrong.log()) < 1.0
    assert float(wrong.criterion) > float(unsure.criterion) + 0.5 / 50
    assert judge.merit(float(sure.criterion)) == pytest.approx(1.0 - float(sure.loss) / 100)


def test_the_merit_decides_between_trials_of_one_score():
    figures = {"parameters": 1, "latency": 1.0}
    trials = [
        Trial(i, state="done", told=i, score=1.0, figures=figures | {"merit": m}) for i, m in enumerate([0.9, 0.95])
    ]
    assert best_of(trials).number == 1


def test_regression_is_judged_by_the_error(data):
    split = Split(data.train.inputs, 2.0 * data.train.inputs)
    judge = Judge(Data("made", "regression", split, split, split), CPU)
    found = judge(scaled(1.0))
    assert judge.score(found.log()) == pytest.approx(-math.sqrt(float(data.train.inputs.square().mean())), rel=1e-5)
    assert found.criterion is None
    assert judge.merit(1.0) is None


def recall_of_the_first(outputs, targets):
    return (outputs.argmax(1) == 0)[targets == 0].float().mean()


def test_a_metric_of_the_users_own(data):
    judge = Judge(data, CPU, recall_of_the_first)
    always = nn.Linear(3, 3)
    always.weight.data.zero_()
    always.bias.data = torch.tensor([1.0, 0.0, 0.0])
    found = judge(always)
    assert judge.score(found.log()) == 1.0
    assert float(found.criterion) == -1.0
    assert judge.merit(-1.0) is None
    assert objective_name(recall_of_the_first) == "recall_of_the_first"
    assert objective_name(None, "rmse") == "rmse"


@pytest.mark.parametrize("wrong", [lambda *_: float("nan"), lambda *_: "much", lambda *_: torch.ones(2)])
def test_what_is_no_number_is_refused_by_name(data, wrong):
    with pytest.raises(ConfigError, match=r"expected a finite number; got .*objective .*lambda"):
        Judge(data, CPU, wrong)(scaled(1.0))


def test_a_search_maximises_the_metric(tmp_path):
    digits = pf.load("digits", validation=0.2)
    small = Data("digits", digits.task, Split(*digits.train.batch(torch.arange(200))), digits.validation, digits.test,
                 digits.classes, digits.bounds)  # fmt: skip
    method = pf.MorphismSearch(trials=3, epochs=1, final=0, strategy="mutate", objective=recall_of_the_first)
    form = method.fit(pf.nets.build("mlp", small), small, run=tmp_path / "run")
    assert form.facts["objective"] == "recall_of_the_first"
    best = form.facts["trials"][form.facts["best"]]
    assert best["score"] == max(trial["score"] for trial in form.facts["trials"])
    held = pf.search.fit.with_validation(small, 0).validation
    with torch.no_grad():
        assert best["score"] == pytest.approx(float(recall_of_the_first(form.module(held.inputs), held.targets)))
    assert method.to_json()["objective"].endswith(":recall_of_the_first")
    assert "recall_of_the_first" in pf.MorphismSearch(objective=recall_of_the_first).label
    named = pf.MorphismSearch(objective="torch.nn.functional:cross_entropy")
    assert named.to_json()["objective"] == "torch.nn.functional:cross_entropy"
    with pytest.raises(ConfigError, match="expected package.module:function; got 'no.such:thing'"):
        pf.MorphismSearch(trials=1, objective="no.such:thing").fit(pf.nets.build("mlp", small), small)
