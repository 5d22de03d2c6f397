"""Scores of a prediction against SciPy and closed forms."""

import math

import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from pluriform.errors import ShapeError
from pluriform.metrics.uncertainty import (
    disagreement,
    entropy,
    max_probability,
    mutual_information,
    softmax_variance,
)


def test_entropy_equals_scipy():
    p = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    torch.testing.assert_close(entropy(p), torch.from_numpy(scipy_entropy(p.numpy(), axis=1)))


def test_entropy_of_a_certain_prediction_is_0():
    assert float(entropy(torch.tensor([[1.0, 0.0]]))[0]) == pytest.approx(0, abs=1e-30)


def test_identical_members_share_no_information():
    p = torch.rand(1, 20, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert mutual_information(p.expand(5, -1, -1)).max() < 1e-7


@pytest.mark.parametrize(("members", "outputs"), [(2, 5), (5, 2)])
def test_contradicting_members_reach_the_bound(members, outputs):
    certain = torch.eye(outputs)[torch.arange(members) % outputs]
    certain = certain[:members] if members <= outputs else torch.eye(outputs)
    found = mutual_information(certain[:, None])
    assert float(found[0]) == pytest.approx(math.log(min(members, outputs)))


def test_max_probability():
    assert max_probability(torch.tensor([[0.2, 0.8], [0.5, 0.5]])).tolist() == pytest.approx([0.8, 0.5])


def test_disagreement_of_hand_made_votes():
    votes = torch.tensor([[0, 1], [0, 1], [1, 1]])
    members = torch.nn.functional.one_hot(votes, 3).float()
    assert disagreement(members).tolist() == pytest.approx([2 / 3, 0])


def test_disagreement_equals_a_loop_over_pairs():
    members = torch.rand(6, 50, 4, generator=torch.Generator().manual_seed(0))
    votes = members.argmax(-1)
    pairs = [(votes[a] != votes[b]).double() for a in range(6) for b in range(a)]
    torch.testing.assert_close(disagreement(members), torch.stack(pairs).mean(0))
    with pytest.raises(ShapeError, match="expected at least 2 members; got 1"):
        disagreement(members[:1])


def test_softmax_variance_equals_torch_and_reaches_its_bound():
    members = torch.rand(6, 50, 4, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    torch.testing.assert_close(softmax_variance(members), members.var(0, correction=0).sum(-1))
    assert softmax_variance(members[:1].expand(3, -1, -1)).max() < 1e-30
    assert float(softmax_variance(torch.eye(4)[:, None])[0]) == pytest.approx(1 - 1 / 4)
