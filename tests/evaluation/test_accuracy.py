"""The accuracy protocol: figures equal the metrics, intervals hold them, curves are thinned."""

import pytest
import torch

from pluriform.evaluation.accuracy import measure_accuracy
from pluriform.evaluation.subject import Answers, Subject
from pluriform.metrics.classification import accuracy, brier, nll
from pluriform.metrics.selective import aurc
from pluriform.prediction import Prediction


def test_figures_equal_the_metrics_and_lie_in_their_intervals(form, data):
    subject = Subject(form, data)
    p, y = subject.test.prediction.mean, subject.test.targets
    found = {entry.name: entry for entry in measure_accuracy(subject).measures}
    oracle = {"accuracy": accuracy(p, y), "nll": nll(p, y), "brier": brier(p, y)}
    oracle["aurc"] = aurc(p.amax(-1), (p.argmax(-1) != y).double())
    assert {name: entry.value for name, entry in found.items()} == pytest.approx(oracle)
    for entry in found.values():
        assert entry.low < entry.value < entry.high
        assert entry.count == 240
        assert entry.interval == "bootstrap over the test set, 1000 resamples"
    assert found["accuracy"].better == "higher"
    assert found["nll"].better == found["brier"].better == found["aurc"].better == "lower"


def test_the_curve_is_thinned_and_ends_at_the_error_rate(form, data):
    findings = measure_accuracy(Subject(form, data))
    (curve,) = findings.curves
    assert curve.name == "risk_coverage"
    assert len(curve.columns["risk"]) == len(curve.columns["coverage"]) == 200
    assert curve.columns["coverage"][-1] == 1.0
    assert curve.columns["risk"][-1] == pytest.approx(1 - findings.measures[0].value)


def test_another_seed_moves_intervals_but_not_figures(form, data):
    first, second = (measure_accuracy(Subject(form, data, seed)).measures for seed in (0, 1))
    assert [entry.value for entry in first] == [entry.value for entry in second]
    assert [entry.low for entry in first] != [entry.low for entry in second]
    assert torch.tensor([entry.low for entry in first]).isfinite().all()


def test_the_aurc_interval_is_that_of_copied_samples(form, data):
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(500, 3, generator=generator)).softmax(-1)
    labels = torch.multinomial(p, 1, generator=generator).squeeze(1)
    subject = Subject(form, data)
    subject.__dict__["test"] = Answers(Prediction(p), labels)
    found = measure_accuracy(subject).measures[3]
    copied = []
    for _ in range(400):
        rows = torch.randint(0, 500, (500,), generator=generator)
        copied.append(aurc(p[rows].amax(-1), (p[rows].argmax(-1) != labels[rows]).double()))
    low, high = torch.tensor(copied).quantile(torch.tensor([0.025, 0.975])).tolist()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.2 * (high - low))
