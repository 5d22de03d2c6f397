"""Products of all rows of a matrix with a block of samples, and sums over samples, by tiles that fit the registers."""

from functools import cache
from typing import Any

import numpy as np

from pluriform.fused.compile import LANES, WIDE, compiled, standalone
from pluriform.fused.registers import call_address, dot_tile, product_tile, transpose_tile, words

__all__ = ["dots", "products", "tile_addresses", "transpose"]

ROWS = (8, 6, 2, 1)
TAPS = (4, 2, 1)
PLACES = {8: 0, 16: 1, 32: 2, 40: 3}  # Lanes by number of the variant.


def _sweep(items, first, last, unit, a, row_a, a0, a1, a2, b, b0, b1, b2, n0, c, row_c, starts, mode, ahead, pace):
    """One tile of rows for items, each five integers, from `first` to `last`."""
    table = words(items)
    for i in range(first, last):
        k = 5 * i
        tile(  # type: ignore[name-defined]
            a + 4 * table[k + 2], row_a, a0, a1, a2, b + 4 * unit * table[k + 1], b0, b1, b2,
            n0, table[k + 3], table[k + 4], c + 4 * unit * table[k], row_c, starts, mode, ahead, pace,
        )  # fmt: skip


def _dotted(tiles, first, last, lanes, a, row_a, width_a, b, row_b, step_b, c, row_c, add):
    """One tile of outputs for tiles of taps, each twelve integers, from `first` to `last`."""
    table = words(tiles)
    for i in range(first, last):
        k = 12 * i
        run = table[k + 2] * lanes if step_b == 1 else lanes
        columns = 1 if step_b == 1 else table[k + 2]
        at_a = a + 4 * lanes * table[k + 3]
        t = 0
        while t < table[k]:
            left, at_b, at_c = table[k] - t, tiles + 8 * (k + 4 + t), tiles + 8 * (k + 8 + t)
            if most >= 4 and left >= 4:  # type: ignore[name-defined]
                four(  # type: ignore[name-defined]
                    at_a, row_a, width_a * lanes, lanes, b, at_b, lanes, row_b * lanes, step_b * lanes,
                    table[k + 1], columns, run, c, row_c, at_c, add,
                )  # fmt: skip
                t += 4
            elif left >= 2:
                two(  # type: ignore[name-defined]
                    at_a, row_a, width_a * lanes, lanes, b, at_b, lanes, row_b * lanes, step_b * lanes,
                    table[k + 1], columns, run, c, row_c, at_c, add,
                )  # fmt: skip
                t += 2
            else:
                one(  # type: ignore[name-defined]
                    at_a, row_a, width_a * lanes, lanes, b, at_b, lanes, row_b * lanes, step_b * lanes,
                    table[k + 1], columns, run, c, row_c, at_c, add,
                )  # fmt: skip
                t += 1


@cache
def tile_addresses() -> Any:
    """Addresses of all variants: products by lanes (four places) and rows, then sums over samples by rows."""
    found = np.zeros(4 * len(ROWS) + len(TAPS), np.int64)
    for lanes in LANES:
        for j, rows in enumerate(ROWS):
            name = f"sweep_{rows}_{lanes}"
            found[4 * PLACES[lanes] + j] = standalone(_sweep, name, 20, tile=product_tile(rows, lanes))
    for j, rows in enumerate(TAPS):
        four, two, one = (dot_tile(rows, taps) for taps in TAPS)
        found[4 * len(ROWS) + j] = standalone(
            _dotted, f"dots_{rows}", 13, four=four, two=two, one=one, most=TAPS[0] if WIDE else TAPS[1]
        )
    return found


@compiled
def products(
    code, lanes, count, items, first, last, unit, a, row_a, a0, a1, a2, b, b0, b1, b2, n0, c, row_c, starts, mode,
):  # fmt: skip
    """`C[r, item, :] = start + sum A[r, ...] B[..., :]` for all rows and items; see `product_tile`.

    Args:
        code: Addresses of the variants.
        lanes: Numbers of a row of `B` and `C`, one of `LANES`.
        count: Rows.
        items: `(items, 5)`, as `Item` says.
        first: First item.
        last: The one after the last item.
        unit: Numbers a position of `B` and `C`.
        a: Address of `A`, of the rest as in `product_tile`.
    """
    # Rows that follow one another are read in one go: the next ones are asked for while these are used.
    pace = 8 if a2 == 1 and n0 == 1 else 0
    variant = 4 * (lanes // 8 - 1 if lanes <= 16 else lanes // 8 - 2)
    table = items.ctypes.data
    r = 0
    while r < count:
        left = count - r
        kind, size = (0, 8) if WIDE and left >= 8 else (1, 6) if left >= 6 else (2, 2) if left >= 2 else (3, 1)
        call_address(
            code[variant + kind],
            (
                table, first, last, unit, a + 4 * r * row_a, row_a, a0, a1, a2, b, b0, b1, b2, n0,
                c + 4 * r * row_c, row_c, starts + 4 * r, mode,
                a + 4 * (r + size) * row_a if pace else a, pace,
            ),
        )  # fmt: skip
        r += size


@compiled
def dots(
    code, count, tiles, first, last, lanes, a, row_a, width_a, b, row_b, step_b, c, row_c, add,
):  # fmt: skip
    """Gradient of the weights of a convolution: products of gradients and inputs, summed over positions and samples.

    Args:
        code: Addresses of the variants.
        count: Outputs of the convolution.
        tiles: `(tiles, 12)`, as `Tap` says.
        first: First tile.
        last: The one after the last tile.
        lanes: Samples.
        a: Address of the gradients of the outputs.
        row_a: Numbers from one output channel to the next.
        width_a: Positions of a row of outputs.
        b: Address of the inputs.
        row_b: Positions of the inputs from one row of outputs to the next.
        step_b: The same from one output to the next.
        c: Address of the gradient of the weights.
        row_c: Weights of an output.
        add: Whether to add to it.
    """
    r = 0
    while r < count:
        left = count - r
        kind, size = (0, 4) if WIDE and left >= 4 else (1, 2) if left >= 2 else (2, 1)
        call_address(
            code[16 + kind],
            (
                tiles.ctypes.data, first, last, lanes, a + 4 * r * row_a, row_a, width_a, b, row_b, step_b,
                c + 4 * r * row_c, row_c, add,
            ),
        )  # fmt: skip
        r += size


@compiled
def transpose(source, rows, columns, target, pitch):
    """`target[j, i] = source[i, j]`; both counts are rounded up to a multiple of 8.

    Args:
        source: Address of `(rows, columns)`.
        rows: How many.
        columns: A multiple of 8.
        target: Address of the result.
        pitch: Numbers from one of its rows to the next.
    """
    for i in range(0, rows, 8):
        for j in range(0, columns, 8):
            transpose_tile(source + 4 * (i * columns + j), columns, target + 4 * (j * pitch + i), pitch)
