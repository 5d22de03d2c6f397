"""The interpreter: runs the steps of a stage on one displacement after another, for one image with `LANES` others."""

import numpy as np

from pluriform.infinite.engine import slices
from pluriform.infinite.engine.code import Column, Number, Opcode
from pluriform.infinite.engine.compile import LANES, STAMP, compiled, entry_point
from pluriform.infinite.engine.pooling import copy_block, pool_slice
from pluriform.infinite.engine.tables import BEND_TABLE, ERF_TABLE, GELU_TABLE, NORM_TABLE, SINE_TABLE, tabulate

__all__ = ["run_units", "run_vectors"]

L = LANES
F = np.float32

FEATURES, LOAD, CONVOLUTION, AFFINE = map(int, (Opcode.FEATURES, Opcode.LOAD, Opcode.CONVOLUTION, Opcode.AFFINE))
BEND, ERF, GELU, SINE = map(int, (Opcode.BEND, Opcode.ERF, Opcode.GELU, Opcode.SINE))
NORMALISE, ADD, MIX, MULTIPLY = map(int, (Opcode.NORMALISE, Opcode.ADD, Opcode.MIX, Opcode.MULTIPLY))
DROPOUT, MEAN, POOL, STORE = map(int, (Opcode.DROPOUT, Opcode.MEAN, Opcode.POOL, Opcode.STORE))

OPCODE, OUT, IN, OTHER, TABLE = map(int, (Column.OPCODE, Column.OUT, Column.IN, Column.OTHER, Column.TABLE))
SIZE, STRIDE, DILATION, PADDING = map(int, (Column.SIZE, Column.STRIDE, Column.DILATION, Column.PADDING))
EXTENT_IN, EXTENT_OUT = int(Column.EXTENT_IN), int(Column.EXTENT_OUT)
REACH_IN, REACH_OUT = int(Column.REACH_IN), int(Column.REACH_OUT)
BENT, PLACE, WHOLE = int(Column.BENT), int(Column.PLACE), int(Column.WHOLE)

WEIGHT, BIAS, TANGENT_WEIGHT = int(Number.WEIGHT), int(Number.BIAS), int(Number.TANGENT_WEIGHT)
RATE, BIAS_RATE, TURN = int(Number.RATE), int(Number.BIAS_RATE), int(Number.TURN)
HALF, PHASE, SCALE = int(Number.HALF), int(Number.PHASE), int(Number.SCALE)


@compiled
def pointwise(step, number, K, T, source, target, other, height, width, r1, i1, one, r2, i2, two, pitch, each, own):
    """A step that maps entries one by one; `own` where the slice holds variances."""
    count, op = height * width, step[OPCODE]
    if op == AFFINE and not step[BENT]:
        slices.affine(
            K, T, source, target, count,
            number[WEIGHT], number[BIAS], number[TANGENT_WEIGHT], number[RATE], number[BIAS_RATE],
        )  # fmt: skip
    elif op == ADD:
        slices.add(K, T, source, other, target, count)
    elif op == MIX:
        slices.mix(K, T, source, other, target, count, number[WEIGHT], number[BIAS])
    elif op == MULTIPLY:
        slices.multiply(K, T, source, other, target, count)
    elif op == DROPOUT:
        weight = number[WEIGHT] if own or (each and step[WHOLE]) else F(1)
        slices.affine(K, T, source, target, count, weight, F(0), weight, F(0), F(0))
    elif op == BEND and own:
        slices.bend(K, T, count, source, target, number[HALF])
    else:
        for y in range(height):
            s, o, a, b = source + y * width * L, target + y * width * L, one + y * pitch, two + y * pitch
            if op in (AFFINE, BEND):
                slices.bent_affine(
                    K, T, s, o, width, r1, i1, a, r2, i2, b,
                    number[WEIGHT], number[BIAS], number[TANGENT_WEIGHT], number[RATE], number[BIAS_RATE],
                    number[TURN], number[HALF], each,
                )  # fmt: skip
            elif op == NORMALISE:
                slices.normalise(K, T, s, o, width, r1, a, r2, b, number[RATE], number[BIAS_RATE], each)
            elif op == ERF:
                slices.erf_row(K, T, s, o, width, r1, i1, a, r2, i2, b, each)
            elif op == GELU:
                slices.gelu_row(K, T, s, o, width, r1, i1, a, r2, i2, b, each)
            else:
                slices.sine_row(K, T, s, o, width, r1, i1, a, r2, i2, b, number[PHASE], each)


@compiled
def kind_of_table(op):
    """Which two numbers of the variances a nonlinearity reads."""
    if op == ERF:
        return ERF_TABLE
    if op == GELU:
        return GELU_TABLE
    if op == SINE:
        return SINE_TABLE
    if op == NORMALISE:
        return NORM_TABLE
    return BEND_TABLE


@compiled
def convolve(step, number, K, T, source, target, dy, dx, rowsK, rowsT, r1, i1, r2, i2, each, bent):
    """A convolution of one slice: rows of horizontal sums in a ring, then their vertical sums."""
    diy, dix, doy, dox = (
        dy // step[REACH_IN],
        dx // step[REACH_IN + 1],
        dy // step[REACH_OUT],
        dx // step[REACH_OUT + 1],
    )
    rows_in, width_in = max(0, step[EXTENT_IN] - abs(diy)), max(0, step[EXTENT_IN + 1] - abs(dix))
    rows, width = max(0, step[EXTENT_OUT] - abs(doy)), max(0, step[EXTENT_OUT + 1] - abs(dox))
    top, left = max(0, -doy), max(0, -dox)
    first_y = top * step[STRIDE] - step[PADDING] - max(0, -diy)
    first_x = left * step[STRIDE + 1] - step[PADDING + 1] - max(0, -dix)
    size, dilation = step[SIZE], step[DILATION]
    ring, row = (size - 1) * dilation + 1, width * L
    held, starts = np.full(ring, -1), np.empty(size, np.int64)
    for i in range(row):
        rowsK[ring * row + i] = F(0)
        rowsT[ring * row + i] = F(0)
    pitch = step[EXTENT_OUT + 1]
    for y in range(rows):
        for k in range(size):
            line = y * step[STRIDE] + k * dilation + first_y
            starts[k] = ring * row
            if 0 <= line < rows_in:
                slot = line % ring
                starts[k] = slot * row
                if held[slot] != line:
                    held[slot] = line
                    for which in range(2):
                        slices.horizontal(
                            K if which == 0 else T, source + line * width_in * L, width_in,
                            rowsK if which == 0 else rowsT, slot * row, width,
                            first_x, step[SIZE + 1], step[STRIDE + 1], step[DILATION + 1],
                        )  # fmt: skip
        one = step[TABLE] + (top + y) * pitch + left
        two = step[TABLE] + (top + y + doy) * pitch + left + dox
        out = target + y * row
        if bent and size == 3:
            slices.bent_rows(
                rowsK, rowsT, starts[0], starts[1], starts[2], K, T, out, width, r1, i1, one, r2, i2, two,
                number[WEIGHT], number[BIAS], number[RATE], number[BIAS_RATE], number[TURN], number[HALF], each,
            )  # fmt: skip
            continue
        slices.vertical(
            rowsK, rowsT, starts, size, K, T, out, width,
            number[WEIGHT], number[BIAS], number[RATE], number[BIAS_RATE],
        )  # fmt: skip
        if bent:
            slices.bent_affine(
                K, T, out, out, width, r1, i1, one, r2, i2, two,
                F(1), F(0), F(1), F(0), F(0), number[TURN], number[HALF], each,
            )  # fmt: skip


@entry_point
def run_units(
    units, each, code, numbers, stages, displacements, active, area, features, pools, blocks,
    X, Y, r1, i1, r2, i2, outK, outT, workspace, stamp=STAMP,
):  # fmt: skip
    """All stages of the network, for pairs of an image with a block of `LANES` images.

    Args:
        units: `(units, 2)`: the first image (or block, where `each`) and the block.
        each: Every lane is an input with itself; the tables of variances are then written, displacement 0 first.
        code: `(steps, columns)`, as `Column` says.
        numbers: `(steps, numbers)`, as `Number` says.
        stages: `(stages, 4)`: first and last step, first and last displacement.
        displacements: `(displacements, 2)` of the input of their stage.
        active: `(steps, most displacements of a stage)`: which steps run.
        area: Most positions of a slice.
        features: `(features, 3)`: offset, channels, positions.
        pools: Cells of poolings and their weights: see `pool_slice`.
        blocks: `(tensors, displacements)`: where slices of stored tensors begin, in numbers; -1 for none.
        X: Features of the first inputs, `(images, numbers)`; in lanes where `each`.
        Y: Features of the second inputs in lanes, `(blocks, numbers * LANES)`.
        r1: First numbers of variances, `(images, positions)`.
        i1: Second numbers.
        r2: In lanes, `(blocks, positions * LANES)`.
        i2: Second numbers.
        outK: `(sinks, rows, blocks * LANES)`.
        outT: The same for the NTK.
        workspace: Slices, rows and stored tensors, each for `K` and `T`.
    """
    K, T, rowsK, rowsT, storeK, storeT = workspace
    sinks = outK.shape[0]
    sumsK, sumsT = np.zeros((sinks, L)), np.zeros((sinks, L))
    for u in range(units.shape[0]):
        i, j = units[u, 0], units[u, 1]
        x, y, a1, b1, a2, b2 = X[i], Y[j], r1[i], i1[i], r2[j], i2[j]
        sumsK[:], sumsT[:] = 0.0, 0.0
        storeK[:], storeT[:] = F(0), F(0)
        for stage in range(stages.shape[0]):
            start = stages[stage, 2]
            for d in range(start, stages[stage, 3]):
                dy, dx = displacements[d, 0], displacements[d, 1]
                zero = each and dy == 0 and dx == 0
                for k in range(stages[stage, 0], stages[stage, 1]):
                    if active[k, d - start]:
                        run_step(
                            code[k], numbers[k], dy, dx, zero, each, area, features, pools, blocks,
                            x, y, a1, b1, a2, b2, sumsK, sumsT, K, T, rowsK, rowsT, storeK, storeT,
                        )  # fmt: skip
        row = 0 if each else i
        for s in range(sinks):
            for lane in range(L):
                outK[s, row, j * L + lane] = sumsK[s, lane]
                outT[s, row, j * L + lane] = sumsT[s, lane]


@compiled
def run_step(
    step, number, dy, dx, zero, each, area, features, pools, blocks,
    x, y, a1, b1, a2, b2, sumsK, sumsT, K, T, rowsK, rowsT, storeK, storeT,
):  # fmt: skip
    """One step on one slice."""
    op = step[OPCODE]
    source, target, other = step[IN] * area * L, step[OUT] * area * L, step[OTHER] * area * L
    ody, odx = dy // step[REACH_OUT], dx // step[REACH_OUT + 1]
    height, width = max(0, step[EXTENT_OUT] - abs(ody)), max(0, step[EXTENT_OUT + 1] - abs(odx))
    pitch, top, left = step[EXTENT_OUT + 1], max(0, -ody), max(0, -odx)
    one = step[TABLE] + top * pitch + left
    two = step[TABLE] + (top + ody) * pitch + left + odx
    if op == FEATURES:
        place = features[step[PLACE]]
        for line in range(height):
            p = place[0] + (top + line) * pitch + left
            q = place[0] + (top + ody + line) * pitch + left + odx
            slices.features(x, y, each, place[1], place[2], p, q, K, T, target + line * width * L, width)
    elif op in (LOAD, STORE):
        extents = (step[EXTENT_OUT], step[EXTENT_OUT + 1])
        o = target if op == LOAD else source
        copy_block(op == LOAD, blocks, step[PLACE], ody, odx, extents, height * width, K, T, o, storeK, storeT)
    elif op == CONVOLUTION:
        bent = step[BENT] and not zero
        convolve(step, number, K, T, source, target, dy, dx, rowsK, rowsT, a1, b1, a2, b2, each, bent)
        if zero and step[BENT]:
            tabulate(BEND_TABLE, K, target, height * width, a2, b2, step[TABLE], F(0), False)
            slices.bend(K, T, height * width, target, target, number[HALF])
    elif op == MEAN:
        slices.total(K, source, height * width, sumsK[step[PLACE]], number[SCALE])
        slices.total(T, source, height * width, sumsT[step[PLACE]], number[SCALE])
    elif op == POOL:
        extents = (step[EXTENT_IN], step[EXTENT_IN + 1], step[EXTENT_OUT], step[EXTENT_OUT + 1])
        idy, idx = dy // step[REACH_IN], dx // step[REACH_IN + 1]
        pool_slice(
            pools[0], pools[1], blocks, step[OTHER], step[PLACE], idy, idx, extents, K, T, source, storeK, storeT
        )
    else:
        if zero and step[TABLE] >= 0:
            if op == AFFINE:
                slices.affine(
                    K, T, source, target, height * width,
                    number[WEIGHT], number[BIAS], number[TANGENT_WEIGHT], number[RATE], number[BIAS_RATE],
                )  # fmt: skip
                tabulate(BEND_TABLE, K, target, height * width, a2, b2, step[TABLE], F(0), False)
                slices.bend(K, T, height * width, target, target, number[HALF])
                return
            mean = op == NORMALISE and step[WHOLE]
            tabulate(kind_of_table(op), K, source, height * width, a2, b2, step[TABLE], number[SCALE], mean)
        pointwise(step, number, K, T, source, target, other, height, width, a1, b1, one, a2, b2, two, pitch, each, zero)


@entry_point
def run_vectors(
    each, code, numbers, rows, corner, inK, inT, r1, i1, r2, i2, outK, outT, workspace, width, stamp=STAMP,
):  # fmt: skip
    """Steps on vectors: each row of the matrices with columns in the place of positions and lanes.

    Args:
        each: One row of variances; tables are then written.
        code: `(steps, columns)`; `PLACE` of a load is an input, the last step's `OUT` the result.
        numbers: `(steps, numbers)`.
        rows: First and last row of the inputs.
        corner: What to add to a row for the first side and for the outputs, and where their columns begin.
        inK: `(inputs, rows, columns)`, columns a multiple of `LANES`.
        inT: The same for the NTK.
        r1: `(tables, rows)`.
        i1: Second numbers.
        r2: `(tables, columns)`.
        i2: Second numbers.
        outK: The whole matrix.
        outT: The same for the NTK.
        workspace: Slices and one row of repeated numbers, twice each.
        width: Most positions of a chunk.
    """
    K, T, r, v = workspace
    blocks = inK.shape[2] // L
    for i in range(rows[0], rows[1]):
        for begin in range(0, blocks, width):
            count = min(width, blocks - begin)
            for k in range(code.shape[0]):
                step, number = code[k], numbers[k]
                target, table = step[OUT] * width * L, step[TABLE]
                if step[OPCODE] == LOAD:
                    K[target : target + count * L] = inK[step[PLACE], i, begin * L : (begin + count) * L]
                    T[target : target + count * L] = inT[step[PLACE], i, begin * L : (begin + count) * L]
                    continue
                source, other = step[IN] * width * L, step[OTHER] * width * L
                a1, b1 = r, v
                if each and table >= 0:
                    _tabulate_vector(step, number, K, T, source, target, count, r2[table], i2[table], begin)
                    a1, b1 = r2[table], i2[table]
                    if step[BENT]:
                        continue
                elif table >= 0:
                    r[:], v[:] = r1[table, corner[0] + i], i1[table, corner[0] + i]
                pointwise(
                    step, number, K, T, source, target, other, 1, count,
                    a1, b1, begin if each else 0, r2[table], i2[table], begin, 0, each, each,
                )  # fmt: skip
            last, row, column = code[-1, OUT] * width * L, corner[1] + i, corner[2] + begin * L
            outK[row, column : column + count * L] = K[last : last + count * L]
            outT[row, column : column + count * L] = T[last : last + count * L]


@compiled
def _tabulate_vector(step, number, K, T, source, target, count, root, inverse, begin):
    """Write the table of a step from a chunk of variances; a fused nonlinearity is then applied."""
    op = step[OPCODE]
    if op == AFFINE:
        slices.affine(
            K, T, source, target, count,
            number[WEIGHT], number[BIAS], number[TANGENT_WEIGHT], number[RATE], number[BIAS_RATE],
        )  # fmt: skip
        tabulate(BEND_TABLE, K, target, count, root, inverse, begin, F(0), False)
        slices.bend(K, T, count, target, target, number[HALF])
    else:
        tabulate(kind_of_table(op), K, source, count, root, inverse, begin, number[SCALE], False)
