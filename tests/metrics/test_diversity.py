"""Diversity of members against loops, NumPy and closed forms."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from pluriform.errors import ShapeError
from pluriform.metrics.classification import nll
from pluriform.metrics.diversity import (
    effective_rank,
    ensemble_gain,
    error_correlation,
    even_splits,
    weight_diversity,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def members():
    return draw(6, 200, 4).mul(2).softmax(-1)


@pytest.fixture
def labels():
    return torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))


def test_the_gain_is_member_nll_minus_ensemble_nll_and_never_negative(members, labels):
    found = ensemble_gain(members, labels)
    assert float(found.mean()) == pytest.approx(sum(nll(p, labels) for p in members) / 6 - nll(members.mean(0), labels))
    assert found.min() >= 0
    assert found.max() > 0.1
    assert ensemble_gain(members[:1].expand(5, -1, -1), labels).max() < 1e-12


def test_error_correlation_equals_a_loop_over_pairs(members, labels):
    wrong = [(p.argmax(-1) != labels).double().numpy() for p in members]
    pairs = [np.corrcoef(a, b)[0, 1] for a, b in combinations(wrong, 2)]
    assert error_correlation(members, labels) == pytest.approx(np.mean(pairs))
    assert error_correlation(members[:1].expand(4, -1, -1), labels) == pytest.approx(1)


def test_members_without_errors_have_no_correlation(members, labels):
    right = torch.nn.functional.one_hot(labels, 4).double()
    with_a_perfect_one = error_correlation(torch.cat([members, right[None]]), labels)
    assert with_a_perfect_one == pytest.approx(error_correlation(members, labels))
    assert math.isnan(error_correlation(torch.stack([right, right, members[0]]), labels))
    always_wrong = right.roll(1, -1)
    assert math.isnan(error_correlation(torch.stack([always_wrong, members[0]]), labels))
    with pytest.raises(ShapeError, match="expected at least 2 members; got 1"):
        error_correlation(right[None], labels)


def test_effective_rank_equals_the_entropy_of_the_covariance():
    rows = draw(8, 5) * torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1])
    values = np.linalg.eigvalsh(np.cov(rows.numpy().T))
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_effective_rank_of_known_shapes():
    assert effective_rank(torch.eye(6)) == pytest.approx(5)
    assert effective_rank(draw(7, 1) * draw(1, 30, seed=1) + draw(30, seed=2)) == pytest.approx(1)
    two_modes = draw(2, 40)[torch.tensor([0, 1, 1, 0, 1])]
    assert effective_rank(two_modes) == pytest.approx(1)


def test_rounding_is_no_direction():
    base = draw(1, 500).float().expand(6, -1)
    assert effective_rank(base) == 0
    assert effective_rank(base * (1 + 1e-7 * draw(6, 500, seed=1).float())) == 0
    assert effective_rank(base * (1 + 1e-4 * draw(6, 500, seed=1).float())) > 4


def test_many_columns_are_summed_in_parts():
    rows = draw(4, 3, 50_000).float()
    whole = rows.flatten(1).double().numpy()
    values = np.linalg.svd(whole - whole.mean(0), compute_uv=False)[:3] ** 2
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_even_splits_of_sure_members():
    def sure(*votes):
        return 0.9999 * torch.nn.functional.one_hot(torch.tensor(votes), 4).double() + 0.0001 / 4

    halves, thirds, one = sure(0, 0, 0, 1, 1, 1), sure(0, 0, 1, 1, 2, 2), sure(3, 3, 3, 3, 3, 3)
    found = even_splits(torch.stack([halves, thirds, halves, one], 1))
    assert found == {2: 0.5, 3: 0.25}
    unsure = torch.full((6, 1, 4), 1e-6, dtype=torch.float64)
    unsure[..., :2] = 0.5
    assert even_splits(unsure) == {2: 0, 3: 0}
    assert even_splits(torch.rand(3, 5, 2)) == {}


def test_weight_figures_equal_numpy():
    weights = {"a.weight": draw(5, 3, 4) + 1, "a.bias": draw(5, 3, seed=1) + 1, "count": torch.zeros(5).long()}
    found = weight_diversity(weights)
    flat = torch.cat([weights["a.weight"].flatten(1), weights["a.bias"]], 1).numpy()
    norms = np.linalg.norm(weights["a.weight"].flatten(1).numpy(), axis=1)
    assert found.spread["a.weight"] == pytest.approx(norms.std(ddof=1) / norms.mean())
    assert set(found.spread) == {"a.weight", "a.bias"}
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(flat, 2)]
    assert found.cosine == pytest.approx(np.mean(pairs))
    apart = ((flat - flat.mean(0)) ** 2).sum(1).mean() / (flat**2).sum(1).mean()
    assert found.distance == pytest.approx(apart**0.5)
    assert found.effective_rank == pytest.approx(effective_rank(torch.from_numpy(flat)))


def test_independent_weights_of_one_norm_are_far_apart_all_the_same():
    rows = torch.nn.functional.normalize(draw(20, 1000), dim=1)
    found = weight_diversity({"weight": rows})
    assert found.mean_spread < 1e-12
    assert found.distance == pytest.approx(0.97, abs=0.01)
    assert abs(found.cosine) < 0.01


def test_weights_of_zero_and_wrong_numbers_of_members():
    nothing = weight_diversity({"weight": torch.zeros(3, 4)})
    assert (nothing.mean_spread, nothing.distance, nothing.cosine, nothing.effective_rank) == (0, 0, 0, 0)
    with pytest.raises(ShapeError, match="expected weights of one number of members; got tensors of 2, 3 members"):
        weight_diversity({"a": torch.zeros(2, 4), "b": torch.zeros(3, 4)})
    with pytest.raises(ShapeError, match="tensors of no members"):
        weight_diversity({})
    with pytest.raises(ShapeError, match="expected at least 2 members; got 1"):
        weight_diversity({"a": torch.zeros(1, 4)})
