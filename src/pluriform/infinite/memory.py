"""Memory of a kernel, estimated before it is computed."""

from pluriform.available_memory import available_memory
from pluriform.errors import MemoryBudgetError, explain

__all__ = ["check_kernel_memory"]

TENSORS = 8
"""Tensors of a tile that the plain engine holds at once: both kernels, variances, and what a nonlinearity needs."""

SMALL = 2**28
"""Bytes that need no estimate: callers that tile their work have made one."""


def check_kernel_memory(rows: int, columns: int, *, kernels: int, itemsize: int, tile: int) -> None:
    """Refuse a kernel that would not fit.

    Args:
        rows: First inputs.
        columns: Second inputs.
        kernels: Matrices of the result, 1 or 2.
        itemsize: Bytes of a number.
        tile: Entries of one tensor of a tile, positions included; 0 for the fused engine.

    Raises:
        MemoryBudgetError: With the estimate, what is available and what to do.
    """
    available = 0.9 * available_memory()
    result, work = rows * columns * kernels * itemsize, TENSORS * tile * itemsize
    if result + work <= max(available, SMALL):
        return
    if work > available:
        got = f"{work / 2**20:,.0f} MiB for the positions of one tile of pairs"
        remedy = "pool or stride earlier, crop or resize the inputs, or flatten instead of pooling last"
    else:
        got = f"{(result + work) / 2**20:,.0f} MiB for {rows:,} x {columns:,} pairs"
        remedy = "fill a store tile by tile: pluriform.infinite.kernel_store, or pluriform kernel"
    expected = f"at most {available / 2**20:,.0f} MiB (90 % of what is available)"
    raise MemoryBudgetError(explain(expected, got, "kernel function", remedy))
