"""Approximations of single entries, against NumPy in float64."""

import numpy as np

from pluriform.infinite.engine.entries import arc_cosine, exponential


def test_arc_cosine():
    for c in np.float32(np.linspace(-1, 1, 4001)):
        angle, sine = arc_cosine(c)
        assert abs(angle - np.arccos(np.float64(c))) < 5e-7
        assert abs(sine - np.sqrt(1 - np.float64(c) ** 2)) < 2e-7


def test_exponential():
    for x in np.float32(np.linspace(-39, 0, 2001)):
        exact = np.exp(np.float64(x))
        assert abs(exponential(x) - exact) < 2e-5 * exact
    assert 0 <= exponential(np.float32(-1e4)) < 1e-17
    assert exponential(np.float32(0)) == 1
