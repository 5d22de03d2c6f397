"""Calibration against torchmetrics, a hand-made diagram and a known temperature."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pluriform.metrics.calibration import (
    TEMPERATURE_RANGE,
    calibration_gap,
    confidence_bins,
    ece,
    fit_temperature,
    reliability,
    with_temperature,
)
from pluriform.metrics.classification import nll


def random_case(samples=2000, outputs=5, seed=0, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(samples, outputs, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return logits, labels


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_torchmetrics(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = random_case()
    p = (3 * logits).softmax(-1)
    oracle = multiclass_calibration_error(p, labels, num_classes=5, n_bins=bins, norm="l1")
    assert ece(p, labels, bins) == pytest.approx(float(oracle), abs=1e-5)


def test_a_diagram_made_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]])
    diagram = reliability(p, torch.tensor([0, 1, 1, 1]), bins=2)
    assert diagram.count.tolist() == [0, 4]
    assert diagram.confidence.tolist() == pytest.approx([0.25, 0.7125])
    assert diagram.accuracy.tolist() == [0, 0.75]
    assert diagram.ece == pytest.approx(0.0375)
    assert calibration_gap(p, torch.tensor([0, 1, 1, 1])) == pytest.approx(0.7125 - 0.75)


def test_bins_are_closed_on_the_right_and_hold_the_ends():
    confidence = torch.tensor([0.0, 0.5, 0.5000001, 1.0])
    assert confidence_bins(confidence, 2).tolist() == [0, 0, 1, 1]


def test_adaptive_bins_have_equal_mass_and_keep_ties_together():
    confidence = torch.rand(900, generator=torch.Generator().manual_seed(0))
    assert torch.bincount(confidence_bins(confidence, 15, adaptive=True)).tolist() == [60] * 15
    confidence[:500] = 1.0
    assert len(confidence_bins(confidence, 15, adaptive=True)[:500].unique()) == 1


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_ece_is_at_least_the_signed_gap(seed, adaptive):
    logits, labels = random_case(200, seed=seed)
    p = (2 * logits).softmax(-1)
    assert ece(p, labels, adaptive=adaptive) >= abs(calibration_gap(p, labels)) - 1e-12


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    logits, labels = random_case(20_000)
    assert fit_temperature((logits * temperature).softmax(-1), labels) == pytest.approx(temperature, rel=0.05)


def test_a_fitted_temperature_never_raises_nll_and_a_second_one_is_1():
    logits, labels = random_case(400, sharpness=5)
    p = (2.5 * logits).softmax(-1)
    tempered = with_temperature(p, fit_temperature(p, labels))
    assert nll(tempered, labels) <= nll(p, labels)
    assert fit_temperature(tempered, labels) == pytest.approx(1.0, abs=0.02)


def test_faultless_and_saturated_predictions_stay_in_the_range():
    labels = torch.arange(10) % 3
    sure = torch.nn.functional.one_hot(labels, 3).float()
    low, high = TEMPERATURE_RANGE
    assert low <= fit_temperature(sure, labels) <= high
    assert low <= fit_temperature(sure, (labels + 1) % 3) <= high


def test_a_few_faultless_samples_ask_for_less_sharpening_than_many():
    sure = torch.nn.functional.one_hot(torch.arange(3), 3).float() * 0.9 + 0.1 / 3
    few, many = (fit_temperature(sure.repeat(n, 1), torch.arange(3).repeat(n)) for n in (2, 2000))
    assert many < 0.4 < few < 1
