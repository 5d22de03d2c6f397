"""AUROC, AUPR and FPR95 against scikit-learn, with and without ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pluriform.metrics.detection import ScoreCounts, aupr, auroc, fpr95, score_counts

levels = st.lists(st.integers(0, 6), min_size=1, max_size=40)


def oracle(positives, negatives):
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    scores = np.r_[positives, negatives].astype(float)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return roc_auc_score(truth, scores), average_precision_score(truth, scores), fpr[np.argmax(tpr >= 0.95 - 1e-12)]


@given(levels, levels)
@settings(max_examples=150, deadline=None)
def test_all_three_equal_scikit_learn_with_ties(positives, negatives):
    a, b = torch.tensor(positives).double(), torch.tensor(negatives).double()
    assert [auroc(a, b), aupr(a, b), fpr95(a, b)] == pytest.approx(oracle(positives, negatives), abs=1e-9)


def test_all_three_equal_scikit_learn_without_ties():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(700, generator=generator) + 1, torch.randn(400, generator=generator)
    assert [auroc(a, b), aupr(a, b), fpr95(a, b)] == pytest.approx(oracle(a.numpy(), b.numpy()), abs=1e-9)


def test_auroc_equals_torchmetrics():
    from torchmetrics.functional.classification import binary_auroc

    generator = torch.Generator().manual_seed(1)
    scores, truth = torch.rand(500, generator=generator), torch.randint(0, 2, (500,), generator=generator)
    assert auroc(scores[truth == 1], scores[truth == 0]) == pytest.approx(float(binary_auroc(scores, truth)), abs=1e-6)


def test_both_conventions_of_fpr95_on_a_hand_made_case():
    outliers = torch.tensor([float(value) for value in range(20)])
    inside = torch.tensor([-1.0, 0.5, 1.5, 30.0])
    assert fpr95(outliers, inside) == 0.5
    assert fpr95(-inside, -outliers) == 1.0


def test_swapping_positives_mirrors_auroc():
    a, b = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert auroc(a, b) == pytest.approx(1 - auroc(b, a)) == pytest.approx(auroc(-b, -a))


def test_coarse_counts_keep_totals_and_nearly_the_area():
    generator = torch.Generator().manual_seed(0)
    counts = score_counts(torch.randn(5000, generator=generator) + 1, torch.randn(5000, generator=generator))
    coarse = counts.coarse(256)
    assert coarse.positives.sum() == coarse.negatives.sum() == 5000
    assert len(coarse.positives) <= 256
    assert float(coarse.auroc()) == pytest.approx(float(counts.auroc()), abs=1e-4)


def test_resamples_are_independent_rows():
    rows = ScoreCounts(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    for row in range(2):
        alone = ScoreCounts(rows.positives[row], rows.negatives[row])
        for name in ("auroc", "aupr"):
            assert getattr(rows, name)()[row] == getattr(alone, name)()
        assert rows.fpr_at(0.95)[row] == alone.fpr_at(0.95)
