"""Gradients with respect to inputs: of the outputs of one network, whose values are kept between the two passes."""

from functools import cache

import numpy as np

from pluriform.fused.compile import compiled, standalone
from pluriform.fused.elementwise import bend_back
from pluriform.fused.kernels import (
    ACTIVATION,
    AREA,
    AREA_OUT,
    AXES_BACK,
    BLOCK_COUNT,
    BLOCKS,
    BORDER,
    CHANNELS,
    CHANNELS_OUT,
    CODE,
    COUNT_BACK,
    COUNTER,
    FIRST_BACK,
    GRADIENT,
    INPUTS,
    ITEM_COUNT,
    ITEMS,
    KIND,
    LAST_BACK,
    NUMBERS,
    OPCODE,
    OUTPUTS,
    PLACES,
    PRODUCT,
    RESULTS,
    ROW_BACK,
    SAMPLES,
    SHAPE,
    SIZES,
    SOURCE,
    SPACES,
    STEP_COUNT,
    STEPS,
    TARGET,
    TARGETS,
    WEIGHT,
    WEIGHTS,
    WIDTH,
    block_inputs,
    forward,
    pool_back,
    table,
    two,
)
from pluriform.fused.products import products
from pluriform.fused.registers import take_task, view, words

__all__ = ["input_gradient", "kept_task", "slopes_task", "unpack_inputs"]

F = np.float32


@compiled
def input_gradient(code, steps, numbers, items, weights, sizes, space, flow, spare, lanes):
    """From the gradient of the outputs to that of the inputs, which ends at `flow`; the first step is a product."""
    for k in range(steps.shape[0] - 1, -1, -1):
        step = steps[k]
        gradient, target = space + 4 * lanes * step[GRADIENT], space + 4 * lanes * step[TARGET]
        if step[OPCODE] == PRODUCT:
            if gradient != target:
                given, values = view(gradient), view(target)
                for i in range(step[CHANNELS_OUT] * step[AREA_OUT] * lanes):
                    values[i] = given[i]
            products(
                code, lanes, step[CHANNELS], items, step[FIRST_BACK], step[LAST_BACK], lanes,
                weights[step[WEIGHT]], step[ROW_BACK],
                step[AXES_BACK], step[AXES_BACK + 1], step[AXES_BACK + 2],
                target, step[AXES_BACK + 3] * lanes, step[AXES_BACK + 4] * lanes, step[AXES_BACK + 5] * lanes,
                step[COUNT_BACK], flow, step[AREA] * lanes, 0, 0,
            )  # fmt: skip
        elif step[OPCODE] == ACTIVATION:
            values = view(space + 4 * lanes * step[SOURCE])
            count = step[CHANNELS] * step[AREA] * lanes
            bend_back(step[KIND], numbers[k, 0], step[SOURCE] == step[TARGET], view(gradient), values, count)
        else:
            pool_back(step, numbers[k], items, space, gradient, spare, lanes)


@compiled
def unpack_inputs(x, count, lanes, shape, border, target):
    """Samples as rows again, without the border."""
    channels, height, width = shape
    rows, columns = height + 2 * border[0], width + 2 * border[1]
    size = channels * height * width
    for n in range(count):
        for c in range(channels):
            for y in range(height):
                start = ((c * rows + y + border[0]) * columns + border[1]) * lanes + n
                place = n * size + (c * height + y) * width
                for i in range(width):
                    target[place + i] = x[start + i * lanes]


def _kept(data):
    """Outputs of one network; every block has a workspace of its own, where the values of all layers stay.

    Args:
        data: Address of a table with the columns of `Call`.
    """
    t = words(data)
    blocks, shape, border = (
        table(t[BLOCKS], t[BLOCK_COUNT], 4),
        (t[SHAPE], t[SHAPE + 1], t[SHAPE + 2]),
        two(t, BORDER),
    )
    steps, items = table(t[STEPS], t[STEP_COUNT], WIDTH), table(t[ITEMS], t[ITEM_COUNT], 5)
    numbers = view(t[NUMBERS])[: 2 * t[STEP_COUNT]].reshape(t[STEP_COUNT], 2)
    code, weights, sizes, results = words(t[CODE]), words(t[WEIGHTS]), words(t[SIZES]), view(t[RESULTS])
    outputs = t[OUTPUTS]
    while True:
        k = take_task(t[COUNTER])
        if k >= blocks.shape[0]:
            return
        space, lanes = words(t[SPACES])[k], blocks[k, 2]
        x = block_inputs(t[INPUTS], False, 0, t[SAMPLES], blocks[k], shape, border, 0)
        forward(code, steps, numbers, items, weights, sizes, 0, x, space, lanes)
        found = view(space + 4 * lanes * steps[-1, TARGET])
        for n in range(blocks[k, 1]):
            for o in range(outputs):
                results[(blocks[k, 0] + n) * outputs + o] = found[o * lanes + n]


def _slopes(data):
    """From gradients with respect to outputs, `(samples, outputs)`, to those of the inputs; uses up what was kept.

    Args:
        data: Address of a table with the columns of `Call`.
    """
    t = words(data)
    blocks, shape, border = (
        table(t[BLOCKS], t[BLOCK_COUNT], 4),
        (t[SHAPE], t[SHAPE + 1], t[SHAPE + 2]),
        two(t, BORDER),
    )
    steps, items = table(t[STEPS], t[STEP_COUNT], WIDTH), table(t[ITEMS], t[ITEM_COUNT], 5)
    numbers = view(t[NUMBERS])[: 2 * t[STEP_COUNT]].reshape(t[STEP_COUNT], 2)
    code, weights, sizes, given = words(t[CODE]), words(t[WEIGHTS]), words(t[SIZES]), view(t[TARGETS])
    outputs, size = t[OUTPUTS], shape[0] * shape[1] * shape[2]
    while True:
        k = take_task(t[COUNTER])
        if k >= blocks.shape[0]:
            return
        space, first, count, lanes = words(t[SPACES])[k], blocks[k, 0], blocks[k, 1], blocks[k, 2]
        seed = view(space + 4 * lanes * steps[-1, TARGET])
        for n in range(lanes):
            for o in range(outputs):
                seed[o * lanes + n] = given[(first + n) * outputs + o] if n < count else F(0)
        flow, spare = space + 4 * lanes * t[PLACES], space + 4 * lanes * t[PLACES + 1]
        input_gradient(code, steps, numbers, items, weights, sizes, space, flow, spare, lanes)
        unpack_inputs(view(flow), count, lanes, shape, border, view(t[RESULTS] + 4 * first * size))


@cache
def kept_task() -> int:
    """Address of a function of one address that computes outputs and keeps the values of all layers."""
    return standalone(_kept, "kept", 1)


@cache
def slopes_task() -> int:
    """The same for gradients of the inputs, after it."""
    return standalone(_slopes, "slopes", 1)
