"""`pluriform kernel DATA`: Gram matrices of the infinitely wide network, on disk."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pluriform.cli.arguments import load_data, load_network
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.describe import describe
from pluriform.device import device_of
from pluriform.errors import ConfigError, EmptySplitError, explain
from pluriform.infinite.kernel_function import KernelFunction, kernel_of
from pluriform.infinite.store.estimate import StoreEstimate, check_disk, estimate_store
from pluriform.infinite.store.files import Files
from pluriform.infinite.store.progress import StoreProgress, Tell, bar, duration
from pluriform.infinite.store.stored import StoredKernel
from pluriform.infinite.store.write import kernel_store
from pluriform.nets.zoo import default_name

__all__ = ["run"]

DESCRIPTION = """Compute the NNGP and NTK of the infinitely wide network for all pairs of samples, tile by tile into a
Zarr store. Says first how long it takes and how large it gets. Started again with the same flags it goes on where it
was stopped. With --test a store of test samples against those samples lies in the folder `test` of the store.

examples:
  pluriform kernel digits --net mlp --out kernel.zarr
  pluriform kernel mnist --net mlp --samples 10000 --test 1000 --kernel ntk --out kernel.zarr
  pluriform kernel cifar10 --net my_package.nets:build --samples 1000 --workers processes --out kernel.zarr
"""
CONDITION_SAMPLES = 2000
LINE_SECONDS = 30.0


@dataclass
class Kernel:
    """The flags of `kernel`."""

    data: tyro.conf.Positional[str]
    """name, folder or file of the data set"""
    net: str | None = None
    """network by name, or package.module:build; its weights do not matter"""
    out: str | None = None
    """folder of the store"""
    split: Literal["train", "validation", "test"] = "train"
    """which samples"""
    samples: int | None = None
    """that many of them, drawn with the seed; all by default"""
    test: int | None = None
    """also that many test samples against them; 0 for all"""
    kernel: Literal["nngp", "ntk", "both"] = "both"
    """which kernel"""
    weight_var: float = 2.0
    """variance of a weight times its fan-in"""
    bias_var: float = 0.0
    """variance of a bias"""
    parameterization: Literal["ntk", "standard"] = "ntk"
    """ntk, or standard with the widths of the network"""
    dtype: Literal["float32", "float64"] = "float32"
    """of computation and store"""
    tile: int | None = None
    """rows and columns of a tile; tiles of some fifteen seconds by default"""
    half: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """leave out the tiles below the diagonal, which repeat those above"""
    workers: Literal["serial", "processes", "ray"] = "serial"
    """who computes: this process on all cores, local processes, or a Ray cluster with a shared folder"""
    processes: int = 2
    """number of local processes"""
    target: str | None = None
    """target column of a table"""
    seed: int = 0
    """of the draw of samples"""
    device: str = "auto"
    """auto, cpu or cuda"""


@dataclass(frozen=True, eq=False)
class Block:
    """One store to compute: samples against themselves, or others against them."""

    label: str
    path: Path
    rows: Tensor
    columns: Tensor | None
    beside: dict[str, np.ndarray]


def run(words: Sequence[str]) -> None:
    """Estimate, compute, print the table."""
    chosen = tyro.cli(Kernel, args=list(words), prog="pluriform kernel", description=DESCRIPTION)
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    data = load_data(chosen.data, target=chosen.target, seed=chosen.seed)
    name = chosen.net or default_name(data)
    progress.print(f"{describe(data)}; network {name}")
    blocks = list(_blocks(chosen, data, name))
    device = blocks[0].rows.device
    function = kernel_of(
        load_network(name, data, seed=chosen.seed).to(device).eval(),
        blocks[0].rows[:2],
        weight_var=chosen.weight_var,
        bias_var=chosen.bias_var,
        parameterization=chosen.parameterization,
    )
    estimates = [_estimate(block, function, chosen, progress) for block in blocks]
    new = sum(part.mib for part, block in zip(estimates, blocks, strict=True) if not block.path.exists())
    check_disk(blocks[0].path, new * 2**20, f"{len(blocks)} stores")
    table = Table("samples", "kernel", "shape", "entries", "pairs/s", "MiB on disk", "condition")
    for block, estimate in zip(blocks, estimates, strict=True):
        _add_rows(table, block.label, *_computed(block, estimate, function, chosen, data, name, progress))
    console.print(table)
    console.print(f"store: {blocks[0].path}")


def _blocks(chosen: Kernel, data: Data, name: str) -> Iterator[Block]:
    folder = Path(chosen.out or f"runs/kernel-{data.name}-{name}-seed{chosen.seed}.zarr".replace(":", "-"))
    device = device_of(chosen.device)
    index, inputs, targets = _samples(getattr(data, chosen.split), chosen.samples, chosen.seed, "--samples", data.name)
    first = {"index1": index.numpy(), "targets1": targets.numpy()}
    yield Block(chosen.split, folder, inputs.to(device), None, first)
    if chosen.test is not None:
        count = chosen.test or None
        index, others, targets = _samples(data.test, count, chosen.seed, "--test", data.name)
        own = {"index1": index.numpy(), "targets1": targets.numpy()}
        again = {"index2": first["index1"], "targets2": first["targets1"]}
        yield Block("test", folder / "test", others.to(device), inputs.to(device), own | again)


def _samples(
    split: Split | StreamSplit, count: int | None, seed: int, flag: str, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, inputs and targets of all samples of a split, or of some drawn with the seed, in their order."""
    if count is not None and count < 1:
        raise ConfigError(explain("1 sample or more", f"{count}", flag, "give another number"))
    if not len(split):
        raise EmptySplitError(explain("a split with samples", "an empty one", name, "choose another --split"))
    index = torch.arange(len(split))
    if count is not None and count < len(split):
        index = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return (index, *split.batch(index))


def _estimate(block: Block, function: KernelFunction, chosen: Kernel, progress: Console) -> StoreEstimate:
    """Measure, and say time and size."""
    attributes = Files.attributes(block.path)
    found = estimate_store(
        function,
        block.rows,
        block.columns,
        kernels=_kernels(chosen),
        dtype=getattr(torch, chosen.dtype),
        tile=chosen.tile or (attributes or {}).get("tile"),
        mirrored=not chosen.half,
    )
    told = f"{block.path}: {found.pairs:,} pairs at {found.pairs_per_second:,.1f} a second, {duration(found.seconds)}"
    state = "" if attributes is None else "; finished before" if attributes["complete"] else "; goes on"
    progress.print(f"{told}; {found.mib:,.2f} MiB in {found.tiles:,} tiles of {found.tile}{state}")
    return found


def _kernels(chosen: Kernel) -> tuple[str, ...]:
    return ("nngp", "ntk") if chosen.kernel == "both" else (chosen.kernel,)


def _computed(
    block: Block,
    estimate: StoreEstimate,
    function: KernelFunction,
    chosen: Kernel,
    data: Data,
    name: str,
    progress: Console,
) -> tuple[StoredKernel, float]:
    """The finished store, and pairs a second of this run (0 where nothing was left to do)."""
    rates = [0.0]
    noted = ("split", "samples", "test", "weight_var", "bias_var", "parameterization", "seed")
    facts = {"data": data.name, "data_fingerprint": data.fingerprint, "network": name}
    with _shown(block.label, progress) as show:

        def tell(now: StoreProgress) -> None:
            rates.append(now.pairs_per_second)
            show(now)

        stored = kernel_store(
            block.path,
            function,
            block.rows,
            block.columns,
            nngp=chosen.kernel != "ntk",
            ntk=chosen.kernel != "nngp",
            dtype=getattr(torch, chosen.dtype),
            tile=chosen.tile if block.path.exists() else estimate.tile,
            mirrored=not chosen.half,
            workers=chosen.workers,
            processes=chosen.processes,
            facts=facts | {key: getattr(chosen, key) for key in noted},
            beside=block.beside,
            tell=tell,
        )
    return stored, rates[-1]


@contextmanager
def _shown(label: str, progress: Console) -> Iterator[Tell]:
    """A bar on a terminal; elsewhere a line twice a minute."""
    last = time.perf_counter()

    def line(now: StoreProgress) -> None:
        nonlocal last
        if time.perf_counter() - last > LINE_SECONDS and now.pairs_per_second:
            last = time.perf_counter()
            left = f"{now.pairs_per_second:,.1f} pairs/s, {duration(now.seconds_left)} left"
            progress.print(f"{label}: {now.tiles_done}/{now.tiles} tiles, {left}")

    if sys.stderr.isatty():
        with bar(label, always=True) as tell:
            yield tell
    else:
        yield line


def _add_rows(table: Table, label: str, stored: StoredKernel, rate: float) -> None:
    for name in stored.files.kernels:
        matrix: Any = getattr(stored, name)
        n1, n2 = stored.shape
        table.add_row(
            label,
            name,
            f"{n1:,} x {n2:,}",
            f"{n1 * n2:,}",
            f"{rate:,.1f}" if rate else "-",
            f"{stored.files.bytes_on_disk(name) / 2**20:,.2f}",
            _condition(matrix[:, :]) if stored.files.grid.symmetric and n1 <= CONDITION_SAMPLES else "",
        )


def _condition(gram: np.ndarray) -> str:
    """Largest over smallest eigenvalue."""
    values = torch.linalg.eigvalsh(torch.from_numpy(gram).double())
    least, most = float(values[0]), float(values[-1])
    return f"{most / least:.1e}" if least > most * 1e-12 else "singular: use a ridge"
