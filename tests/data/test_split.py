import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pluriform.data.split import holdout, quotas
from pluriform.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 200), min_size=1, max_size=12), st.floats(0.0, 0.5))
def test_quotas_are_proportional_within_one_and_sum_to_the_size(counts, fraction):
    counts = np.array(counts)
    size = round(fraction * counts.sum())
    taken = quotas(counts, size)
    exact = counts * size / counts.sum()
    assert np.all(np.abs(taken - exact) < 1 + 1e-9)
    assert taken.sum() == min(size, int((counts - 1).sum()))
    assert np.all(taken < counts)


def test_quotas_never_empty_a_class():
    assert quotas(np.array([1, 1, 100]), 50).tolist() == [0, 0, 50]


def test_holdout_is_a_partition_that_the_seed_changes():
    labels = torch.arange(100) % 7
    stay, out = holdout(100, labels, 0.3, seed=0)
    assert sorted(stay.tolist() + out.tolist()) == list(range(100))
    assert torch.equal(out, holdout(100, labels, 0.3, seed=0)[1])
    assert not torch.equal(out, holdout(100, labels, 0.3, seed=1)[1])


def test_holdout_is_stratified_whatever_the_order_of_the_labels():
    labels = torch.tensor([0] * 60 + [1] * 30 + [5] * 10)
    _, out = holdout(100, labels, 0.2, seed=3)
    assert torch.bincount(labels[out]).tolist() == [12, 6, 0, 0, 0, 2]


def test_holdout_takes_a_number_too_and_nothing_at_zero():
    assert len(holdout(50, None, 7, seed=0)[1]) == 7
    assert len(holdout(50, None, 0.0, seed=0)[1]) == 0


@pytest.mark.parametrize("amount", [-0.1, 50, 60])
def test_holdout_refuses_what_leaves_nothing(amount):
    with pytest.raises(ConfigError, match=r"expected a fraction in \[0, 1\) or a number below 50"):
        holdout(50, None, amount, seed=0)


def test_streams_iterate_in_batches():
    from torch.utils.data import TensorDataset

    from pluriform.data.data import StreamSplit

    dataset = TensorDataset(torch.arange(600.0)[:, None], torch.arange(600))
    batches = list(StreamSplit(dataset, torch.arange(599, -1, -1)))
    assert [len(inputs) for inputs, _ in batches] == [256, 256, 88]
    assert torch.cat([targets for _, targets in batches]).tolist() == list(range(599, -1, -1))
