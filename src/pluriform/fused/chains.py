"""Chains of Langevin dynamics: a block of samples stays in the cache of a core for all its steps."""

import math
from functools import cache

import numpy as np

from pluriform.fused.code import Call
from pluriform.fused.compile import compiled, standalone
from pluriform.fused.elementwise import fill, score_gradient
from pluriform.fused.kernels import (
    BLOCK_COUNT,
    BLOCKS,
    BORDER,
    CLASSIFY,
    CODE,
    COUNTER,
    INPUTS,
    ITEM_COUNT,
    ITEMS,
    LABELS,
    NUMBERS,
    OUTPUTS,
    PLACES,
    RESULTS,
    SAMPLES,
    SHAPE,
    SIZES,
    SLOTS,
    SPACES,
    STEP_COUNT,
    STEPS,
    TARGET,
    WEIGHTS,
    WIDTH,
    block_inputs,
    forward,
    table,
    two,
)
from pluriform.fused.registers import take_task, view, words
from pluriform.fused.slopes import input_gradient, unpack_inputs

__all__ = ["chains_task"]

F = np.float32
TINY = F(1e-30)  # A gradient of zero stays one.
NOISE, UNITS, SETTING, ROUNDS, LARGEST = (
    int(c) for c in (Call.NOISE, Call.UNITS, Call.SETTING, Call.ROUNDS, Call.LARGEST)
)


@compiled
def _norms(flow, units, shape, border, lanes, norms):
    """Norms of the gradients of a block, in units."""
    channels, height, width = shape
    rows, columns = height + 2 * border[0], width + 2 * border[1]
    fill(norms, lanes, F(0))
    for c in range(channels):
        for y in range(height):
            for i in range(width):
                unit = units[(c * height + y) * width + i]
                start = ((c * rows + y + border[0]) * columns + i + border[1]) * lanes
                for n in range(lanes):
                    slope = flow[start + n] * unit
                    norms[n] += slope * slope
    for n in range(lanes):
        norms[n] = math.sqrt(norms[n])


@compiled
def _move(x, flow, noise, units, setting, shape, border, lanes, scales):
    """One step of all chains of a block; gradients are multiplied by `scales` first."""
    channels, height, width = shape
    rows, columns = height + 2 * border[0], width + 2 * border[1]
    size, sigma, most, low, high = setting[0], setting[1], setting[2], setting[3], setting[4]
    for c in range(channels):
        for y in range(height):
            for i in range(width):
                unit = units[(c * height + y) * width + i]
                start = ((c * rows + y + border[0]) * columns + i + border[1]) * lanes
                for n in range(lanes):
                    slope = min(max(flow[start + n] * unit * scales[n], -most), most)
                    moved = x[start + n] + unit * (size * slope + sigma * noise[start + n])
                    x[start + n] = min(max(moved, low), high)


def _chains(data):
    """Chains of one network, one block of samples after the other until none is left.

    Args:
        data: Address of a table with the columns of `Call`.
    """
    t = words(data)
    space = words(t[SPACES])[take_task(t[SLOTS])]
    blocks, shape, border = (
        table(t[BLOCKS], t[BLOCK_COUNT], 4),
        (t[SHAPE], t[SHAPE + 1], t[SHAPE + 2]),
        two(t, BORDER),
    )
    steps, items = table(t[STEPS], t[STEP_COUNT], WIDTH), table(t[ITEMS], t[ITEM_COUNT], 5)
    numbers = view(t[NUMBERS])[: 2 * t[STEP_COUNT]].reshape(t[STEP_COUNT], 2)
    code, weights, sizes, labels = words(t[CODE]), words(t[WEIGHTS]), words(t[SIZES]), words(t[LABELS])
    largest, units, setting = view(t[LARGEST]), view(t[UNITS]), view(t[SETTING])
    outputs, rounds, conditional = t[OUTPUTS], t[ROUNDS], t[CLASSIFY] != 0
    size = shape[0] * shape[1] * shape[2]
    inside = shape[0] * (shape[1] + 2 * border[0]) * (shape[2] + 2 * border[1])
    normalise = setting[5] != F(0)
    last = blocks.shape[0] - 1
    whole = (blocks[last, 3] + blocks[last, 2]) * inside
    while True:
        k = take_task(t[COUNTER])
        if k >= blocks.shape[0]:
            return
        first, count, lanes = blocks[k, 0], blocks[k, 1], blocks[k, 2]
        x = block_inputs(t[INPUTS], False, 0, t[SAMPLES], blocks[k], shape, border, 0)
        flow, spare = space + 4 * lanes * t[PLACES], space + 4 * lanes * t[PLACES + 1]
        norms = view(space + 4 * lanes * t[PLACES + 2])
        for s in range(rounds):
            forward(code, steps, numbers, items, weights, sizes, 0, x, space, lanes)
            score_gradient(
                view(space + 4 * lanes * steps[-1, TARGET]), outputs, lanes, count, labels, first, conditional
            )
            input_gradient(code, steps, numbers, items, weights, sizes, space, flow, spare, lanes)
            _norms(view(flow), units, shape, border, lanes, norms)
            for n in range(count):
                largest[first + n] = max(largest[first + n], norms[n])
            for n in range(lanes):
                norms[n] = F(1) if not normalise else F(1) / max(norms[n], TINY)
            noise = view(t[NOISE] + 4 * (s * whole + blocks[k, 3] * inside))
            _move(view(x), view(flow), noise, units, setting, shape, border, lanes, norms)
        unpack_inputs(view(x), count, lanes, shape, border, view(t[RESULTS] + 4 * first * size))


@cache
def chains_task() -> int:
    """Address of a function of one address that runs chains."""
    return standalone(_chains, "chains", 1)
