"""AutoAttack as a protocol: the figure is that of the suite, its stages are told, and it is off unless asked for."""

from dataclasses import replace

import pytest
import torch

from pluriform.attacks import auto_attack as module
from pluriform.attacks.auto_attack import auto_attack
from pluriform.attacks.suite import Member, Suite
from pluriform.attacks.threat import Threat
from pluriform.errors import ConfigError
from pluriform.evaluation.evaluate import evaluate
from pluriform.evaluation.robustness import measure_robustness
from pluriform.evaluation.subject import Subject, stratified_index
from pluriform.evaluation.worst_case import measure_worst_case

SMALL = Suite(
    "AutoAttack small", (Member("apgd-ce", {"steps": 10}), Member("square", {"queries": 60})), "3 classes: cut down"
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "auto_attack_suite", lambda *_: SMALL)


def test_the_figure_is_that_of_the_suite(form, data):
    threat = Threat("linf", 0.05)
    found = measure_worst_case(Subject(form, data, 4), [threat, Threat("l2", 0.2)], samples=60)
    index = stratified_index(data.test.targets, 60, 4)
    worst = auto_attack(form, data.test.inputs[index], data.test.targets[index], threat, SMALL, seed=4)
    first, second = found.measures
    assert first.value == worst.robust_accuracy
    assert 0 < first.value < worst.clean_accuracy
    assert first.low < first.value < first.high
    assert dict(first.condition) == {"threat": "linf", "attack": "autoattack", "eps": 0.05}
    assert (first.count, first.better, second.condition["threat"]) == (60, "higher", "l2")
    told = found.protocol["auto_attack"]
    assert (told["samples"], told["subset"]) == (60, "stratified, seed 4")
    stages = told["linf 0.05"]
    assert (stages["suite"], stages["note"]) == ("AutoAttack small", "3 classes: cut down")
    standing = round(first.value * 60)
    broken = round(worst.clean_accuracy * 60) - worst.stages[0].broken
    assert stages["apgd-ce"] == f"breaks {worst.stages[0].broken} of {worst.stages[0].attacked}, {broken} stand"
    assert stages["square"].endswith(f", {standing} stand")


def test_it_is_no_weaker_than_the_first_attacks(form, data):
    subject = Subject(form, data)
    threat = Threat("linf", 0.06)
    ladder = measure_robustness(subject, [threat], fractions=(1.0,)).measures
    (worst,) = measure_worst_case(subject, [threat]).measures
    assert worst.value <= min(m.value for m in ladder if m.name == "robust_accuracy") + 0.005


def test_a_blind_search_that_finds_more_is_a_reason_to_look(form, data):
    class Masked(type(form)):
        """Steps a thousandth wide, with a gradient that points nowhere."""

        def forward(self, inputs):
            steps = (inputs * 1000).round() / 1000
            return super().forward(steps) + 0 * inputs.sum()

    found = measure_worst_case(Subject(Masked(form.module, data.signature), data), [Threat("linf", 0.3)], samples=60)
    (words,) = found.protocol["auto_attack"]["flags"]
    assert words.startswith("linf: Square, without gradients, breaks ")
    honest = measure_worst_case(Subject(form, data), [Threat("linf", 0.3)], samples=60)
    assert honest.protocol["auto_attack"]["flags"] == []


def test_what_cannot_be_attacked_is_skipped_with_the_reason(form, data):
    class Missing(type(form)):
        def forward(self, inputs):
            if torch.is_grad_enabled():
                raise NotImplementedError("no differentiable forward here")
            return super().forward(inputs)

    missing = measure_worst_case(Subject(Missing(form.module, data.signature), data), [Threat("linf", 0.1)])
    assert missing.protocol["auto_attack"]["skipped"] == "no differentiable forward here"
    boundless = measure_worst_case(Subject(form, replace(data, bounds=None)), [Threat("linf", 0.1)])
    assert boundless.protocol == {"auto_attack": {"skipped": "stripes has no bounds, which a threat needs"}}
    assert missing.measures == boundless.measures == ()


def test_a_killed_evaluation_goes_on_with_its_attacks(form, data, tmp_path, monkeypatch):
    threats, calls, plain = [Threat("linf", 0.1)], [], module.perturb
    whole = evaluate(form, data, threats=threats, corruptions=(), samples=40, auto_attack=True)

    def perturb(*given, **options):
        calls.append(given[4])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*given, **options)

    monkeypatch.setattr(module, "perturb", perturb)
    for _ in range(2):
        try:
            again = evaluate(
                form, data, threats=threats, corruptions=(), samples=40, auto_attack=True, run=tmp_path / "run"
            )
        except KeyboardInterrupt:
            pass
    assert calls.count("apgd-ce") == 1
    assert [m for m in again.measures if m.name == "robust_accuracy"] == [
        m for m in whole.measures if m.name == "robust_accuracy"
    ]


def test_evaluate_runs_it_when_asked(form, data, curve_form, curve_data):
    """That it is off otherwise shows in the protocols of `test_evaluate`."""
    threats = [Threat("linf", 0.1)]
    asked = evaluate(form, data, threats=threats, corruptions=(), samples=40, auto_attack=True)
    assert asked.get("robust_accuracy", threat="linf", attack="autoattack", eps=0.1).count == 40
    with pytest.raises(ConfigError, match="expected a threat for AutoAttack; got none"):
        evaluate(form, data, auto_attack=True)
    found = evaluate(curve_form, curve_data, threats=threats, auto_attack=True)
    assert found.protocol["auto_attack"] == {"skipped": "defined for classification"}
