import dataclasses

import pytest
import torch
from torch.utils.data import Dataset

from pluriform.data.check import check_fit_data
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import BoundsError, EmptySplitError, LabelError, NonFiniteError, ShapeError


def classification(number=12, **changes):
    part = Split(torch.rand(number, 1, 4, 4), torch.arange(number) % 3)
    return dataclasses.replace(Data("toy", "classification", part, part, part, ("a", "b", "c"), (0.0, 1.0)), **changes)


def regression(inputs, targets):
    part = Split(inputs, targets)
    return Data("toy", "regression", part, part, part)


def with_inputs(change):
    data = classification()
    inputs = data.train.inputs.clone()
    change(inputs)
    return dataclasses.replace(data, train=Split(inputs, data.train.targets))


def test_good_data_pass():
    check_fit_data(classification())
    check_fit_data(regression(torch.randn(5, 2), torch.randn(5, 1)))


def test_empty_validation_and_test_pass_but_not_empty_training():
    none = Split(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    check_fit_data(classification(validation=none, test=none))
    with pytest.raises(EmptySplitError, match=r"got 0 samples \(toy\.train\)\. To fix: use it as outliers"):
        check_fit_data(classification(train=none))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_sample_that_is_not_finite_is_named(bad):
    def spoil(inputs):
        inputs[7, 0, 2, 1] = bad
        inputs[9, 0, 0, 0] = float("nan")

    with pytest.raises(NonFiniteError, match=rf"expected finite numbers; got {bad} \(inputs of toy\.train, sample 7\)"):
        check_fit_data(with_inputs(spoil))


def test_targets_that_are_not_finite():
    targets = torch.zeros(6, 2)
    targets[4, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"targets of toy\.train, sample 4"):
        check_fit_data(regression(torch.zeros(6, 2), targets))


def test_faults_of_the_test_split_are_found_too():
    part = Split(torch.full((3, 1, 4, 4), float("nan")), torch.arange(3))
    with pytest.raises(NonFiniteError, match=r"toy\.test, sample 0"):
        check_fit_data(classification(test=part))


def test_labels_outside_the_classes():
    labels = torch.arange(12) % 3
    labels[5] = 3
    with pytest.raises(
        LabelError, match=r"expected labels in 0\.\.2 for 3 classes; got label 3 \(toy\.train, sample 5\)"
    ):
        check_fit_data(classification(train=Split(torch.rand(12, 1, 4, 4), labels)))
    labels[2] = -1
    with pytest.raises(LabelError, match=r"got label -1 \(toy\.train, sample 2\)"):
        check_fit_data(classification(train=Split(torch.rand(12, 1, 4, 4), labels)))


def test_one_class_only():
    part = Split(torch.rand(4, 1, 4, 4), torch.full((4,), 2))
    with pytest.raises(LabelError, match="expected at least two classes; got only class 2"):
        check_fit_data(classification(train=part))


def test_pixels_that_were_not_divided():
    with pytest.raises(
        BoundsError, match=r"expected inputs in \[0, 1\]; .* To fix: divide by 255: these look like pixels"
    ):
        check_fit_data(with_inputs(lambda inputs: inputs.mul_(255)))


def test_inputs_outside_their_bounds_name_the_sample():
    def spoil(inputs):
        inputs[3] = -0.5

    with pytest.raises(BoundsError, match=r"values from -0\.5 to .*first in sample 3\)\. To fix: give the true bounds"):
        check_fit_data(with_inputs(spoil))


def test_rounding_does_not_leave_the_bounds():
    check_fit_data(with_inputs(lambda inputs: inputs[0].fill_(1 + 1e-7)))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            Split(torch.zeros(12, 1, 4, 4, dtype=torch.int64), torch.arange(12) % 3),
            "expected floating-point inputs; got torch.int64",
        ),
        (Split(torch.zeros(12), torch.arange(12) % 3), "add a feature axis"),
        (Split(torch.zeros(12, 1, 4, 4), torch.arange(11) % 3), "expected as many targets as inputs; got 11 for 12"),
        (Split(torch.zeros(12, 1, 4, 4), torch.eye(3).repeat(4, 1)), r"use targets.argmax\(1\) if they are one-hot"),
        (Split(torch.zeros(12, 1, 4, 4), torch.zeros(12)), "expected int64 labels; got torch.float32"),
    ],
)
def test_wrong_shapes_and_types(part, words):
    with pytest.raises(ShapeError, match=words):
        check_fit_data(classification(train=part))


def test_splits_of_different_shapes():
    other = Split(torch.rand(3, 1, 5, 5), torch.arange(3))
    with pytest.raises(ShapeError, match=r"expected inputs of shape \(1, 4, 4\); got \(1, 5, 5\) \(toy\.test\)"):
        check_fit_data(classification(test=other))


def test_regression_targets_need_an_output_axis():
    with pytest.raises(ShapeError, match=r"use targets\[:, None\]"):
        check_fit_data(regression(torch.zeros(4, 2), torch.zeros(4)))
    with pytest.raises(ShapeError, match="expected floating-point targets; got torch.int64"):
        check_fit_data(regression(torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.int64)))


class Counted(Dataset):
    """Counts how often it is read."""

    def __init__(self, label):
        self.label, self.reads = label, 0

    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        self.reads += 1
        return torch.zeros(2), self.label


def test_a_stream_is_checked_on_a_spread_only():
    dataset = Counted(1)
    part = StreamSplit(dataset, torch.arange(len(dataset)))
    check_fit_data(Data("toy", "classification", part, part, part, ("a", "b")))
    assert dataset.reads < 300
    dataset.label = 2
    with pytest.raises(LabelError, match=r"got label 2 \(toy\.train, sample 0\)"):
        check_fit_data(Data("toy", "classification", part, part, part, ("a", "b")))
