"""The interpreter: forward and backward pass of networks, a block of samples at a time, by a team of threads.

A value of a block is `(channels, height, width, lanes)`: samples are innermost, so that every number of a filter meets
a row of samples. All of it stays in the cache of a core; weights, their gradients and the inputs are what memory sees.
"""

from functools import cache

import numpy as np

from pluriform.fused.code import Call, Column, Opcode
from pluriform.fused.compile import LANES, STAMP, WIDE, compiled, entry_point, standalone
from pluriform.fused.elementwise import (
    bend,
    bend_back,
    channel_sums,
    cross_entropy,
    fill,
    relu,
    squared_error,
)
from pluriform.fused.products import dots, products, transpose
from pluriform.fused.registers import take_task, transpose_tile, view, words
from pluriform.fused.windows import average, average_back, largest, largest_back

__all__ = ["block_inputs", "forward", "gradients_task", "outputs_task", "pack_inputs", "pool_back", "table", "two"]

F = np.float32
MOST = max(LANES)
PRODUCT, ACTIVATION, AVG_POOL = int(Opcode.PRODUCT), int(Opcode.ACTIVATION), int(Opcode.AVG_POOL)
LEAKY = 0
SOURCE, TARGET, GRADIENT = int(Column.SOURCE), int(Column.TARGET), int(Column.GRADIENT)
CHANNELS, AREA, CHANNELS_OUT, AREA_OUT = (
    int(c) for c in (Column.CHANNELS, Column.AREA, Column.CHANNELS_OUT, Column.AREA_OUT)
)
OPCODE, KIND, WEIGHT, BIAS, DENSE, BACK = (
    int(c) for c in (Column.OPCODE, Column.KIND, Column.WEIGHT, Column.BIAS, Column.DENSE, Column.BACK)
)
FIRST_ITEM, LAST_ITEM, ROW, AXES, COUNT = (
    int(c) for c in (Column.FIRST_ITEM, Column.LAST_ITEM, Column.ROW, Column.AXES, Column.COUNT)
)
FIRST_BACK, LAST_BACK, ROW_BACK, AXES_BACK, COUNT_BACK = (
    int(c) for c in (Column.FIRST_BACK, Column.LAST_BACK, Column.ROW_BACK, Column.AXES_BACK, Column.COUNT_BACK)
)
FIRST_TAP, LAST_TAP, WIDTH_OUT, STEP_ROW, STEP, DISJOINT = (
    int(c) for c in (Column.FIRST_TAP, Column.LAST_TAP, Column.WIDTH_OUT, Column.STEP_ROW, Column.STEP, Column.DISJOINT)
)
WIDTH = int(Column.END)
COUNTER, SLOTS, SPACES, MEMBERS, OWN, SAMPLES = (
    int(c) for c in (Call.COUNTER, Call.SLOTS, Call.SPACES, Call.MEMBERS, Call.OWN, Call.SAMPLES)
)
BLOCKS, BLOCK_COUNT, SHAPE, BORDER, INPUTS, CODE = (
    int(c) for c in (Call.BLOCKS, Call.BLOCK_COUNT, Call.SHAPE, Call.BORDER, Call.INPUTS, Call.CODE)
)
STEPS, STEP_COUNT, NUMBERS, ITEMS, ITEM_COUNT, TILES, TILE_COUNT = (
    int(c)
    for c in (Call.STEPS, Call.STEP_COUNT, Call.NUMBERS, Call.ITEMS, Call.ITEM_COUNT, Call.TILES, Call.TILE_COUNT)
)
PLACES, WEIGHTS, GRADIENTS, SIZES, OUTPUTS, RESULTS, LABELS, TARGETS, CLASSIFY = (
    int(c)
    for c in (
        Call.PLACES,
        Call.WEIGHTS,
        Call.GRADIENTS,
        Call.SIZES,
        Call.OUTPUTS,
        Call.RESULTS,
        Call.LABELS,
        Call.TARGETS,
        Call.CLASSIFY,
    )
)


@compiled
def table(address, rows, columns):
    """Words at an address as a matrix."""
    return words(address)[: rows * columns].reshape(rows, columns)


@compiled
def two(words_, place):
    """A pair of words."""
    return words_[place], words_[place + 1]


@compiled
def _pack(inputs, count, lanes, shape, border, target):
    """Samples innermost, zeros around and beyond; `inputs` and `target` are addresses."""
    channels, height, width = shape
    rows, columns = height + 2 * border[0], width + 2 * border[1]
    size = channels * height * width
    source, values = view(inputs), view(target)
    if count < lanes or border[0] or border[1]:
        fill(values, channels * rows * columns * lanes, F(0))
    whole = count // 8 * 8
    for c in range(channels):
        for y in range(height):
            start = (c * height + y) * width
            place = ((c * rows + y + border[0]) * columns + border[1]) * lanes
            for n in range(0, whole, 8):
                x = 0
                while x + 8 <= width:
                    transpose_tile(
                        inputs + 4 * (n * size + start + x), size, target + 4 * (place + x * lanes + n), lanes
                    )
                    x += 8
                for rest in range(x, width):
                    for m in range(8):
                        values[place + rest * lanes + n + m] = source[(n + m) * size + start + rest]
            for n in range(whole, count):
                for x in range(width):
                    values[place + x * lanes + n] = source[n * size + start + x]


@entry_point
def pack_inputs(inputs, blocks, shape, border, target, stamp=STAMP):
    """Inputs of all blocks, samples innermost.

    Args:
        inputs: Address of `(samples, channels, height, width)`.
        blocks: `(blocks, 4)`: first sample, samples, lanes, lanes of the blocks before.
        shape: Channels, height, width.
        border: Zeros around.
        target: Address of the result, one block after the other.
    """
    size = shape[0] * shape[1] * shape[2]
    inside = shape[0] * (shape[1] + 2 * border[0]) * (shape[2] + 2 * border[1])
    for k in range(blocks.shape[0]):
        end = target + 4 * blocks[k, 3] * inside
        _pack(inputs + 4 * blocks[k, 0] * size, blocks[k, 1], blocks[k, 2], shape, border, end)


@compiled
def forward(code, steps, numbers, items, weights, sizes, member, x, space, lanes):
    """All steps of a network on one block, whose packed inputs are at `x`."""
    for k in range(steps.shape[0]):
        step = steps[k]
        source = x if step[SOURCE] < 0 else space + 4 * lanes * step[SOURCE]
        target = space + 4 * lanes * step[TARGET]
        area, area_out = step[AREA], step[AREA_OUT]
        if step[OPCODE] == PRODUCT:
            w, b = step[WEIGHT], step[BIAS]
            starts = weights[b] + 4 * member * sizes[b] if b >= 0 else 0
            products(
                code, lanes, step[CHANNELS_OUT], items, step[FIRST_ITEM], step[LAST_ITEM], lanes,
                weights[w] + 4 * member * sizes[w], step[ROW], step[AXES], step[AXES + 1], step[AXES + 2],
                source, step[AXES + 3] * lanes, step[AXES + 4] * lanes, step[AXES + 5] * lanes,
                step[COUNT], target, area_out * lanes, starts, 1 if b >= 0 else 0,
            )  # fmt: skip
        elif step[OPCODE] == ACTIVATION:
            count, kind, slope = step[CHANNELS] * area * lanes, step[KIND], numbers[k, 0]
            if kind == LEAKY and source == target:
                relu(view(target), count, slope)
            else:
                bend(kind, slope, view(source), view(target), count)
        else:
            row, move = step[STEP_ROW] * lanes, lanes
            for c in range(step[CHANNELS]):
                for i in range(step[FIRST_ITEM], step[LAST_ITEM]):
                    start = source + 4 * lanes * (c * area + items[i, 1])
                    end = target + 4 * lanes * (c * area_out + items[i, 0])
                    if step[OPCODE] == AVG_POOL:
                        average(start, row, move, items[i, 3], items[i, 4], end, lanes, numbers[k, 1], numbers[k, 0])
                    else:
                        largest(start, row, move, items[i, 3], items[i, 4], end, lanes)


@compiled
def _product_back(code, step, items, tiles, weights, gradients, sizes, member, x, space, flow, turned, lanes, add):
    """Gradients of weight, bias and source of one product; that of its result lies at its target."""
    source = x if step[SOURCE] < 0 else space + 4 * lanes * step[SOURCE]
    target = space + 4 * lanes * step[TARGET]
    channels, outputs, area, area_out = step[CHANNELS], step[CHANNELS_OUT], step[AREA], step[AREA_OUT]
    w, b = step[WEIGHT], step[BIAS]
    own = gradients[w] + 4 * member * sizes[w]
    if b >= 0:
        channel_sums(target, outputs, area_out * lanes, view(gradients[b] + 4 * member * sizes[b]), add)
    if step[DENSE]:
        _dense_weights(code, items, source, channels, target, outputs, own, turned, lanes, add)
    else:
        dots(
            code, outputs, tiles, step[FIRST_TAP], step[LAST_TAP], lanes, target, area_out * lanes, step[WIDTH_OUT],
            source, step[STEP_ROW], step[STEP], own, step[ROW], 1 if add else 0,
        )  # fmt: skip
    if step[BACK]:
        products(
            code, lanes, channels, items, step[FIRST_BACK], step[LAST_BACK], lanes,
            weights[w] + 4 * member * sizes[w], step[ROW_BACK],
            step[AXES_BACK], step[AXES_BACK + 1], step[AXES_BACK + 2],
            target, step[AXES_BACK + 3] * lanes, step[AXES_BACK + 4] * lanes, step[AXES_BACK + 5] * lanes,
            step[COUNT_BACK], flow, area * lanes, 0, 0,
        )  # fmt: skip


@compiled
def _dense_weights(code, items, source, channels, target, outputs, own, turned, lanes, add):
    """Products over samples: the inputs are turned so that features are innermost, as in the weight."""
    pitch = _pitch(channels)
    transpose(source, channels, lanes, turned, pitch)
    sums = lanes // 8
    mode = 2 if add else 3
    done = 0
    while done < channels:
        left = channels - done
        if left >= 8:
            width = _width(left)
            products(
                code, width, outputs, items, sums, sums + 1, 0, target, lanes, 0, 0, 1, turned + 4 * done, 0, 0, pitch,
                1, own + 4 * done, channels, 0, mode,
            )  # fmt: skip
            done += width
        else:
            rest = turned + 4 * pitch * lanes
            products(
                code, 8, outputs, items, sums, sums + 1, 0, target, lanes, 0, 0, 1, turned + 4 * done, 0, 0, pitch,
                1, rest, 8, 0, 0,
            )  # fmt: skip
            values, result = view(rest), view(own)
            for o in range(outputs):
                for i in range(left):
                    old = result[o * channels + done + i] if add else F(0)
                    result[o * channels + done + i] = old + values[8 * o + i]
            done = channels


@compiled
def _width(left):
    """How many of at least eight columns to take: two registers where nothing is left over, else as many as can be."""
    if WIDE and left >= 40 and left % 32:
        return 40
    if WIDE and left >= 32:
        return 32
    return 16 if left >= 16 else 8


@compiled
def _pitch(channels):
    """An odd number of cache lines, so that rows do not meet in the same place of the cache."""
    lines = (channels + 15) // 16
    return 16 * (lines + 1 - lines % 2)


@compiled
def pool_back(step, number, items, space, gradient, spare, lanes):
    """Gradient of what a pool read, in its place."""
    source = space + 4 * lanes * step[SOURCE]
    area, area_out = step[AREA], step[AREA_OUT]
    count = step[CHANNELS] * area * lanes
    read, add = source, 0
    if not step[DISJOINT]:
        values, copy = view(source), view(spare)
        for i in range(count):
            copy[i] = values[i]
        fill(values, count, F(0))
        read, add = spare, 1
    row, move = step[STEP_ROW] * lanes, lanes
    for c in range(step[CHANNELS]):
        for i in range(step[FIRST_ITEM], step[LAST_ITEM]):
            start = 4 * lanes * (c * area + items[i, 1])
            flow = gradient + 4 * lanes * (c * area_out + items[i, 0])
            if step[OPCODE] == AVG_POOL:
                average_back(
                    read + start, source + start, row, move, items[i, 3], items[i, 4], flow, lanes, add,
                    number[1], number[0],
                )  # fmt: skip
            else:
                largest_back(read + start, source + start, row, move, items[i, 3], items[i, 4], flow, lanes, add)


@compiled
def _backward(
    code, steps, numbers, items, tiles, weights, gradients, sizes, member, x, space, flow, spare, turned, lanes, add,
):  # fmt: skip
    for k in range(steps.shape[0] - 1, -1, -1):
        step = steps[k]
        gradient = space + 4 * lanes * step[GRADIENT]
        if step[OPCODE] == PRODUCT:
            if step[GRADIENT] != step[TARGET]:
                given, values = view(gradient), view(space + 4 * lanes * step[TARGET])
                for i in range(step[CHANNELS_OUT] * step[AREA_OUT] * lanes):
                    values[i] = given[i]
            _product_back(
                code, step, items, tiles, weights, gradients, sizes, member, x, space, flow, turned, lanes, add
            )
            if not step[BACK]:
                return
        elif step[OPCODE] == ACTIVATION:
            values = view(space + 4 * lanes * step[SOURCE])
            inside = step[SOURCE] == step[TARGET]
            count = step[CHANNELS] * step[AREA] * lanes
            bend_back(step[KIND], numbers[k, 0], inside, view(gradient), values, count)
        else:
            pool_back(step, numbers[k], items, space, gradient, spare, lanes)


@compiled
def block_inputs(inputs, own, member, samples, block, shape, border, target):
    """Address of the packed inputs of a block."""
    size = shape[0] * shape[1] * shape[2]
    inside = shape[0] * (shape[1] + 2 * border[0]) * (shape[2] + 2 * border[1])
    if not own:
        return inputs + 4 * block[3] * inside
    start = inputs + 4 * (member * samples + block[0]) * size
    _pack(start, block[1], block[2], shape, border, target)
    return target


def _gradients(data):
    """Losses and gradients of the weights of networks, one after the other until none is left.

    Args:
        data: Address of a table with the columns of `Call`.
    """
    t = words(data)
    space = words(t[SPACES])[take_task(t[SLOTS])]
    members, own, samples, outputs, classify = t[MEMBERS], t[OWN] != 0, t[SAMPLES], t[OUTPUTS], t[CLASSIFY] != 0
    blocks, shape, border = (
        table(t[BLOCKS], t[BLOCK_COUNT], 4),
        (t[SHAPE], t[SHAPE + 1], t[SHAPE + 2]),
        two(t, BORDER),
    )
    steps, items, tiles = (
        table(t[STEPS], t[STEP_COUNT], WIDTH),
        table(t[ITEMS], t[ITEM_COUNT], 5),
        table(t[TILES], t[TILE_COUNT], 12),
    )
    numbers = view(t[NUMBERS])[: 2 * t[STEP_COUNT]].reshape(t[STEP_COUNT], 2)
    code, weights, gradients, sizes = words(t[CODE]), words(t[WEIGHTS]), words(t[GRADIENTS]), words(t[SIZES])
    labels, losses = words(t[LABELS]), view(t[RESULTS])
    inside = shape[0] * (shape[1] + 2 * border[0]) * (shape[2] + 2 * border[1])
    scale = 1.0 / samples if classify else 1.0 / (samples * outputs)
    while True:
        member = take_task(t[COUNTER])
        if member >= members:
            return
        loss = 0.0
        for k in range(blocks.shape[0]):
            lanes = blocks[k, 2]
            end = space + 4 * lanes * t[PLACES + 2]
            x = block_inputs(t[INPUTS], own, member, samples, blocks[k], shape, border, end)
            forward(code, steps, numbers, items, weights, sizes, member, x, space, lanes)
            result = space + 4 * lanes * steps[-1, TARGET]
            first = blocks[k, 0] + (member * samples if own else 0)
            if classify:
                loss += cross_entropy(view(result), outputs, lanes, blocks[k, 1], labels, first, scale)
            else:
                loss += squared_error(result, outputs, lanes, blocks[k, 1], t[TARGETS], first, scale)
            turned = end + 4 * MOST * (inside + 8)
            _backward(
                code, steps, numbers, items, tiles, weights, gradients, sizes, member, x, space,
                space + 4 * lanes * t[PLACES], space + 4 * lanes * t[PLACES + 1], turned, lanes, k > 0,
            )  # fmt: skip
        losses[member] = F(loss * scale)


def _outputs(data):
    """Outputs of networks, one block of samples after the other until none is left.

    Args:
        data: Address of a table with the columns of `Call`.
    """
    t = words(data)
    space = words(t[SPACES])[take_task(t[SLOTS])]
    members, own, samples, outputs = t[MEMBERS], t[OWN] != 0, t[SAMPLES], t[OUTPUTS]
    blocks, shape, border = (
        table(t[BLOCKS], t[BLOCK_COUNT], 4),
        (t[SHAPE], t[SHAPE + 1], t[SHAPE + 2]),
        two(t, BORDER),
    )
    steps, items = table(t[STEPS], t[STEP_COUNT], WIDTH), table(t[ITEMS], t[ITEM_COUNT], 5)
    numbers = view(t[NUMBERS])[: 2 * t[STEP_COUNT]].reshape(t[STEP_COUNT], 2)
    code, weights, sizes, results = words(t[CODE]), words(t[WEIGHTS]), words(t[SIZES]), view(t[RESULTS])
    while True:
        task = take_task(t[COUNTER])
        if task >= members * blocks.shape[0]:
            return
        member, k = task // blocks.shape[0], task % blocks.shape[0]
        lanes = blocks[k, 2]
        end = space + 4 * lanes * t[PLACES + 2]
        x = block_inputs(t[INPUTS], own, member, samples, blocks[k], shape, border, end)
        forward(code, steps, numbers, items, weights, sizes, member, x, space, lanes)
        result = view(space + 4 * lanes * steps[-1, TARGET])
        for n in range(blocks[k, 1]):
            place = (member * samples + blocks[k, 0] + n) * outputs
            for o in range(outputs):
                results[place + o] = result[o * lanes + n]


@cache
def gradients_task() -> int:
    """Address of a function of one address that computes losses and gradients."""
    return standalone(_gradients, "gradients", 1)


@cache
def outputs_task() -> int:
    """The same for outputs."""
    return standalone(_outputs, "outputs", 1)
