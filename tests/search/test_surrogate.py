"""The Gaussian process of a search against scikit-learn, finite differences and itself."""

import numpy as np
import pytest
import torch

from pluriform.search.kernel import KernelScales, WeisfeilerLehman, covariance, pairs_of, weisfeiler_lehman_labels
from pluriform.search.surrogate import _Objective, _point, _prior, fit_scales, fit_surrogate, standardise

SCALES = KernelScales((0.7, 1.3), 0.4, 1.5, 0.05)


def points(count, seed=0, parts=(5, 3)):
    generator = np.random.default_rng(seed)
    return tuple(generator.standard_normal((count, width)) for width in parts)


def gram(a, b, centres, spread, scales=SCALES):
    """The kernel by loops."""
    found = np.zeros((len(a[0]), len(b[0])))
    for i in range(len(found)):
        for j in range(found.shape[1]):
            exponent, inner = 0.0, 0.0
            for x, y, centre, length in zip(a, b, centres, scales.lengths, strict=True):
                exponent += ((x[i] - y[j]) ** 2).mean() / (2 * length**2)
                inner += ((x[i] - centre[0]) * (y[j] - centre[0])).mean()
            found[i, j] = scales.amplitude * (np.exp(-exponent) + scales.linear * inner / spread)
    return found


def moments(features):
    centres = tuple(part.mean(0, keepdims=True) for part in features)
    return centres, sum(((x - c) ** 2).mean() for x, c in zip(features, centres, strict=True))


@pytest.mark.parametrize("variances", [None, np.linspace(0.0, 0.3, 25)])
def test_mean_variance_and_evidence_are_those_of_scikit_learn(variances):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import PairwiseKernel

    train, new = points(25), points(8, seed=1)
    y = np.sin(train[0][:, 0]) + 0.1 * np.random.default_rng(2).standard_normal(25)
    centres, spread = moments(train)
    whole = tuple(np.concatenate(both) for both in zip(train, new, strict=True))
    table = gram(whole, whole, centres, spread)
    made = fit_surrogate(train, y, scales=SCALES, variances=variances)
    diagonal = table[:25, :25].diagonal() + (0.0 if variances is None else variances)
    noise = (SCALES.noise + 1e-8) * diagonal.mean() + (0.0 if variances is None else variances)
    kernel = PairwiseKernel(metric=lambda i, j, **_: table[int(i[0]), int(j[0])])
    oracle = GaussianProcessRegressor(kernel, alpha=noise * np.ones(25), optimizer=None)
    oracle.fit(np.arange(25.0)[:, None], y - y.mean())
    mean, deviation = oracle.predict(np.arange(25.0, 33.0)[:, None], return_std=True)
    belief = made.predict(new)
    assert np.allclose(belief.mean, mean + y.mean(), atol=1e-8, rtol=0)
    assert np.allclose(belief.deviation**2, deviation**2, atol=1e-8, rtol=0)
    assert made.process.log_marginal_likelihood() == pytest.approx(oracle.log_marginal_likelihood_value_, abs=1e-8)


def test_covariance_of_all_pairs_is_that_by_loops_and_the_same_for_train_and_cross():
    a, b = points(7), points(4, seed=1)
    centres, spread = moments(a)
    lengths = torch.tensor(SCALES.lengths, dtype=torch.float64)
    whole = tuple(np.concatenate(both) for both in zip(a, b, strict=True))
    square = covariance(pairs_of(whole, whole, centres, spread), lengths, SCALES.linear, SCALES.amplitude).numpy()
    cross = covariance(pairs_of(b, a, centres, spread), lengths, SCALES.linear, SCALES.amplitude).numpy()
    assert np.allclose(square, gram(whole, whole, centres, spread), atol=1e-12)
    assert np.allclose(square[7:, :7], cross, atol=1e-12)
    values = np.linalg.eigvalsh(square)
    assert values[0] >= -1e-10 * values[-1]


def test_gradient_of_the_objective_is_that_by_finite_differences():
    features = points(15)
    centres, spread = moments(features)
    y = standardise(np.random.default_rng(3).standard_normal(15)).values
    objective = _Objective(
        pairs_of(features, features, centres, spread), y, np.full(15, 0.1), [1.0, 1.2], _prior(2, True), True
    )
    at = np.array([0.1, -0.2, -0.5, 0.3, -1.0])
    _, slope = objective.both(at)
    steps = 1e-5 * np.eye(5)
    numeric = [(objective.value(at + step) - objective.value(at - step)) / 2e-5 for step in steps]
    assert np.allclose(slope, numeric, atol=1e-6)


def test_fitted_scales_beat_the_starts_and_recover_a_length():
    generator = np.random.default_rng(0)
    features = (generator.standard_normal((150, 2)),)
    centres, spread = moments(features)
    true = KernelScales((0.5,), 0.0, 1.0, 0.05)
    table = gram(features, features, centres, spread, true)
    found = []
    for seed in range(5):
        draw = np.linalg.cholesky(table + 0.05 * np.eye(150)) @ np.random.default_rng(seed).standard_normal(150)
        scales = fit_scales(features, draw, linear=False, iterations=40)
        found.append((scales.lengths[0], scales.noise * scales.amplitude))
    length, noise = np.median(found, axis=0)
    assert 0.35 < length < 0.7
    assert 0.02 < noise < 0.12


def test_intervals_cover_what_they_say():
    inside = []
    for seed in range(100):
        features = points(40, seed=seed, parts=(2, 1))
        centres, spread = moments(tuple(part[:30] for part in features))
        table = gram(features, features, centres, spread) + 1e-9 * np.eye(40)
        f = np.linalg.cholesky(table) @ np.random.default_rng(1000 + seed).standard_normal(40)
        noise = 0.05 * table[:30, :30].diagonal().mean()
        y = f[:30] + np.sqrt(noise) * np.random.default_rng(2000 + seed).standard_normal(30)
        train, new = (tuple(part[i] for part in features) for i in (slice(30), slice(30, None)))
        belief = fit_surrogate(train, y, scales=SCALES).predict(new)
        inside += list(np.abs(f[30:] - belief.mean) < 1.96 * belief.deviation)
    assert 0.92 < np.mean(inside) < 0.98


def test_noise_to_nothing_interpolates_and_variance_stays_below_the_prior():
    train = points(12)
    y = np.random.default_rng(0).standard_normal(12)
    made = fit_surrogate(train, y, scales=KernelScales((0.7, 1.3), 0.0, 1.5, 1e-12))
    assert np.allclose(made.predict(train).mean, y, atol=1e-5)
    assert (made.predict(points(50, seed=9)).deviation ** 2 <= 1.5 + 1e-12).all()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_few_observations_duplicates_and_constants_are_no_trouble(count):
    same = tuple(np.ones((count, width)) for width in (5, 3))
    y = standardise(np.full(count, 3.0)).values
    scales = fit_scales(same, y)
    belief = fit_surrogate(same, y, scales=scales).predict(points(3))
    assert np.allclose(belief.mean, 0.0)
    assert np.isfinite(belief.deviation).all()


def test_singular_without_noise_raises_the_noise_instead_of_losing_observations():
    same = tuple(np.ones((6, width)) for width in (5, 3))
    made = fit_surrogate(same, np.arange(6.0), scales=KernelScales((1.0, 1.0), 0.0, 1.0, 0.0))
    assert len(made.process.targets) == 6
    assert made.predict(same).mean == pytest.approx(np.full(6, 2.5), abs=1e-3)


def test_pending_are_believed_means_stay_and_deviations_fall():
    train, pending, new = points(20), points(3, seed=5), points(6, seed=6)
    y = np.random.default_rng(0).standard_normal(20)
    before = fit_surrogate(train, y, scales=SCALES)
    after = fit_surrogate(train, y, scales=SCALES, pending=pending)
    assert (after.predict(new).deviation <= before.predict(new).deviation + 1e-12).all()
    assert (after.predict(pending).deviation < 0.8 * before.predict(pending).deviation).all()
    assert np.allclose(after.predict(pending).mean, before.predict(pending).mean, atol=1e-6 + 0.2)
    again = fit_surrogate(train, y, scales=SCALES, pending=tuple(part[:0] for part in pending))
    assert np.array_equal(again.predict(new).mean, before.predict(new).mean)


def test_prior_mean_follows_a_covariate():
    generator = np.random.default_rng(0)
    log_parameters = generator.standard_normal((60, 1))
    y = standardise(3.0 * log_parameters[:, 0] + 0.1 * generator.standard_normal(60)).values
    features, new = points(30), points(30, seed=1)
    scales = fit_scales(features, y[:30], covariates=log_parameters[:30])
    with_mean = fit_surrogate(features, y[:30], scales=scales, covariates=log_parameters[:30])
    without = fit_surrogate(features, y[:30], scales=fit_scales(features, y[:30]))
    assert np.corrcoef(with_mean.predict(new, log_parameters[30:]).mean, y[30:])[0, 1] > 0.95
    assert abs(np.corrcoef(without.predict(new).mean, y[30:])[0, 1]) < 0.6


def test_standardised_scores_lift_the_tail_and_keep_the_order():
    gains = np.array([90.0, 91.0, 92.0, 93.0, 10.0])
    made = standardise(gains)
    assert made.values.mean() == pytest.approx(0.0, abs=1e-12)
    assert made.values.std() == pytest.approx(1.0)
    assert made.values[0] - made.values[4] < 3.0
    assert np.argsort(made.values).tolist() == [4, 0, 1, 2, 3]
    assert made.shift + made.spread * made.values[:4] == pytest.approx(gains[:4])
    assert standardise(gains, tail=None).values[0] - standardise(gains, tail=None).values[4] == pytest.approx(
        80.0 / gains.std()
    )


def test_standardised_point_of_scales_is_their_inverse():
    medians = [0.8, 1.1]
    point = _point(SCALES, medians, True)
    assert np.exp(point) == pytest.approx([0.7 / 0.8, 1.3 / 1.1, 0.4, 1.5, 0.05])


def test_weisfeiler_lehman_counts_subtrees_and_ignores_names():
    labels, edges = ["conv", "relu", "conv", "add"], [(0, 1), (1, 2), (2, 3), (0, 3)]
    order = [2, 0, 3, 1]
    renamed = [labels[i] for i in order], [(order.index(a), order.index(b)) for a, b in edges]
    assert weisfeiler_lehman_labels(labels, edges) == weisfeiler_lehman_labels(*renamed)
    assert weisfeiler_lehman_labels(labels, edges) != weisfeiler_lehman_labels(labels, edges[:3])
    assert weisfeiler_lehman_labels(labels, edges, rounds=1)["conv"] == 2

    class Graphs:
        def labelled_graph(self, candidate):
            return labels[:candidate], [edge for edge in edges if max(edge) < candidate]

    kernel = WeisfeilerLehman(Graphs(), rounds=1)
    kernel.observe([2, 3])
    first = kernel.features([2, 3, 4], 1)[0]
    kernel.observe([2, 3, 4])
    assert np.array_equal(kernel.features([2, 3, 4], 1)[0], first)
    assert kernel.features([4], 3)[0].shape[1] > first.shape[1]
