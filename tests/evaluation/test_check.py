"""What is said when form and data do not match, or samples and answers are faulty."""

from dataclasses import replace

import pytest
import torch

from pluriform.data.data import Split
from pluriform.errors import ConfigError, DivergenceError, EmptySplitError, LabelError, NonFiniteError, ShapeError
from pluriform.evaluation.check import check_match
from pluriform.evaluation.subject import answer


def test_mismatches_are_said(form, data):
    with pytest.raises(EmptySplitError, match=r"expected a test split with samples; got 0 samples \(stripes.test\)"):
        check_match(form, replace(data, test=Split(data.test.inputs[:0], data.test.targets[:0])))
    wide = replace(data, train=Split(torch.rand(4, 1, 7, 7), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(ShapeError, match=r"expected data for classification with inputs of shape \(1, 6, 6\) and 3"):
        check_match(form, wide)
    with pytest.raises(ConfigError, match="expected classification or regression; got translation"):
        check_match(form, replace(data, task="translation"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, y: (x, y + 1), LabelError, "expected labels in 0..2; got labels in 1..3 .Plain on stripes"),
        (lambda x, y: (x / 0, y), NonFiniteError, "expected finite inputs; got NaN or infinity"),
    ],
)
def test_faulty_samples_are_said(form, data, change, error, words):
    with pytest.raises(error, match=words):
        answer(form, Split(*change(data.test.inputs, data.test.targets)))


def test_a_form_that_predicts_nan_is_said(form, data):
    class Lost(type(form)):
        def forward(self, inputs):
            return super().forward(inputs) * float("nan")

    with pytest.raises(DivergenceError, match="got NaN or infinity in 240 of 240 .Lost on stripes.. To fix: fit Lost"):
        answer(Lost(form.module, data.signature), data.test)
