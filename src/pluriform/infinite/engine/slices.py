"""Operations on one slice: all entries `(p, p + d)` of a kernel at one displacement `d`, lanes innermost.

A slice is a rectangle of positions, `height x width x LANES` numbers in a row of a workspace that starts at an offset.
`K` holds covariances, `T` neural tangent kernels. Variances of the first input are one number a position, shared by
all lanes, or one a position and lane where every lane is an input with itself (`each`).
"""

import numpy as np
from numba import uintp as U

from pluriform.infinite.engine.compile import LANES, lanewise
from pluriform.infinite.engine.entries import bend_entry, erf_entry, gelu_entry, sine_entry
from pluriform.infinite.engine.lanes import accumulate

__all__ = [
    "add",
    "affine",
    "bend",
    "bent_affine",
    "bent_rows",
    "erf_row",
    "features",
    "gelu_row",
    "horizontal",
    "mix",
    "multiply",
    "normalise",
    "sine_row",
    "total",
    "vertical",
]

F = np.float32
L = LANES


@lanewise
def features(X, Y, each, channels, positions, p, q, K, T, o, width):
    """A row of `sum_c x_c(p) y_c(q)`, features divided by the root of their number."""
    for i in range(width * L):
        K[U(o + i)] = F(0)
        T[U(o + i)] = F(0)
    for c in range(channels):
        a, b = p + c * positions, (q + c * positions) * L
        if each:
            for i in range(width * L):
                K[U(o + i)] += X[U(a * L + i)] * Y[U(b + i)]
        else:
            for x in range(width):
                accumulate(K, o + x * L, Y, b + x * L, X[U(a + x)])


@lanewise
def horizontal(source, s, width_in, target, t, width_out, first, size, stride, dilation):
    """Sums over a window along a row: `target[o] = sum_k source[o stride + k dilation + first]`, zero outside."""
    if size == 3 and stride == 1 and dilation == 1 and first == -1 and width_in == width_out:
        _three(source, s, target, t, width_in)
        return
    for i in range(width_out * L):
        target[U(t + i)] = F(0)
    for k in range(size):
        shift = k * dilation + first
        low = max(0, -(shift // stride))
        high = min(width_out, (width_in - 1 - shift) // stride + 1)
        if stride == 1:
            for i in range(low * L, high * L):
                target[U(t + i)] += source[U(s + i + shift * L)]
        else:
            for x in range(low, high):
                accumulate(target, t + x * L, source, s + (x * stride + shift) * L, F(1))


@lanewise
def _three(source, s, target, t, width):
    if width == 1:
        for i in range(L):
            target[U(t + i)] = source[U(s + i)]
        return
    for i in range(L):
        target[U(t + i)] = source[U(s + i)] + source[U(s + i + L)]
    for i in range(L, (width - 1) * L):
        target[U(t + i)] = source[U(s + i - L)] + source[U(s + i)] + source[U(s + i + L)]
    for i in range((width - 1) * L, width * L):
        target[U(t + i)] = source[U(s + i - L)] + source[U(s + i)]


@lanewise
def vertical(rowsK, rowsT, starts, size, K, T, o, width, weight, bias, rate, bias_rate):
    """Sums over rows of horizontal sums, then the layer: `K' = w S + b`, `T' = w S_T + g S + g_b`."""
    first = starts[0]
    for i in range(width * L):
        K[U(o + i)] = rowsK[U(first + i)]
        T[U(o + i)] = rowsT[U(first + i)]
    for k in range(1, size):
        start = starts[k]
        for i in range(width * L):
            K[U(o + i)] += rowsK[U(start + i)]
            T[U(o + i)] += rowsT[U(start + i)]
    for i in range(width * L):
        moment = K[U(o + i)]
        K[U(o + i)] = weight * moment + bias
        T[U(o + i)] = weight * T[U(o + i)] + rate * moment + bias_rate


@lanewise
def bent_rows(
    rowsK, rowsT, a, b, c, K, T, o, width, r1, i1, one, r2, i2, two, weight, bias, rate, bias_rate, turn, half, each
):
    """`vertical` over three rows and the two-piece nonlinearity in one pass."""
    if each:
        for i in range(width * L):
            moment = rowsK[U(a + i)] + rowsK[U(b + i)] + rowsK[U(c + i)]
            tangent = rowsT[U(a + i)] + rowsT[U(b + i)] + rowsT[U(c + i)]
            q, t = weight * moment + bias, weight * tangent + rate * moment + bias_rate
            K[U(o + i)], T[U(o + i)] = bend_entry(
                q, t, r1[U(one * L + i)], i1[U(one * L + i)], r2[U(two * L + i)], i2[U(two * L + i)], turn, half
            )
        return
    for x in range(width):
        root, inverse = r1[U(one + x)], i1[U(one + x)]
        for lane in range(L):
            i = x * L + lane
            moment = rowsK[U(a + i)] + rowsK[U(b + i)] + rowsK[U(c + i)]
            tangent = rowsT[U(a + i)] + rowsT[U(b + i)] + rowsT[U(c + i)]
            q, t = weight * moment + bias, weight * tangent + rate * moment + bias_rate
            K[U(o + i)], T[U(o + i)] = bend_entry(
                q, t, root, inverse, r2[U(two * L + i)], i2[U(two * L + i)], turn, half
            )


@lanewise
def affine(K, T, source, target, count, weight, bias, tangent_weight, rate, bias_rate):
    """`K' = w K + b`, `T' = w_T T + g K + g_b` on `count` positions."""
    for i in range(count * L):
        q, t = K[U(source + i)], T[U(source + i)]
        K[U(target + i)] = weight * q + bias
        T[U(target + i)] = tangent_weight * t + rate * q + bias_rate


@lanewise
def bent_affine(
    K, T, source, o, width, r1, i1, one, r2, i2, two, weight, bias, tangent_weight, rate, bias_rate, turn, half, each
):
    """`affine` and the two-piece nonlinearity in one pass over a row."""
    if each:
        for i in range(width * L):
            moment = K[U(source + i)]
            q, t = weight * moment + bias, tangent_weight * T[U(source + i)] + rate * moment + bias_rate
            K[U(o + i)], T[U(o + i)] = bend_entry(
                q, t, r1[U(one * L + i)], i1[U(one * L + i)], r2[U(two * L + i)], i2[U(two * L + i)], turn, half
            )
        return
    for x in range(width):
        root, inverse = r1[U(one + x)], i1[U(one + x)]
        for lane in range(L):
            i = x * L + lane
            moment = K[U(source + i)]
            q, t = weight * moment + bias, tangent_weight * T[U(source + i)] + rate * moment + bias_rate
            K[U(o + i)], T[U(o + i)] = bend_entry(
                q, t, root, inverse, r2[U(two * L + i)], i2[U(two * L + i)], turn, half
            )


@lanewise
def bend(K, T, count, source, target, half):
    """Two linear pieces on inputs with themselves at equal positions: `K' = half q`, `T' = half T`."""
    for i in range(count * L):
        K[U(target + i)] = half * K[U(source + i)]
        T[U(target + i)] = half * T[U(source + i)]


@lanewise
def erf_row(K, T, source, o, width, r1, i1, one, r2, i2, two, each):
    """A row of the error function."""
    if each:
        for i in range(width * L):
            K[U(o + i)], T[U(o + i)] = erf_entry(
                K[U(source + i)],
                T[U(source + i)],
                r1[U(one * L + i)],
                i1[U(one * L + i)],
                r2[U(two * L + i)],
                i2[U(two * L + i)],
            )
        return
    for x in range(width):
        root, inverse = r1[U(one + x)], i1[U(one + x)]
        for lane in range(L):
            i = x * L + lane
            K[U(o + i)], T[U(o + i)] = erf_entry(
                K[U(source + i)], T[U(source + i)], root, inverse, r2[U(two * L + i)], i2[U(two * L + i)]
            )


@lanewise
def gelu_row(K, T, source, o, width, r1, i1, one, r2, i2, two, each):
    """A row of the exact GELU."""
    if each:
        for i in range(width * L):
            K[U(o + i)], T[U(o + i)] = gelu_entry(
                K[U(source + i)],
                T[U(source + i)],
                r1[U(one * L + i)],
                i1[U(one * L + i)],
                r2[U(two * L + i)],
                i2[U(two * L + i)],
            )
        return
    for x in range(width):
        root, inverse = r1[U(one + x)], i1[U(one + x)]
        for lane in range(L):
            i = x * L + lane
            K[U(o + i)], T[U(o + i)] = gelu_entry(
                K[U(source + i)], T[U(source + i)], root, inverse, r2[U(two * L + i)], i2[U(two * L + i)]
            )


@lanewise
def sine_row(K, T, source, o, width, r1, i1, one, r2, i2, two, phase, each):
    """A row of a sine."""
    if each:
        for i in range(width * L):
            K[U(o + i)], T[U(o + i)] = sine_entry(
                K[U(source + i)], T[U(source + i)], r1[U(one * L + i)], r2[U(two * L + i)], phase
            )
        return
    for x in range(width):
        root = r1[U(one + x)]
        for lane in range(L):
            i = x * L + lane
            K[U(o + i)], T[U(o + i)] = sine_entry(K[U(source + i)], T[U(source + i)], root, r2[U(two * L + i)], phase)


@lanewise
def normalise(K, T, source, o, width, f1, one, f2, two, rate, bias_rate, each):
    """A row divided by the deviations of both sides; a trainable scale and shift add `rate K' + bias_rate` to `T'`."""
    if each:
        for i in range(width * L):
            factor = f1[U(one * L + i)] * f2[U(two * L + i)]
            q = K[U(source + i)] * factor
            T[U(o + i)] = T[U(source + i)] * factor + rate * q + bias_rate
            K[U(o + i)] = q
        return
    for x in range(width):
        first = f1[U(one + x)]
        for lane in range(L):
            i = x * L + lane
            factor = first * f2[U(two * L + i)]
            q = K[U(source + i)] * factor
            T[U(o + i)] = T[U(source + i)] * factor + rate * q + bias_rate
            K[U(o + i)] = q


@lanewise
def add(K, T, a, b, o, count):
    """Sum of independent branches."""
    for i in range(count * L):
        K[U(o + i)] = K[U(a + i)] + K[U(b + i)]
        T[U(o + i)] = T[U(a + i)] + T[U(b + i)]


@lanewise
def mix(K, T, a, b, o, count, share_a, share_b):
    """Weighted sum, for concatenations."""
    for i in range(count * L):
        K[U(o + i)] = share_a * K[U(a + i)] + share_b * K[U(b + i)]
        T[U(o + i)] = share_a * T[U(a + i)] + share_b * T[U(b + i)]


@lanewise
def multiply(K, T, a, b, o, count):
    """Product of independent branches."""
    for i in range(count * L):
        p, q = K[U(a + i)], K[U(b + i)]
        T[U(o + i)] = T[U(a + i)] * q + T[U(b + i)] * p
        K[U(o + i)] = p * q


@lanewise
def total(K, o, count, sums, scale):
    """Adds the sum over positions, times `scale`, to `sums` (float64, one a lane)."""
    for x in range(count):
        accumulate(sums, 0, K, o + x * L, scale)
