"""Outliers: shapes and ranges are adapted, figures equal the metrics, synthetic sets are always there."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pluriform.data.data import Data, Split
from pluriform.errors import ShapeError
from pluriform.evaluation import outliers as module
from pluriform.evaluation.outliers import adapt, measure_outliers, scores_of
from pluriform.evaluation.subject import Subject
from pluriform.metrics.detection import aupr, auroc, fpr95
from pluriform.prediction import Prediction, Predictor

NOTHING = Split(torch.zeros(0, 3, 12, 12), torch.zeros(0, dtype=torch.long))


@pytest.fixture
def photos() -> Data:
    generator = torch.Generator().manual_seed(0)
    split = Split(255 * torch.rand(90, 3, 12, 12, generator=generator), torch.arange(90) % 2)
    return Data("photos", "classification", NOTHING, NOTHING, split, ("a", "b"), (0.0, 255.0))


def test_colour_size_and_range_are_adapted_and_named(photos):
    found = adapt(photos.test.inputs, (1, 6, 6), (0.0, 255.0), (0.0, 1.0), "photos")
    assert found.inputs.shape == (90, 1, 6, 6)
    assert found.inputs.max() <= 1
    assert found.steps == (
        "RGB to grey",
        "resized from 12x12 to 6x6, bilinear",
        "values rescaled from 0..255 to 0..1",
    )
    assert float(found.inputs.mean()) == pytest.approx(float(photos.test.inputs.mean()) / 255, rel=0.02)


def test_sets_of_one_name_are_told_apart(form, data):
    sets = [replace(data, name=name) for name in ("arrays", "arrays", "noise")]
    found = measure_outliers(Subject(form, data), sets)
    names = {entry.condition["outliers"] for entry in found.measures if "outliers" in entry.condition}
    assert names == {"arrays", "arrays (2)", "noise (2)", "noise", "inverted"}


def test_grey_becomes_rgb_and_equal_data_stay_untouched():
    grey = torch.rand(4, 1, 6, 6)
    assert torch.equal(adapt(grey, (3, 6, 6), (0.0, 1.0), (0.0, 1.0), "x").inputs, grey.expand(4, 3, 6, 6))
    same = adapt(grey, (1, 6, 6), (0.0, 1.0), (0.0, 1.0), "x")
    assert torch.equal(same.inputs, grey)
    assert same.steps == ()


def test_other_kinds_of_data_are_refused_by_words():
    with pytest.raises(ShapeError, match=r"expected outliers of shape \(5,\), or images; got \(1, 6, 6\) \(x\)"):
        adapt(torch.rand(2, 1, 6, 6), (5,), None, None, "x")


def test_figures_equal_the_metrics_with_outliers_as_positives(pair, data, photos):
    subject = Subject(pair, data)
    findings = measure_outliers(subject, [photos])
    table = {(entry.name, *entry.condition.values()): entry for entry in findings.measures}
    outside = adapt(photos.test.inputs, (1, 6, 6), (0.0, 255.0), (0.0, 1.0), "photos").inputs
    inside, other = scores_of(subject.test.prediction), scores_of(pair.predict(outside))
    assert list(inside) == ["max_probability", "entropy", "mutual_information", "variance", "score"]
    for kind in inside:
        a, b = -other[kind], -inside[kind]
        assert table["auroc", "photos", kind].value == pytest.approx(auroc(a, b))
        assert table["aupr", "photos", kind].value == pytest.approx(aupr(a, b))
        assert table["fpr95", "photos", kind].value == pytest.approx(fpr95(a, b))
        assert table["aupr", "photos", kind, "inside"].value == pytest.approx(aupr(-b, -a))
        assert table["fpr95", "photos", kind, "inside"].value == pytest.approx(fpr95(-b, -a))
        assert table["auroc", "photos", kind].low <= auroc(a, b) <= table["auroc", "photos", kind].high
    assert table["auroc", "photos", "score"].count == 240 + 90


@pytest.fixture
def steep(form, data) -> Predictor:
    """A form with a score that needs gradients, known in closed form: minus the norm of 2 x."""

    class Steep(Predictor):
        def forward(self, inputs):
            return form(inputs)

        def input_scores(self, inputs):
            inputs = inputs.clone().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(inputs.square().sum(), inputs)
            return {"approximate_mass": -gradient.flatten(1).norm(dim=1)}

    return Steep(data.signature)


def test_scores_that_need_gradients_are_among_the_figures(steep, data):
    findings = measure_outliers(Subject(steep, data), [])
    found = next(
        m
        for m in findings.measures
        if m.name == "auroc" and m.condition == {"outliers": "inverted", "score": "approximate_mass"}
    )
    inside = -2 * data.test.inputs.flatten(1).norm(dim=1).double()
    outside = -2 * (1 - data.test.inputs).flatten(1).norm(dim=1).double()
    assert found.value == pytest.approx(auroc(-outside, -inside), abs=1e-6)
    assert found.count == 240 + 240
    assert "approximate_mass" in findings.protocol["outliers"]["scores"]
    assert findings.protocol["outliers"]["need_gradients"].startswith("approximate_mass: 240 test samples")
    curves = [c for c in findings.curves if c.condition["score"] == "approximate_mass"]
    assert [c.condition["outliers"] for c in curves] == ["noise", "inverted"]


def test_scores_that_need_gradients_are_taken_of_a_part(steep, data, monkeypatch):
    monkeypatch.setattr(module, "WITH_GRADIENTS", 50)
    findings = measure_outliers(Subject(steep, data), [])
    counts = {m.condition["score"]: m.count for m in findings.measures}
    assert counts == {"max_probability": 480, "entropy": 480, "approximate_mass": 100}
    told = findings.protocol["outliers"]["need_gradients"]
    assert told == "approximate_mass: 50 test samples, stratified, and at most 50 outliers of each set, seed 0"


def test_forms_without_such_scores_say_nothing_of_them(form, data):
    assert "need_gradients" not in measure_outliers(Subject(form, data), []).protocol["outliers"]


def test_draws_of_two_modes_are_noticed_on_outliers(data):
    """Half of the members call everything bright left, half middle, but all agree on the test set."""

    class Moded(Predictor):
        def members(self, x):
            columns = x.mean((1, 2)).view(-1, 3, 2).mean(2)
            known = 60 * (columns - columns.mean(1, keepdim=True))
            flat = columns.std(1, keepdim=True) < 0.08
            return torch.stack([torch.where(flat, 20 * torch.eye(3)[i % 2], known) for i in range(6)]).softmax(-1)

        def forward(self, x):
            return self.members(x).mean(0).log()

        def predict_batch(self, x):
            return Prediction(self.members(x).mean(0), members=self.members(x))

    sets = measure_outliers(Subject(Moded(data.signature), data), []).protocol["outliers"]["sets"]
    assert sets["noise"]["modes"].startswith("sure members split evenly on")
    assert "% between 2 classes: as if of so many modes" in sets["noise"]["modes"]
    assert "modes" not in sets["inverted"]


def test_noise_and_inverted_images_are_always_there(form, data):
    findings = measure_outliers(Subject(form, data), [])
    assert set(findings.protocol["outliers"]["sets"]) == {"noise", "inverted"}
    assert {entry.condition["score"] for entry in findings.measures} == {"max_probability", "entropy"}


def test_histograms_hold_shares(pair, data):
    for curve in measure_outliers(Subject(pair, data), []).curves:
        assert set(curve.columns) == {"centers", "inside", "outside"}
        assert sum(curve.columns["inside"]) == pytest.approx(1)
        assert sum(curve.columns["outside"]) == pytest.approx(1)


def test_a_set_that_does_not_fit_is_skipped_with_its_reason(form, data, photos):
    table = Data("table", "classification", Split(torch.rand(9, 4), torch.arange(9) % 2), NOTHING, NOTHING, ("a", "b"))
    empty = replace(photos, name="empty", test=NOTHING)
    protocol = measure_outliers(Subject(form, data), [table, empty]).protocol["outliers"]
    assert "expected outliers of shape (1, 6, 6), or images; got (4,) (table)" in protocol["skipped"]["table"]
    assert "expected outliers; got 0 samples (empty)" in protocol["skipped"]["empty"]


def test_a_form_tells_what_it_knows_from_what_it_does_not(data):
    """A form that is sure on stripes and unsure elsewhere reaches AUROC 1."""
    from pluriform.evaluation.evaluate import _Plain

    class Sharp(torch.nn.Module):
        def forward(self, x):
            columns = x.mean((1, 2)).view(-1, 3, 2).mean(2)
            return 200 * (columns - columns.mean(1, keepdim=True)) * (columns.amax(1, keepdim=True) > 0.55)

    flat = Data("flat", "classification", NOTHING, NOTHING, Split(torch.full((50, 1, 6, 6), 0.4), torch.arange(50) % 2))
    images = 0.3 + 0.4 * F.one_hot(data.test.targets, 3).float().repeat_interleave(2, 1)[:, None, None].expand(
        -1, 1, 6, 6
    )
    easy = replace(data, test=Split(images, data.test.targets))
    findings = measure_outliers(Subject(_Plain(Sharp(), data.signature), easy), [replace(flat, bounds=(0.0, 1.0))])
    assert findings.measures[0].value == 1.0
