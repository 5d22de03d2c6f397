"""Accuracy, NLL and Brier score against torchmetrics, scikit-learn and hand computations."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from pluriform.metrics.classification import LOG_FLOOR, accuracy, brier, brier_terms, nll, nll_terms


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(500, 7, generator=generator).softmax(-1), torch.randint(0, 7, (500,), generator=generator)


def test_accuracy_and_nll_equal_scikit_learn(case):
    p, y = case
    assert accuracy(p, y) == pytest.approx(accuracy_score(y, p.argmax(-1)))
    exact = (p.double() / p.double().sum(-1, keepdim=True)).numpy()
    assert nll(p, y) == pytest.approx(log_loss(y, exact, labels=range(7)), rel=1e-6)


def test_brier_equals_the_squared_distance_to_the_one_hot_label(case):
    p, y = case
    distance = (p.double() - torch.nn.functional.one_hot(y, 7)).square().sum(-1)
    torch.testing.assert_close(brier_terms(p, y), distance, atol=1e-12, rtol=0)
    assert brier(p, y) == pytest.approx(float(distance.mean()))


def test_uniform_probabilities_have_known_scores():
    p, y = torch.full((4, 5), 0.2), torch.tensor([0, 1, 2, 3])
    assert brier(p, y) == pytest.approx(1 - 1 / 5)
    assert nll(p, y) == pytest.approx(math.log(5), rel=1e-6)


def test_a_probability_of_zero_is_the_only_one_altered():
    p = torch.tensor([[1.0, 0.0], [1 - 1e-30, 1e-30]])
    terms = nll_terms(p, torch.tensor([1, 1]))
    assert terms[0] == pytest.approx(-math.log(LOG_FLOOR))
    assert terms[1] == pytest.approx(30 * math.log(10), rel=1e-6)


def test_ensemble_scores_are_at_most_the_mean_of_its_members():
    members = torch.randn(6, 300, 4, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)
    y = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(1))
    for score in (nll, brier):
        assert score(members.mean(0), y) <= sum(score(p, y) for p in members) / 6
