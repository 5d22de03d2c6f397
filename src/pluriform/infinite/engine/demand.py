"""Which displacements of each node anything that follows asks for."""

import numpy as np

from pluriform.infinite.engine.code import Opcode
from pluriform.infinite.engine.reading import POINT, Extent, Instruction, Reading

__all__ = ["Demand", "demand_of_input", "demands", "entries"]

Demand = np.ndarray
"""Displacements of a node, `(2 rows - 1, 2 columns - 1)`, true where needed; no displacement is in the middle."""


def demands(reading: Reading) -> dict[str, Demand]:
    """Demand of every node with positions, from the output backwards.

    A convolution with stride `s` asks for `s d` of its input, a pooling for all displacements between cells of two
    windows, a mean over all positions for everything, a flatten for 0. Displacement 0, the variances, is always there.
    """
    asked = {name: _nothing(extent) for name, extent in reading.extents.items() if extent != POINT}
    for step in reversed(reading.instructions):
        own = asked.get(step.out)
        for name in step.inputs:
            if name in asked:
                asked[name] |= demand_of_input(step, own, reading.extents[name])
    return asked


def _nothing(extent: Extent) -> Demand:
    demand = np.zeros((2 * extent[0] - 1, 2 * extent[1] - 1), dtype=bool)
    demand[extent[0] - 1, extent[1] - 1] = True
    return demand


def demand_of_input(step: Instruction, own: Demand | None, extent: Extent) -> Demand:
    """What a step asks of an input of this extent, to give the displacements `own` of its output."""
    if step.opcode is Opcode.MEAN:
        return _nothing(extent) if step.centre else np.ones_like(_nothing(extent))
    if own is None:
        return _nothing(extent)
    if step.opcode is Opcode.CONVOLUTION:
        return _strided(own, extent, (step.windows[0].stride, step.windows[1].stride))
    if step.opcode is Opcode.POOL:
        rows, columns = (_shifts(matrix.numpy() != 0) for matrix in step.matrices)
        return (rows.T @ own.astype(int) @ columns) > 0
    return own


def _shifts(window: np.ndarray) -> np.ndarray:
    """`(2 out - 1, 2 in - 1)`: 1 where a displacement of cells holds that of some of their positions."""
    after, before = window.shape
    shifts = np.zeros((2 * after - 1, 2 * before - 1), dtype=int)
    cells, positions = np.nonzero(window)
    for cell, position in zip(cells, positions, strict=True):
        shifts[cells - cell + after - 1, positions - position + before - 1] = 1
    return shifts


def _strided(own: Demand, extent: Extent, strides: tuple[int, int]) -> Demand:
    demand = _nothing(extent)
    rows, columns = (own.shape[0] - 1) // 2, (own.shape[1] - 1) // 2
    for dy, dx in np.argwhere(own) - (rows, columns):
        y, x = dy * strides[0], dx * strides[1]
        if abs(y) < extent[0] and abs(x) < extent[1]:
            demand[y + extent[0] - 1, x + extent[1] - 1] = True
    return demand


def entries(demand: Demand) -> int:
    """Pairs of positions at all demanded displacements."""
    rows, columns = ((size + 1) // 2 for size in demand.shape)
    heights = rows - np.abs(np.arange(demand.shape[0]) - rows + 1)
    widths = columns - np.abs(np.arange(demand.shape[1]) - columns + 1)
    return int((demand * heights[:, None] * widths).sum())
