"""The exponential function of the kernels."""

import numpy as np
from numba import njit

from pluriform.fused.exponential import exp


@njit
def _each(values, results):
    for i in range(values.shape[0]):
        results[i] = exp(values[i])


def of(values):
    values = np.asarray(values, np.float32)
    results = np.empty_like(values)
    _each(values, results)
    return results


def test_it_is_exact_to_a_unit_in_the_last_place():
    x = np.linspace(-87, 88, 200_003).astype(np.float32)
    assert np.abs(of(x) / np.exp(x.astype(np.float64)) - 1).max() < 1.2e-7
    assert (np.diff(of(x)) >= 0).mean() > 0.9999


def test_far_numbers_are_clamped_and_nan_stays():
    found = of([-np.inf, -1000.0, 1000.0, np.inf, np.nan, 0.0])
    assert np.allclose(found[[0, 1]], np.exp(-87.0), rtol=1e-6)
    assert np.allclose(found[[2, 3]], np.exp(88.0), rtol=1e-6)
    assert np.isnan(found[4])
    assert found[5] == 1.0
