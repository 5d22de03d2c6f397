import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from pluriform.errors import ConfigError, ShapeError
from pluriform.metrics.feature_distance import frechet_distance, kernel_distance


def draw(samples, width, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(width, width))
    return torch.from_numpy(generator.normal(size=(samples, width)) @ mix + shift)


def by_scipy(first, second):
    first, second = first.numpy(), second.numpy()
    covariances = [np.cov(side, rowvar=False) for side in (first, second)]
    root = np.real(scipy.linalg.sqrtm(covariances[0] @ covariances[1]))
    difference = first.mean(0) - second.mean(0)
    return difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root)


def test_frechet_distance_agrees_with_a_matrix_root():
    first, second = draw(200, 8, 0), draw(150, 8, 1, 0.3)
    assert frechet_distance(first, second) == pytest.approx(by_scipy(first, second), rel=1e-6)


def test_frechet_distance_agrees_with_torchmetrics():
    first, second = (draw(60, 4, seed) for seed in (0, 1))
    moments = [(side.mean(0), side.T.cov()) for side in (first, second)]
    wanted = _compute_fid(moments[0][0], moments[0][1], moments[1][0], moments[1][1])
    assert frechet_distance(first, second) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("samples", [5, 40])
def test_frechet_distance_of_a_set_to_itself_and_shifted(samples):
    own = draw(samples, 16, 0)
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-6)
    shift = torch.zeros(16, dtype=torch.float64)
    shift[3] = 1
    assert frechet_distance(own, own + shift) == pytest.approx(1, abs=1e-6)


def test_frechet_distance_warns_of_small_counts(caplog):
    frechet_distance(draw(30, 4, 0), draw(45, 4, 1))
    assert "of 4 features from 30 samples: below 40 it ranks noise" in caplog.text
    caplog.clear()
    frechet_distance(draw(40, 4, 0), draw(45, 4, 1))
    assert not caplog.text


def test_frechet_distance_from_few_samples_is_large():
    first, second = (torch.randn(100, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert 200 < frechet_distance(first, second) < 320  # One distribution; the sheet's own simulation gives 259.
    assert abs(kernel_distance(first, second).value) < 0.01


def by_loops(first, second):
    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    size = len(first)
    pairs = [(i, j) for i in range(size) for j in range(size)]
    own = [sum(kernel(side[i], side[j]) for i, j in pairs if i != j) for side in (first, second)]
    cross = sum(kernel(first[i], second[j]) for i, j in pairs)
    return sum(own) / (size * (size - 1)) - 2 * cross / size**2


def test_kernel_distance_of_the_whole_agrees_with_loops_and_torchmetrics():
    first, second = draw(12, 5, 0), draw(12, 5, 1, 0.5)
    found = kernel_distance(first, second, subsets=2, size=12)
    assert found.value == pytest.approx(by_loops(first, second), rel=1e-9)
    assert found.value == pytest.approx(float(poly_mmd(first, second)), rel=1e-6)
    assert found.deviation == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased():
    own = draw(40, 3, 0)
    assert kernel_distance(own, own, size=40).value < 0
    values = [kernel_distance(draw(20, 3, 2 * i), draw(20, 3, 2 * i + 1), subsets=2).value for i in range(60)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_deviation_over_half_samples_is_about_the_standard_error():
    pairs = [
        [torch.randn(40, 3, generator=torch.Generator().manual_seed(2 * i + j)) for j in (0, 1)] for i in range(60)
    ]
    found = [kernel_distance(one, two + 1.0, subsets=8) for one, two in pairs]
    error = np.std([one.value for one in found])
    assert 0.6 < np.mean([one.deviation for one in found]) / error < 1.8


def test_faults():
    with pytest.raises(ShapeError, match="equally many features"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ShapeError, match="at least 2 samples"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ConfigError, match="subset of 2 to 5 samples; got 100 of 6"):
        kernel_distance(torch.zeros(5, 3), torch.zeros(5, 3), size=6)
