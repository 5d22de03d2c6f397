"""Bootstrap intervals: coverage on a binomial, agreement with copied samples and with SciPy, speed."""

import time

import numpy as np
import pytest
import torch
from scipy import stats

from pluriform.evaluation.bootstrap import Bootstrap
from pluriform.metrics.detection import auroc, score_counts


def test_intervals_cover_a_binomial_share():
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(200, 400, generator=generator) < 0.8).double()
    intervals = [Bootstrap(seed).means(row[:, None])[0] for seed, row in enumerate(hits)]
    covered = sum(interval.low <= 0.8 <= interval.high for interval in intervals)
    assert 0.90 <= covered / 200 <= 0.98


def test_width_is_that_of_the_normal_approximation():
    terms = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1.0, 5.0]) + 100
    for interval, column in zip(Bootstrap().means(terms), terms.T, strict=True):
        half = 1.96 * float(column.std()) / 3000**0.5
        assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
        assert (interval.high + interval.low) / 2 == pytest.approx(float(column.mean()), abs=0.2 * half)


def test_counts_are_resamples():
    counts = Bootstrap(3, 50).statistics(70, lambda counts: counts)
    assert counts.shape == (50, 70)
    assert (counts.sum(1) == 70).all()
    assert counts.var() == pytest.approx(1, abs=0.1)


def test_chunks_do_not_change_the_statistics(monkeypatch):
    whole = Bootstrap(1, 20).statistics(30, lambda counts: counts)
    monkeypatch.setattr("pluriform.evaluation.bootstrap.ELEMENTS", 100)
    monkeypatch.setattr("pluriform.evaluation.bootstrap.KEPT", 0)
    assert torch.equal(Bootstrap(1, 20).statistics(30, lambda counts: counts), whole)


def test_same_seed_same_intervals():
    terms = torch.rand(100, 1, generator=torch.Generator().manual_seed(0))
    assert Bootstrap(4).means(terms) == Bootstrap(4).means(terms) != Bootstrap(5).means(terms)


@pytest.mark.parametrize("samples", [60, 2000])
def test_auroc_intervals_agree_with_scipy(samples):
    generator = torch.Generator().manual_seed(0)
    outside, inside = torch.randn(samples, generator=generator) + 1, torch.randn(samples, generator=generator)
    found = Bootstrap().detection(score_counts(outside, inside), lambda counts: counts.auroc()[:, None])[0]

    def statistic(a, b):
        return stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))

    pair = (outside.numpy(), inside.numpy())
    oracle = stats.bootstrap(pair, statistic, n_resamples=300, vectorized=False, method="percentile", rng=0)
    low, high = oracle.confidence_interval
    width = float(high - low)
    assert found.low == pytest.approx(float(low), abs=0.2 * width)
    assert found.high == pytest.approx(float(high), abs=0.2 * width)
    assert found.low < auroc(outside, inside) < found.high


def test_intervals_of_shares_stay_in_their_range():
    ones = score_counts(torch.ones(20), torch.zeros(20))
    assert Bootstrap().detection(ones, lambda counts: counts.auroc()[:, None])[0].high == 1.0


def test_ten_thousand_samples_take_less_than_a_second():
    terms = torch.from_numpy(np.random.default_rng(0).random((10_000, 3)))
    start = time.process_time()
    Bootstrap().means(terms)
    assert time.process_time() - start < 1
