"""Regression: error, likelihood, coverage and the band of a known curve."""

import math

import pytest
import torch

from pluriform.evaluation.regression import measure_regression
from pluriform.evaluation.subject import Subject
from pluriform.metrics.regression import rmse
from pluriform.prediction import Prediction


@pytest.fixture(scope="module")
def findings(curve_form, curve_data):
    return measure_regression(Subject(curve_form, curve_data))


def test_figures_of_a_good_fit(findings, curve_form, curve_data):
    found = {(entry.name, *entry.condition.values()): entry for entry in findings.measures}
    oracle = rmse(curve_form.predict(curve_data.test.inputs).mean, curve_data.test.targets)
    assert found["rmse",].value == pytest.approx(oracle)
    assert found["rmse",].low < oracle < found["rmse",].high
    assert findings.protocol["regression"]["noise_variance"] == pytest.approx(0.04, rel=0.3)
    for level in (0.5, 0.9, 0.95):
        assert found["coverage", level].value == pytest.approx(level, abs=0.08)
    gaussian = torch.distributions.Normal(0.0, 0.2).entropy()
    assert found["nll",].value == pytest.approx(float(gaussian), abs=0.15)


def test_the_band_follows_the_curve_and_the_samples_are_there(findings):
    band, observed = findings.curves
    assert (band.name, observed.name) == ("predictive_band", "observations")
    x, low, high = (torch.tensor(band.columns[name]) for name in ("x", "low", "high"))
    inside = x.abs() < 0.9
    truth = (3 * x).sin()
    assert ((low < truth) & (truth < high))[inside].all()
    assert float((high - low)[inside].mean()) == pytest.approx(2 * 1.96 * 0.2, rel=0.2)
    assert x.min() < -1.4
    assert x.max() > 1.4
    assert len(observed.columns["x"]) == len(observed.columns["y"]) == 300


def test_a_variance_of_the_form_widens_the_band(curve_form, curve_data):
    class Unsure(type(curve_form)):
        def predict_batch(self, inputs):
            return Prediction(self(inputs), variance=0.04 + inputs.abs() * 10)

    findings = measure_regression(Subject(Unsure(curve_form.module, curve_data.signature), curve_data))
    band = findings.curves[0].columns
    width = torch.tensor(band["high"]) - torch.tensor(band["low"])
    assert width[0] > 3 * width[100]
    assert width[0] == pytest.approx(2 * 1.959964 * (0.04 + 10 * 1.5) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("stated", "scale"), [(0.01, 4), (0.04, 1), (0.4, 0.1)])
def test_a_wrong_variance_shows_and_its_scale_is_found(curve_form, curve_data, stated, scale):
    class Stated(type(curve_form)):
        def predict_batch(self, inputs):
            return Prediction(self(inputs), variance=torch.full_like(inputs, stated))

    found = measure_regression(Subject(Stated(curve_form.module, curve_data.signature), curve_data)).measures
    plain = next(entry for entry in found if entry.name == "nll" and not entry.condition)
    scaled = next(entry for entry in found if entry.name == "nll" and entry.condition)
    fitted = scaled.condition["variance_scale"]
    assert fitted == pytest.approx(scale, rel=0.35)
    squared = found[0].value ** 2 / stated
    assert plain.value - scaled.value == pytest.approx((squared * (1 - 1 / fitted) - math.log(fitted)) / 2)
