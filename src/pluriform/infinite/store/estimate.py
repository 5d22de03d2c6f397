"""`estimate_store`: time, disk and memory of a store before it is begun."""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pluriform.available_memory import available_memory
from pluriform.errors import MemoryBudgetError, RunError, explain
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.store.files import Files
from pluriform.infinite.store.grid import Grid

__all__ = ["StoreEstimate", "check_disk", "check_room", "estimate_store", "measured_rate", "tile_for"]

ENOUGH_SECONDS = 0.5
TILE_SECONDS = 15.0
SMALLEST, LARGEST = 16, 2048
COPIES = 6


@dataclass(frozen=True)
class StoreEstimate:
    """What a store will take.

    Attributes:
        pairs: Pairs of samples to compute.
        pairs_per_second: Measured on a few samples, all kernels together.
        seconds: Of computing.
        mib: On disk.
        tile: Rows and columns of a tile.
        tiles: How many.
    """

    pairs: int
    pairs_per_second: float
    seconds: float
    mib: float
    tile: int
    tiles: int


def estimate_store(
    function: Callable[..., Kernel],
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    kernels: tuple[str, ...] = ("nngp", "ntk"),
    dtype: torch.dtype = torch.float32,
    tile: int | None = None,
    mirrored: bool = True,
) -> StoreEstimate:
    """Measure the kernel on a few samples and say what all pairs would take.

    Args:
        function: What `kernel_of` gives.
        x1: First samples.
        x2: Second samples; `None` takes the first.
        kernels: `"nngp"`, `"ntk"` or both.
        dtype: Of computation and store.
        tile: Rows and columns of a tile; `None` for tiles of some fifteen seconds.
        mirrored: Store both halves of a symmetric matrix.
    """
    rate = measured_rate(function, x1, x1 if x2 is None else x2, ntk="ntk" in kernels, dtype=dtype)
    n2 = len(x1 if x2 is None else x2)
    grid = Grid(len(x1), n2, tile or tile_for(rate, len(x1), n2), symmetric=x2 is None)
    files = Files(Path(), grid, kernels, str(dtype).removeprefix("torch."), mirrored)
    pairs = sum(grid.pairs(part) for part in grid.tiles)
    return StoreEstimate(pairs, rate, pairs / rate, _bytes(files) / 2**20, grid.side, len(grid.tiles))


def measured_rate(function: Callable[..., Kernel], x1: Tensor, x2: Tensor, *, ntk: bool, dtype: torch.dtype) -> float:
    """Pairs a second, on as many samples as half a second takes; the first call, which may compile, does not count."""
    side = 2
    with torch.no_grad():
        function(x1[:side], x2[:side], ntk=ntk, dtype=dtype)
        while True:
            first, second = x1[:side], x2[:side]
            start = time.perf_counter()
            function(first, second, ntk=ntk, dtype=dtype)
            spent = max(time.perf_counter() - start, 1e-9)
            if spent > ENOUGH_SECONDS or side >= min(LARGEST, max(len(x1), len(x2))):
                return len(first) * len(second) / spent
            side *= 2


def tile_for(rate: float, n1: int, n2: int) -> int:
    """A tile of some fifteen seconds: what a kill can cost."""
    side = 2 ** round(math.log2(max(math.sqrt(rate * TILE_SECONDS), 1)))
    return min(max(side, SMALLEST), LARGEST, max(n1, n2))


def check_disk(path: Path, needed: float | int, what: str) -> None:
    """Refuse before starting what does not fit the disk.

    Args:
        path: Where it would go.
        needed: Bytes.
        what: For the message.

    Raises:
        RunError: The disk is too small.
    """
    place = next(parent for parent in (path, *path.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > 0.95 * free:
        expected = f"at most {0.95 * free / 2**20:,.0f} MiB (95 % of what the disk has free)"
        remedy = "free some space, name a store on another disk, store one kernel or half of it, or use float32"
        raise RunError(explain(expected, f"{needed / 2**20:,.0f} MiB for {what}", str(path), remedy))


def check_room(files: Files, tiles: int, processes: int) -> None:
    """Refuse before starting when the tiles to come do not fit the disk, or a few of them not the memory.

    Raises:
        RunError: The disk is too small.
        MemoryBudgetError: The memory is too small for tiles of this size.
    """
    check_disk(files.path, tiles * files.tile_bytes, f"{tiles:,} tiles")
    needed, available = COPIES * 8 * files.grid.side**2 * processes, available_memory()
    if needed > 0.9 * available:
        raise MemoryBudgetError(
            explain(
                f"at most {0.9 * available / 2**20:,.0f} MiB (90 % of what is available)",
                f"{needed / 2**20:,.0f} MiB for tiles of {files.grid.side} x {files.grid.side}, {processes} at a time",
                str(files.path),
                f"take tiles of at most {int(math.sqrt(0.9 * available / (COPIES * 8 * processes))):,}",
            )
        )


def _bytes(files: Files) -> int:
    """On disk; diagonal tiles are stored once."""
    down, across = files.grid.counts
    chunks = down * across if files.mirrored or not files.grid.symmetric else len(files.grid.tiles)
    return chunks * len(files.kernels) * files.chunk_bytes
