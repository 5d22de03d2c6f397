"""Nonlinearities, losses and sums over the samples of a block."""

import math

import numpy as np
from numba import uintp as U

from pluriform.fused.code import Bend
from pluriform.fused.compile import compiled
from pluriform.fused.exponential import exp
from pluriform.fused.registers import error_tile, run_sum, view

__all__ = ["bend", "bend_back", "channel_sums", "cross_entropy", "fill", "relu", "score_gradient", "squared_error"]

F = np.float32
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)
ROOT, DENSITY = F(math.sqrt(0.5)), F(1 / math.sqrt(2 * math.pi))
LEAKY, ELU, TANH, SIGMOID, SILU = (int(bend) for bend in (Bend.LEAKY, Bend.ELU, Bend.TANH, Bend.SIGMOID, Bend.SILU))


@compiled
def fill(values, count, number):
    """Set numbers."""
    for i in range(count):
        values[U(i)] = number


@compiled
def _sigmoid(x):
    return ONE / (ONE + exp(-x))


@compiled
def bend(kind, slope, source, target, count):
    """`target = f(source)`, two places that do not overlap, or the same array twice."""
    if kind == LEAKY:
        for i in range(count):
            x = source[U(i)]
            target[U(i)] = x if x > ZERO else slope * x
    elif kind == ELU:
        for i in range(count):
            x = source[U(i)]
            target[U(i)] = x if x > ZERO else slope * F(math.expm1(x))
    elif kind == TANH:
        for i in range(count):
            target[U(i)] = math.tanh(source[U(i)])
    elif kind == SIGMOID:
        for i in range(count):
            target[U(i)] = _sigmoid(source[U(i)])
    elif kind == SILU:
        for i in range(count):
            target[U(i)] = source[U(i)] * _sigmoid(source[U(i)])
    else:
        for i in range(count):
            x = source[U(i)]
            target[U(i)] = HALF * x * (ONE + F(math.erf(x * ROOT)))


@compiled
def relu(values, count, slope):
    """Leaky ReLU in place."""
    for i in range(count):
        x = values[U(i)]
        values[U(i)] = x if x > ZERO else slope * x


@compiled
def bend_back(kind, slope, inside, gradient, values, count):
    """`values = gradient * f'`, with `f'` from the numbers after (`inside`) or before the nonlinearity in `values`."""
    if kind == LEAKY:
        for i in range(count):
            values[U(i)] = gradient[U(i)] * (ONE if values[U(i)] > ZERO else slope)
    elif kind == ELU:
        for i in range(count):
            x = values[U(i)]
            low = x + slope if inside else slope * exp(min(x, ZERO))
            values[U(i)] = gradient[U(i)] * (ONE if x > ZERO else low)
    elif kind == TANH:
        for i in range(count):
            y = values[U(i)] if inside else F(math.tanh(values[U(i)]))
            values[U(i)] = gradient[U(i)] * (ONE - y * y)
    elif kind == SIGMOID:
        for i in range(count):
            y = values[U(i)] if inside else _sigmoid(values[U(i)])
            values[U(i)] = gradient[U(i)] * y * (ONE - y)
    elif kind == SILU:
        for i in range(count):
            x = values[U(i)]
            y = _sigmoid(x)
            values[U(i)] = gradient[U(i)] * y * (ONE + x * (ONE - y))
    else:
        for i in range(count):
            x = values[U(i)]
            below = HALF * (ONE + F(math.erf(x * ROOT)))
            values[U(i)] = gradient[U(i)] * (below + x * DENSITY * exp(-HALF * x * x))


@compiled
def channel_sums(values, channels, run, target, add):
    """Sums of `run` numbers each, a multiple of 8; `values` is an address."""
    for c in range(channels):
        total = run_sum(values + 4 * c * run, run)
        target[c] = target[c] + total if add else total


@compiled
def cross_entropy(values, outputs, lanes, count, labels, first, scale):
    """Sum of the losses; the logits are replaced by their gradients times `scale`, 0 beyond `count`.

    The labels of the block begin at `first`.
    """
    loss = 0.0
    for n in range(lanes):
        if n >= count:
            for o in range(outputs):
                values[o * lanes + n] = ZERO
            continue
        top = values[n]
        for o in range(1, outputs):
            top = max(top, values[o * lanes + n])
        label = labels[first + n]
        own = values[label * lanes + n]
        total = ZERO
        for o in range(outputs):
            e = exp(values[o * lanes + n] - top)
            values[o * lanes + n] = e
            total += e
        loss += math.log(total) + np.float64(top) - np.float64(own)
        share = F(scale) / total
        for o in range(outputs):
            values[o * lanes + n] *= share
        values[label * lanes + n] -= F(scale)
    return loss


@compiled
def score_gradient(values, outputs, lanes, count, labels, first, conditional):
    """Logits replaced by the gradient of their logsumexp, or of that of the label of each sample; 0 beyond `count`.

    The labels of the block begin at `first`.
    """
    for n in range(lanes):
        if n >= count or conditional:
            for o in range(outputs):
                values[o * lanes + n] = ZERO
            if n < count:
                values[labels[first + n] * lanes + n] = ONE
            continue
        top = values[n]
        for o in range(1, outputs):
            top = max(top, values[o * lanes + n])
        total = ZERO
        for o in range(outputs):
            e = exp(values[o * lanes + n] - top)
            values[o * lanes + n] = e
            total += e
        for o in range(outputs):
            values[o * lanes + n] /= total


@compiled
def squared_error(values, outputs, lanes, count, targets, first, scale):
    """The same for squared errors; the targets of a sample are a row of `outputs` numbers. Addresses, both."""
    twice, loss = TWO * F(scale), 0.0
    whole, tiled = outputs // 8 * 8, count // 8 * 8
    for n in range(0, tiled, 8):
        for o in range(0, whole, 8):
            given = targets + 4 * ((first + n) * outputs + o)
            loss += np.float64(error_tile(values + 4 * (o * lanes + n), lanes, given, outputs, twice))
    made, wanted = view(values), view(targets)
    for o in range(outputs):
        for n in range(tiled if o < whole else 0, lanes):
            error = ZERO if n >= count else made[o * lanes + n] - wanted[(first + n) * outputs + o]
            loss += np.float64(error * error)
            made[o * lanes + n] = twice * error
    return loss
