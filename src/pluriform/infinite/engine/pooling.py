"""Steps that leave a stage: slices pooled or copied into tensors that hold all demanded displacements."""

from numba import uintp as U

from pluriform.infinite.engine.compile import LANES, compiled, lanewise
from pluriform.infinite.engine.lanes import accumulate

__all__ = ["copy_block", "pool_slice"]

L = LANES


@compiled
def block_start(blocks, place, height, width, dy, dx):
    """Where the slice at a displacement begins in the store, in numbers; -1 where it is not kept."""
    if abs(dy) >= height or abs(dx) >= width:
        return -1
    return blocks[place, (dy + height - 1) * (2 * width - 1) + dx + width - 1]


@compiled
def copy_block(load, blocks, place, dy, dx, extents, slice_count, K, T, o, storeK, storeT):
    """A whole slice from or to the store."""
    start = block_start(blocks, place, extents[0], extents[1], dy, dx)
    if start < 0:
        return
    if load:
        _copy(storeK, start, K, o, slice_count)
        _copy(storeT, start, T, o, slice_count)
    else:
        _copy(K, o, storeK, start, slice_count)
        _copy(T, o, storeT, start, slice_count)


@lanewise
def _copy(source, s, target, t, count):
    for i in range(count * L):
        target[U(t + i)] = source[U(s + i)]


@compiled
def pool_slice(pools, weights, blocks, pool, place, dy, dx, extents, K, T, source, storeK, storeT):
    """Adds the entries of one slice to the cells of the pooled tensor that they belong to.

        K'(o, o') += D(o, p) D(o', p') K(p, p')

    Args:
        pools: `(poolings, 2, longest axis, 1 + most cells)`: for rows and columns, the number of cells of a position
            and the cells.
        weights: `(poolings, 2, longest axis, most cells)`: `D`.
        blocks: Where slices of stored tensors begin.
        pool: Which pooling.
        place: Which stored tensor.
        dy: Displacement in rows.
        dx: Displacement in columns.
        extents: Height and width before and after.
        K: Slices of covariances.
        T: Slices of neural tangent kernels.
        source: Where the slice begins.
        storeK: Stored tensors.
        storeT: The same for the NTK.
    """
    height, width, out_height, out_width = extents
    rows, columns = height - abs(dy), width - abs(dx)
    top, left = max(0, -dy), max(0, -dx)
    for y in range(rows):
        p, q = top + y, top + y + dy
        for m in range(pools[pool, 0, p, 0]):
            for n in range(pools[pool, 0, q, 0]):
                a, b = pools[pool, 0, p, 1 + m], pools[pool, 0, q, 1 + n]
                shift = b - a
                _pool_row(
                    pools[pool, 1], weights[pool, 1], weights[pool, 0, p, m] * weights[pool, 0, q, n],
                    blocks[place, (shift + out_height - 1) * (2 * out_width - 1) :], a - max(0, -shift), out_width,
                    K, T, source + y * columns * L, columns, left, dx, storeK, storeT,
                )  # fmt: skip


@lanewise
def _pool_row(cells, weights, weight, starts, line, out_width, K, T, s, columns, left, dx, storeK, storeT):
    for x in range(columns):
        p, q = left + x, left + x + dx
        for m in range(cells[p, 0]):
            a = cells[p, 1 + m]
            for n in range(cells[q, 0]):
                shift = cells[q, 1 + n] - a
                start = starts[shift + out_width - 1]
                if start < 0:
                    continue
                factor = weight * weights[p, m] * weights[q, n]
                o = start + (line * (out_width - abs(shift)) + a - max(0, -shift)) * L
                accumulate(storeK, o, K, s + x * L, factor)
                accumulate(storeT, o, T, s + x * L, factor)
