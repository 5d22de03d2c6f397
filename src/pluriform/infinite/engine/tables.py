"""What nonlinearities and norms read of variances: two numbers a position, computed once an image."""

import numpy as np
from numba import uintp as U

from pluriform.infinite.engine.compile import LANES, lanewise

__all__ = ["BEND_TABLE", "ERF_TABLE", "GELU_TABLE", "NORM_TABLE", "SINE_TABLE", "tabulate"]

F = np.float32
L = LANES
ONE, TWO, HALF = F(1), F(2), F(0.5)
BEND_TABLE, ERF_TABLE, GELU_TABLE, SINE_TABLE, NORM_TABLE = range(5)


@lanewise
def tabulate(kind, K, source, count, root, inverse, table, eps, mean):
    """Fill a table from a slice of variances at displacement 0.

    Bend: `sqrt(q)` and its inverse (0 for 0). Erf: of `1 + 2 q`. Gelu: of `1 + q`. Sine: `q / 2`. Norm: the inverse of
    `sqrt(q + eps)`, where `mean` of the average over positions.
    """
    o = table * L
    if kind == NORM_TABLE and mean:
        for lane in range(L):
            whole = F(0)
            for x in range(count):
                whole += K[U(source + x * L + lane)]
            factor = ONE / np.sqrt(whole / F(count) + eps)
            for x in range(count):
                root[U(o + x * L + lane)] = factor
        return
    for i in range(count * L):
        q = max(K[U(source + i)], F(0))
        if kind == SINE_TABLE:
            root[U(o + i)] = HALF * q
        elif kind == NORM_TABLE:
            root[U(o + i)] = ONE / np.sqrt(q + eps)
        else:
            value = q if kind == BEND_TABLE else ONE + TWO * q if kind == ERF_TABLE else ONE + q
            length = np.sqrt(value)
            root[U(o + i)] = length
            inverse[U(o + i)] = ONE / length if length > F(0) else F(0)
