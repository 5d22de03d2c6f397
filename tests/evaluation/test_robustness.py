"""The robustness ladder on a trained network, its sanity checks and flags."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pluriform.attacks.threat import Threat
from pluriform.errors import ConfigError
from pluriform.evaluation import robustness
from pluriform.evaluation.evaluate import evaluate
from pluriform.evaluation.robustness import measure_robustness
from pluriform.evaluation.subject import Subject

THREAT = Threat("linf", 0.4)


@pytest.fixture(scope="module")
def findings(form, data):
    return measure_robustness(Subject(form, data), [THREAT, Threat("l2", 3.0)])


def ladder(findings, threat, attack):
    return [
        entry.value
        for entry in findings.measures
        if entry.name == "robust_accuracy"
        and (entry.condition["threat"], entry.condition["attack"]) == (threat, attack)
    ]


@pytest.mark.parametrize("threat", ["linf", "l2"])
def test_the_sanity_ladder(findings, form, data, threat):
    clean = float((form.predict(data.test.inputs).mean.argmax(-1) == data.test.targets).double().mean())
    fgsm, pgd = ladder(findings, threat, "fgsm"), ladder(findings, threat, "pgd")
    assert fgsm[0] == pgd[0] == pytest.approx(clean)
    assert pgd == sorted(pgd, reverse=True)
    assert pgd[-1] <= 0.05
    assert all(strong <= weak + 0.005 for strong, weak in zip(pgd, fgsm, strict=True))
    assert findings.protocol["robustness"]["flags"] == []
    assert [m.value for m in findings.measures if m.name == "masked"] == [0.0]


def test_conditions_curves_and_protocol(findings):
    assert dict(findings.measures[4].condition) == {"threat": "linf", "attack": "fgsm", "eps": 0.4}
    assert [dict(curve.condition) for curve in findings.curves][:2] == [
        {"threat": "linf", "attack": "fgsm"},
        {"threat": "linf", "attack": "pgd"},
    ]
    assert findings.curves[1].columns["accuracy"] == ladder(findings, "linf", "pgd")
    assert findings.curves[1].columns["eps"] == pytest.approx([0, 0.05, 0.1, 0.2, 0.4])
    protocol = findings.protocol["robustness"]
    assert protocol["samples"] == 240
    assert protocol["subset"] == "all test samples"
    assert protocol["pgd"].startswith("20 steps of 2.5 eps / 20, random start")


def test_a_subset_is_stratified_and_stated(form, data):
    found = measure_robustness(Subject(form, data, 5), [THREAT], samples=60, fractions=(0, 1))
    assert found.protocol["robustness"]["subset"] == "stratified, seed 5"
    assert {entry.count for entry in found.measures} == {60}


def test_data_without_bounds_are_skipped_with_the_reason(form, data):
    subject = Subject(form, replace(data, bounds=None))
    assert measure_robustness(subject, [THREAT]).protocol == {
        "robustness": {"skipped": "stripes has no bounds, which a threat needs"}
    }


def test_forms_without_a_gradient_are_skipped_with_the_reason(form, data):
    class Rounded(type(form)):
        def forward(self, inputs):
            return super().forward(inputs).detach()

    class Missing(type(form)):
        def forward(self, inputs):
            if torch.is_grad_enabled():
                raise NotImplementedError("no differentiable forward here")
            return super().forward(inputs)

    rounded = measure_robustness(Subject(Rounded(form.module, data.signature), data), [THREAT])
    assert "no gradient from the forward of Rounded" in rounded.protocol["robustness"]["skipped"]
    missing = measure_robustness(Subject(Missing(form.module, data.signature), data), [THREAT])
    assert missing.protocol["robustness"]["skipped"] == "no differentiable forward here"
    assert rounded.measures == missing.measures == ()


def test_a_radius_in_the_wrong_scale_stops_the_evaluation(form, data):
    with pytest.raises(ConfigError, match="8/255 = 0.03137 may be meant"):
        measure_robustness(Subject(form, data), [Threat("linf", 8)])


class Saturated(nn.Module):
    """Logits so large that cross-entropy and its gradient vanish."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return 1e4 * self.module(x)


def test_masked_gradients_are_flagged(form, data):
    found = measure_robustness(Subject(type(form)(Saturated(form.module), data.signature), data), [THREAT])
    words = found.protocol["robustness"]["flags"]
    assert any(w.startswith("linf: ") and "gradients of the cross-entropy are exactly zero" in w for w in words)
    assert [m.value for m in found.measures if m.name == "masked"] == [1.0]


def test_searches_for_masked_gradients_are_left_out_where_they_cost_too_much(form, data, monkeypatch):
    whole = measure_robustness(Subject(form, data), [THREAT], fractions=(0,), samples=30)
    monkeypatch.setattr(robustness, "MOST_MACS", 1)
    monkeypatch.setattr("pluriform.attacks.masking._blind", lambda *_: pytest.fail("a search was made"))
    short = measure_robustness(Subject(form, data), [THREAT], fractions=(0,), samples=30)
    told = [found.protocol["robustness"]["masking"] for found in (whole, short)]
    assert told == ["all signs", "without searches, which would cost too much"]


def test_probabilities_instead_of_logits_and_random_forms_are_flagged(form, data):
    soft = type(form)(nn.Sequential(form.module, nn.Softmax(-1)), data.signature)
    flags = measure_robustness(Subject(soft, data), [THREAT], fractions=(0,)).protocol["robustness"]["flags"]
    assert any("outputs are a distribution" in words for words in flags)

    class Shaky(type(form)):
        calls = 0

        def forward(self, inputs):
            self.calls += 1
            return super().forward(inputs) + self.calls

    shaky = Shaky(form.module, data.signature)
    flags = measure_robustness(Subject(shaky, data), [THREAT], fractions=(0,)).protocol["robustness"]["flags"]
    assert any("the form is randomised" in words for words in flags)


def test_broken_rules_are_put_into_words():
    def rungs(*accuracy):
        columns = [torch.cat([torch.ones(round(100 * a)), torch.zeros(100 - round(100 * a))]) for a in accuracy]
        return robustness._Rungs([0.0, 0.1, 0.2], torch.stack(columns, 1).double())

    words = robustness._violations({"fgsm": rungs(0.9, 0.5, 0.4), "pgd": rungs(0.9, 0.3, 0.6)}, 0.95)
    assert words == [
        "fgsm at eps 0 gives 0.9000, clean accuracy is 0.9500",
        "pgd at eps 0 gives 0.9000, clean accuracy is 0.9500",
        "pgd accuracy rises from 0.3000 at eps 0.1 to 0.6000 at eps 0.2",
        "PGD leaves 0.6000 at eps 0.2, more than FGSM with 0.4000",
    ]


def test_any_attack_is_climbed_where_norm_and_classes_allow_it(form, data):
    names = ("fgsm", "pgd", "apgd-ce", "square")
    subject = Subject(form, data)
    found = measure_robustness(subject, [THREAT, Threat("l1", 2.0)], samples=40, fractions=(0, 1), attacks=names)
    ladders = {(c.condition["threat"], c.condition["attack"]): c.columns["accuracy"] for c in found.curves}
    assert set(ladders) == {("linf", n) for n in names} | {("l1", n) for n in names if n != "square"}
    assert len({ladder[0] for ladder in ladders.values()}) == 1  # Nothing has moved at eps 0.
    assert ladders["linf", "apgd-ce"][1] <= ladders["linf", "fgsm"][1] < ladders["linf", "fgsm"][0]
    assert found.protocol["robustness"]["left out"] == [f"square: not for l1 and {len(data.classes)} classes"]
    assert found.protocol["robustness"]["square"] == "at its defaults"


def test_an_unknown_attack_is_refused_before_anything_is_measured(form, data):
    with pytest.raises(ConfigError, match="apgd-x.*name some of these"):
        evaluate(form, data, threats=[THREAT], attacks=("pgd", "apgd-x"))
