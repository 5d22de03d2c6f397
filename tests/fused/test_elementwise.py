"""Losses of a block, at lengths that fill registers and at lengths that do not."""

import numpy as np
import pytest
from numba import njit

from pluriform.fused.elementwise import squared_error

GUARD = 7.0


@njit
def called(values, outputs, lanes, count, targets, first, scale):
    return squared_error(values, outputs, lanes, count, targets, first, scale)


@pytest.mark.parametrize("outputs", [1, 8, 21, 64])
@pytest.mark.parametrize(("lanes", "count"), [(8, 1), (8, 8), (16, 13), (32, 32), (40, 37)])
def test_squared_errors_and_their_gradients(outputs, lanes, count):
    random = np.random.default_rng(outputs * lanes)
    values = random.standard_normal((outputs + 1, lanes)).astype(np.float32)
    values[-1] = GUARD  # Behind the block: must stay.
    targets = random.standard_normal((3 + count, outputs)).astype(np.float32)
    error = values[:-1, :count] - targets[3:].T
    gradient = np.zeros((outputs, lanes), np.float32)
    gradient[:, :count] = 2 * 0.25 * error
    loss = called(values.ctypes.data, outputs, lanes, count, targets.ctypes.data, 3, 0.25)
    assert loss == pytest.approx(np.square(error, dtype=np.float64).sum(), rel=1e-6)
    np.testing.assert_allclose(values[:-1], gradient, rtol=1e-6)
    assert (values[-1] == GUARD).all()
