"""Answers of splits and streams, and strata."""

import torch

from pluriform.data.data import StreamSplit
from pluriform.evaluation.subject import Subject, answer, stratified_index


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
