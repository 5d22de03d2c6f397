"""Answers, strata, and what is said when form and data do not match."""

from dataclasses import replace

import pytest
import torch

from pluriform.data.data import Split, StreamSplit
from pluriform.errors import EmptySplitError, ShapeError
from pluriform.evaluation.subject import Subject, answer, check_subject, stratified_index


def test_a_stream_is_answered_like_a_split(form, data, monkeypatch):
    monkeypatch.setattr("pluriform.evaluation.subject.READ_AT_ONCE", 50)
    pairs = torch.utils.data.TensorDataset(data.test.inputs, data.test.targets)
    streamed = answer(form, StreamSplit(pairs, torch.arange(len(data.test))))
    whole = Subject(form, data).test
    assert torch.equal(streamed.targets, whole.targets)
    torch.testing.assert_close(streamed.prediction.mean, whole.prediction.mean)


def test_strata_keep_the_shares_of_sorted_files():
    targets = torch.arange(10).repeat_interleave(torch.arange(10, 110, 10))
    index = stratified_index(targets, 110, seed=0)
    assert torch.bincount(targets[index]).tolist() == list(range(2, 22, 2))
    assert len(index.unique()) == 110
    assert torch.equal(index, index.sort().values)
    assert torch.equal(index, stratified_index(targets, 110, seed=0))
    assert not torch.equal(index, stratified_index(targets, 110, seed=1))


def test_few_samples_are_all_taken_and_numbers_need_no_strata():
    assert stratified_index(torch.zeros(5, dtype=torch.long), 9, 0).tolist() == [0, 1, 2, 3, 4]
    assert len(stratified_index(torch.rand(50, 1), 20, 0).unique()) == 20


def test_mismatches_are_said(form, data):
    with pytest.raises(EmptySplitError, match=r"expected a test split with samples; got 0 samples \(stripes.test\)"):
        check_subject(Subject(form, replace(data, test=Split(data.test.inputs[:0], data.test.targets[:0]))))
    wide = replace(data, train=Split(torch.rand(4, 1, 7, 7), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(ShapeError, match=r"expected data for classification with inputs of shape \(1, 6, 6\) and 3"):
        check_subject(Subject(form, wide))
