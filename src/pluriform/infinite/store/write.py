"""`kernel_store`: kernels of any size, tile by tile into a Zarr store; a run that was stopped goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.distribute import Outcome, Workers, map_tasks
from pluriform.errors import ConfigError, NonFiniteError, PluriformError, RunConflictError, explain
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.store.estimate import check_room, measured_rate, tile_for
from pluriform.infinite.store.files import Files
from pluriform.infinite.store.grid import Grid, Tile
from pluriform.infinite.store.identity import check_identity, identity
from pluriform.infinite.store.progress import StoreProgress, Tell, bar
from pluriform.infinite.store.stored import StoredKernel, open_kernel

__all__ = ["kernel_store"]


def kernel_store(
    path: str | Path,
    function: Callable[..., Kernel],
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    nngp: bool = True,
    ntk: bool = True,
    dtype: torch.dtype = torch.float32,
    tile: int | None = None,
    mirrored: bool = True,
    workers: Workers = "serial",
    processes: int = 2,
    facts: Mapping[str, Any] | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
    tell: Tell | None = None,
) -> StoredKernel:
    """Compute kernels of every pair into a Zarr store on disk, and open it.

    Called again with the same arguments after a kill, Ctrl-C or a full disk, it computes only what is missing or
    damaged; a finished store is checked and opened. Of a matrix of samples with themselves only tiles on and above the
    diagonal are computed.

    Args:
        path: Folder of the store (Zarr format 3).
        function: What `kernel_of` gives.
        x1: First samples, `(n1, *input_shape)`.
        x2: Second samples; `None` takes the first.
        nngp: Store the NNGP.
        ntk: Store the NTK.
        dtype: Of computation and store: float32 or float64.
        tile: Rows and columns of a tile; `None` keeps that of the store, or takes tiles of some fifteen seconds.
        mirrored: Store both halves of a symmetric matrix, for readers other than `open_kernel`; off, half the disk.
        workers: Who computes: this process on all its cores, local processes, or Ray with a shared folder.
        processes: Number of local processes.
        facts: Names and variances, as JSON, kept for readers and for messages.
        beside: Small arrays to keep in the store, such as targets.
        tell: Called after every tile; a bar on the terminal by default.

    Returns:
        The finished store.

    Raises:
        RunConflictError: The store belongs to another network, other variances, samples, precision or tiles.
        RunBusyError: Another process is writing it.
        RunError: Something else is at `path`, or the disk is too small (estimated before starting) or fails.
        MemoryBudgetError: Tiles of this size do not fit the memory.
        NonFiniteError: The inputs, or a kernel of them, are not finite.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from pluriform.infinite.kernel_function import kernel_of
        >>> x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        >>> function = kernel_of(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kernel = kernel_store(f"{folder}/k.zarr", function, x, tile=2)
        ...     kernel.ntk.shape, kernel.ntk[3:, 0].shape, bool((kernel.ntk[1, 4] == kernel.ntk[4, 1]))
        ((5, 5), (2,), True)
    """
    place = Path(path)
    kernels = tuple(name for name, asked in (("nngp", nngp), ("ntk", ntk)) if asked)
    _check_arguments(kernels, tile, dtype, x1, x2)
    wanted: dict[str, Any] = identity(function, x1, x2, kernels=kernels, dtype=dtype) | {"mirrored": mirrored}
    attributes, given = Files.attributes(place), dict(facts or {})
    if attributes is None:
        others = x1 if x2 is None else x2
        side = tile or tile_for(measured_rate(function, x1, others, ntk=ntk, dtype=dtype), len(x1), len(others))
        grid = Grid(len(x1), len(others), side, symmetric=x2 is None)
        files = Files(place, grid, kernels, wanted["dtype"], mirrored)
        check_room(files, len(grid.tiles), processes)
        files.create(wanted | {"facts": given}, beside or {})
    else:
        check_identity(attributes, wanted, (attributes["facts"], given), str(place))
        files = Files.of(place, attributes)
        _check_tile(tile, files)
    with files.locked():
        finished = files.finished()
        missing = [part for part in files.grid.tiles if part not in finished]
        if missing:
            check_room(files, len(missing), processes)
            files.mark_complete(False)
            work = _Work(files, function, x1, x2, dtype, workers, processes)
            if tell is not None:
                work.run(missing, tell)
            else:
                with bar(f"kernel {place.name}") as shown:
                    work.run(missing, shown)
        files.mark_complete(True)
    return open_kernel(place)


def _check_arguments(
    kernels: tuple[str, ...], tile: int | None, dtype: torch.dtype, x1: Tensor, x2: Tensor | None
) -> None:
    if not kernels:
        raise ConfigError(explain("nngp or ntk", "neither", "kernel_store", "ask for at least one"))
    if tile is not None and tile < 1:
        raise ConfigError(explain("a tile of 1 sample or more", f"{tile}", "kernel_store", "leave it out"))
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(explain("float32 or float64", str(dtype), "dtype of kernel_store", "choose one of them"))
    for name, inputs in (("x1", x1), ("x2", x2)):
        if inputs is not None and not bool(inputs.isfinite().all()):
            row = int((~inputs.flatten(1).isfinite()).any(1).nonzero()[0])
            got = f"NaN or infinity in sample {row}"
            raise NonFiniteError(explain("finite inputs", got, f"{name} of kernel_store", "remove such samples"))


def _check_tile(tile: int | None, files: Files) -> None:
    if tile is not None and tile != files.grid.side:
        expected, got = f"tile={files.grid.side}, as the store has it", f"tile={tile}"
        raise RunConflictError(explain(expected, got, str(files.path), "leave the tile out, or name another store"))


@dataclass(frozen=True, eq=False)
class _Done:
    """What a worker says of a tile: seconds, or the error to raise."""

    seconds: float
    error: PluriformError | None = None


@dataclass(eq=False)
class _Work:
    """Tiles to compute, and how far that has come."""

    files: Files
    function: Callable[..., Kernel]
    x1: Tensor
    x2: Tensor | None
    dtype: torch.dtype
    workers: Workers
    processes: int
    pairs: int = field(init=False, default=0)

    def run(self, missing: Sequence[Tile], tell: Tell) -> None:
        """Compute them all."""
        grid = self.files.grid
        everything, ahead = sum(map(grid.pairs, grid.tiles)), sum(map(grid.pairs, missing))
        finished, start = len(grid.tiles) - len(missing), time.perf_counter()
        tell(StoreProgress(finished, len(grid.tiles), everything - ahead, everything, 0.0, float("inf")))

        def took(outcome: Outcome[_Done]) -> None:
            nonlocal finished
            if (error := outcome.value().error) is not None:
                raise error
            finished, self.pairs = finished + 1, self.pairs + grid.pairs(missing[outcome.position])
            rate = self.pairs / (time.perf_counter() - start)
            left = ahead - self.pairs
            tell(StoreProgress(finished, len(grid.tiles), everything - left, everything, rate, left / rate))

        first, second = self._inputs()
        compute = partial(
            _compute, files=self.files, function=self.function, inputs=(first, second), device=str(self.x1.device)
        )
        try:
            map_tasks(compute, missing, workers=self.workers, processes=self.processes, tell=took)
        finally:
            for part in (first, second):
                if isinstance(part, Path):
                    part.unlink(missing_ok=True)

    def _inputs(self) -> Any:
        """Samples as arrays; for other processes as files, which they map, so that memory holds them once."""
        parts: list[Any] = [None if x is None else x.detach().cpu().to(self.dtype).numpy() for x in (self.x1, self.x2)]
        if self.workers == "serial":
            return parts
        for position, part in enumerate(parts):
            if part is not None:
                parts[position] = self.files.path.resolve() / f".inputs{position + 1}.npy"
                np.save(parts[position], part)
        return parts


def _compute(tile: Tile, *, files: Files, function: Callable[..., Kernel], inputs: Any, device: str) -> _Done:
    """Compute and write one tile; an error that pluriform explains is given back whole."""
    start = time.perf_counter()
    first, second = (np.load(part, mmap_mode="r") if isinstance(part, Path) else part for part in inputs)
    rows = torch.from_numpy(np.array(first[files.grid.rows(tile.i)])).to(device)
    columns = torch.from_numpy(np.array((first if second is None else second)[files.grid.columns(tile.j)])).to(device)
    diagonal = second is None and tile.i == tile.j
    try:
        with torch.no_grad():
            found = function(rows, None if diagonal else columns, ntk="ntk" in files.kernels, dtype=rows.dtype)
        parts = {name: getattr(found, name).cpu().numpy() for name in files.kernels}
        for name, values in parts.items():
            if not np.isfinite(values).all():
                expected, where = f"a finite {name}", f"tile ({tile.i}, {tile.j}) of {files.path}"
                remedy = "use float64, or a smaller weight_var"
                raise NonFiniteError(explain(expected, "NaN or infinity", where, remedy))
            if diagonal:  # Equal up to rounding; solvers may rely on more.
                parts[name] = np.triu(values) + np.triu(values, 1).T
        files.write(tile, parts, (found.variance1.cpu().numpy(), found.variance2.cpu().numpy()))
    except PluriformError as error:
        return _Done(time.perf_counter() - start, error)
    return _Done(time.perf_counter() - start)
