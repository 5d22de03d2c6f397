"""The calibration protocol: plain and tempered figures, diagrams that add up."""

import pytest
import torch

from pluriform.evaluation.calibration import measure_calibration
from pluriform.evaluation.subject import Answers, Subject
from pluriform.metrics.calibration import ece, fit_temperature
from pluriform.prediction import Prediction


@pytest.fixture
def findings(form, data):
    return measure_calibration(Subject(form, data))


def test_plain_and_tempered_figures_stand_side_by_side(findings, form, data):
    subject = Subject(form, data)
    temperature = fit_temperature(subject.validation.prediction.mean, subject.validation.targets)
    kinds = [(entry.name, dict(entry.condition)) for entry in findings.measures]
    tempered = {"temperature": temperature}
    assert kinds[:3] == [("ece", {}), ("calibration_gap", {}), ("ece", {"bins": "equal mass"})]
    assert kinds[3:] == [("ece", tempered), ("calibration_gap", tempered), ("nll", tempered)]
    assert findings.measures[0].value == ece(subject.test.prediction.mean, subject.test.targets)
    assert findings.protocol["calibration"]["bins"] == 15
    assert findings.protocol["calibration"]["temperature"]["fitted_on"] == "validation, 100 samples"


def test_intervals_hold_their_figures(findings):
    for entry in findings.measures:
        if entry.low is not None:
            assert entry.low <= entry.value <= entry.high


def test_diagrams_add_up_to_ece(findings):
    for curve, entry in zip(findings.curves, (findings.measures[0], findings.measures[3]), strict=True):
        assert curve.condition == entry.condition
        columns = {name: torch.tensor(values) for name, values in curve.columns.items()}
        gaps = (columns["accuracy"] - columns["confidence"]).abs() * columns["count"]
        assert float(gaps.sum() / columns["count"].sum()) == pytest.approx(entry.value, abs=1e-6)
        assert columns["count"].sum() == 240


def test_without_validation_only_the_plain_figures_remain(form, data):
    subject = Subject(form, data)
    subject.__dict__["validation"] = None
    assert {tuple(entry.condition) for entry in measure_calibration(subject).measures} == {(), ("bins",)}


def test_the_gap_interval_covers_0_for_a_calibrated_form(form, data):
    generator = torch.Generator().manual_seed(0)
    missed = 0
    for seed in range(40):
        p = (3 * torch.randn(400, 3, generator=generator)).softmax(-1)
        labels = torch.multinomial(p, 1, generator=generator).squeeze(1)
        subject = Subject(form, data, seed)
        subject.__dict__["test"] = Answers(Prediction(p), labels)
        subject.__dict__["validation"] = None
        gap = measure_calibration(subject).measures[1]
        missed += not gap.low <= 0 <= gap.high
    assert missed <= 6


def test_the_ece_interval_lies_around_its_figure(form, data):
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(300, 3, generator=generator)).softmax(-1)
    subject = Subject(form, data)
    subject.__dict__["test"] = Answers(Prediction(p), torch.multinomial(p, 1, generator=generator).squeeze(1))
    subject.__dict__["validation"] = None
    entry = measure_calibration(subject).measures[0]
    half = (entry.high - entry.low) / 2
    assert (entry.high + entry.low) / 2 == pytest.approx(entry.value, abs=0.25 * half)
