"""Attacked against clean inputs: figures equal the metrics on inputs attacked by hand, and known cases."""

from dataclasses import replace

import pytest
import torch

from pluriform.attacks.attack import attack
from pluriform.attacks.threat import Threat
from pluriform.evaluation.detection import measure_detection
from pluriform.evaluation.outliers import scores_of
from pluriform.evaluation.subject import Subject
from pluriform.metrics.detection import auroc
from pluriform.prediction import Predictor

THREAT = Threat("linf", 0.2)


def test_figures_equal_the_metrics_on_inputs_attacked_by_hand(pair, data):
    subject = Subject(pair, data, 4)
    found = measure_detection(subject, [THREAT], fractions=(0, 0.5, 1))
    right = subject.test.prediction.mean.argmax(-1) == subject.test.targets
    x, y = data.test.inputs[right], data.test.targets[right]
    clean = scores_of(pair.predict(x))
    table = {(m.condition["eps"], m.condition["score"]): m for m in found.measures}
    assert set(table) == {(eps, score) for eps in (0.1, 0.2) for score in clean}
    for (eps, score), entry in table.items():
        moved = attack(pair, x, y, Threat("linf", eps), "pgd", 4, steps=20, stop_when_broken=False)
        assert entry.value == pytest.approx(auroc(-scores_of(pair.predict(moved))[score], -clean[score]))
        assert dict(entry.condition) == {"adversarial": "pgd", "threat": "linf", "eps": eps, "score": score}
        assert entry.low <= entry.value <= entry.high
        assert (entry.name, entry.better, entry.count) == ("auroc", "higher", 2 * len(x))


def test_the_attack_goes_past_the_boundary_where_entropy_is_largest(form, data):
    """Stopping at the first misclassified point would flatter the detector."""
    subject = Subject(form, data)
    (found,) = [m for m in measure_detection(subject, [THREAT], (1,)).measures if m.condition["score"] == "entropy"]
    x, y = data.test.inputs, data.test.targets
    stopped = scores_of(form.predict(attack(form, x, y, THREAT, "pgd")))["entropy"]
    assert found.value < auroc(-stopped, -scores_of(form.predict(x))["entropy"]) - 0.02


def test_only_samples_that_were_right_are_attacked_and_a_subset_is_stated(form, data):
    wrong = (data.test.targets + 1) % 3
    mixed = replace(
        data, test=type(data.test)(data.test.inputs, torch.where(torch.arange(240) < 90, wrong, data.test.targets))
    )
    found = measure_detection(Subject(form, mixed, 7), [THREAT], (1,))
    assert found.protocol["detection"]["samples"] == 150
    few = measure_detection(Subject(form, data, 7), [THREAT], (1,), samples=40)
    assert few.protocol["detection"]["samples"] == 40
    assert "seed 7" in few.protocol["detection"]["subset"]
    assert {m.count for m in few.measures} == {80}
    none = replace(data, test=type(data.test)(data.test.inputs, wrong))
    skipped = measure_detection(Subject(form, none), [THREAT]).protocol["detection"]
    assert skipped == {"skipped": "no test sample is classified correctly"}


def test_forms_that_cannot_be_attacked_are_skipped_with_the_reason(form, data):
    class Closed(Predictor):
        def forward(self, inputs):
            if torch.is_grad_enabled():
                raise NotImplementedError("looked up in a table")
            return form(inputs)

    found = measure_detection(Subject(Closed(data.signature), data), [THREAT])
    assert (found.measures, found.protocol["detection"]) == ((), {"skipped": "looked up in a table"})
    boundless = replace(data, bounds=None)
    told = measure_detection(Subject(form, boundless), [THREAT]).protocol["detection"]["skipped"]
    assert told == "stripes has no bounds, which a threat needs"
