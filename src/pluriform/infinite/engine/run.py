"""`Fused`: runs a program on batches of inputs, on all cores, in float32."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pluriform.infinite.engine.compile import LANES
from pluriform.infinite.engine.interpreter import run_units, run_vectors
from pluriform.infinite.engine.program import Program, program_of
from pluriform.infinite.engine.reading import NotFused, read
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.plan import Plan

__all__ = ["Fused", "fused_engine"]

L = LANES
CHUNK = 16
ROWS = 256


def fused_engine(plan: Plan, example: Tensor) -> "Fused | None":
    """The engine for a plan; `None` where a rule has no counterpart in it.

    Args:
        plan: The network.
        example: A few inputs, for shapes.
    """
    shapes = {name: tuple(value.shape[1:]) for name, value in plan.features(example).items()}
    try:
        reading = read(plan, shapes)
        return Fused(plan, program_of(reading), reading.channel_axes, reading.features)
    except NotFused:
        return None


@dataclass(frozen=True, eq=False)
class _Side:
    """One batch of inputs, ready for the interpreter.

    Attributes:
        count: Samples.
        lanes: Features in lanes, `(blocks, numbers * LANES)`.
        single: Features one sample a row, `(samples, numbers)`.
        vectors: Deterministic vectors by name, `(samples, channels)`, over the root of their number.
        tables: First and second numbers of variances in lanes, `(blocks, positions * LANES)`.
        singles: The same one sample a row, `(samples, positions)`.
        own: Tables of the steps on vectors, `(tables, padded samples)` twice.
        nngp: Kernel of every sample with itself.
        ntk: The same for the NTK.
    """

    count: int
    lanes: np.ndarray
    single: np.ndarray
    vectors: dict[str, np.ndarray]
    tables: tuple[np.ndarray, np.ndarray]
    singles: tuple[np.ndarray, np.ndarray]
    own: tuple[np.ndarray, np.ndarray]
    nngp: np.ndarray
    ntk: np.ndarray


@dataclass(frozen=True, eq=False)
class Fused:
    """A network compiled for the fused engine.

    Attributes:
        plan: The network.
        program: Its steps as arrays.
        channel_axes: Where deterministic nodes have their channels.
        channels: How many they have.
    """

    plan: Plan
    program: Program
    channel_axes: dict[str, int]
    channels: dict[str, int]

    def side(self, x: Tensor) -> "_Side":
        """Features and variances of a batch: every sample with itself, once."""
        program = self.program
        features = self.plan.features(x.detach())
        spatial = [self._flat(features[name], name) for name in program.features]
        single = np.concatenate([*spatial, np.zeros((len(x), 0), np.float32)], 1)
        lanes = _in_lanes(single)
        blocks = len(lanes)
        tables = _pair(blocks, program.positions * L)
        sums = _Sums.of(program, 1, blocks)
        units = np.repeat(np.arange(blocks), 2).reshape(-1, 2)
        self._units(units, True, (lanes, lanes), (tables, tables), sums)
        names = [name for name in program.vectors.inputs if name not in program.sinks]
        vectors = {name: self._flat(features[name], name) for name in names}
        inputs = [self._own_input(name, vectors, sums, len(x), blocks * L) for name in program.vectors.inputs]
        own = _pair(program.vectors.tables, blocks * L)
        diagonal = self._vectors(True, np.stack([p[0] for p in inputs]), np.stack([p[1] for p in inputs]), own, own)
        singles = _from_lanes(tables[0], len(x)), _from_lanes(tables[1], len(x))
        first, second = diagonal
        return _Side(len(x), lanes, single, vectors, tables, singles, own, first[0, : len(x)], second[0, : len(x)])

    def kernel(self, x1: Tensor, x2: Tensor | None, *, ntk: bool) -> Kernel:
        """NNGP and NTK of all pairs, float32.

        Args:
            x1: First inputs, `(n1, *input_shape)`.
            x2: Second inputs; `None` for the first ones, whose pairs are then computed once.
            ntk: Whether the NTK is asked for.
        """
        first = self.side(x1)
        second = first if x2 is None else self.side(x2)
        program, same = self.program, x2 is None
        rows, blocks = first.count, -(-second.count // L)
        sums = _Sums.of(program, rows, blocks)
        if program.stages.size:
            i, j = np.meshgrid(np.arange(rows), np.arange(blocks), indexing="ij")
            units = np.stack([i.ravel(), j.ravel()], 1)
            if same:
                units = units[(units[:, 1] + 1) * L > units[:, 0]]
            self._units(units, False, (first.single, second.lanes), (first.singles, second.tables), sums)
        nngp, tangent = self._combine(first, second, sums)
        if same:
            nngp, tangent = (_mirrored(part, own) for part, own in ((nngp, first.nngp), (tangent, first.ntk)))
        return Kernel(
            nngp=torch.from_numpy(nngp),
            ntk=torch.from_numpy(tangent) if ntk else None,
            variance1=torch.from_numpy(first.nngp.copy()),
            variance2=torch.from_numpy(second.nngp.copy()),
            same=same,
            gaussian=True,
            zero_mean=True,
        )

    def _flat(self, value: Tensor, name: str) -> np.ndarray:
        """Channels first, `(samples, channels * positions)`, over the root of the number of channels."""
        value = value.detach().to("cpu", torch.float32)
        value = value.movedim(-1, 1) if self.channel_axes[name] == -1 and value.ndim > 2 else value
        return (value.flatten(1) / self.channels[name] ** 0.5).contiguous().numpy()

    def _own_input(
        self, name: str, vectors: dict[str, np.ndarray], sums: "_Sums", count: int, padded: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if name in vectors:
            row = np.zeros((1, padded), np.float32)
            row[0, :count] = (vectors[name] ** 2).sum(1)
            return row, np.zeros_like(row)
        place = self.program.sinks.index(name)
        return sums.nngp[place], sums.ntk[place]

    def _units(
        self,
        units: np.ndarray,
        each: bool,
        features: tuple[np.ndarray, np.ndarray],
        tables: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]],
        sums: "_Sums",
    ) -> None:
        """Run all stages on every unit, a few units a task."""
        program = self.program
        if not len(units) or not program.stages.size:
            return

        def task(part: np.ndarray) -> None:
            slices = program.registers * program.area * L
            rows, stored, repeated = program.row * L, program.stored, features[1].shape[1]
            sizes = (slices, slices, rows, rows, stored, stored, repeated)
            workspace = tuple(np.zeros(max(size, 1), np.float32) for size in sizes)
            run_units(
                part, each, program.code, program.numbers, program.stages, program.displacements, program.active,
                program.area, program.places, program.pools, program.blocks, *features, *tables[0], *tables[1],
                sums.nngp, sums.ntk, workspace,
            )  # fmt: skip

        _on_threads(task, np.array_split(units, max(torch.get_num_threads(), -(-len(units) // 64))))

    def _combine(self, first: _Side, second: _Side, sums: "_Sums") -> tuple[np.ndarray, np.ndarray]:
        """The steps on vectors, some rows at a time, from sums over positions and products of vectors."""
        program, padded = self.program, second.own[0].shape[1]
        nngp = np.empty((first.count, padded), np.float32)
        ntk = np.empty_like(nngp)

        def task(part: np.ndarray) -> None:
            begin, end = int(part[0]), int(part[-1]) + 1
            inputs = [self._pair_input(name, first, second, sums, begin, end) for name in program.vectors.inputs]
            rows = tuple(table[:, begin:end] for table in first.own)
            inK, inT = (np.stack([pair[which] for pair in inputs]) for which in range(2))
            nngp[begin:end], ntk[begin:end] = self._vectors(False, inK, inT, rows, second.own)

        _on_threads(task, [np.arange(first.count)[k : k + ROWS] for k in range(0, first.count, ROWS)])
        return nngp[:, : second.count], ntk[:, : second.count]

    def _pair_input(
        self, name: str, first: _Side, second: _Side, sums: "_Sums", begin: int, end: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if name not in first.vectors:
            place = self.program.sinks.index(name)
            return sums.nngp[place, begin:end], sums.ntk[place, begin:end]
        product = np.zeros((end - begin, second.own[0].shape[1]), np.float32)
        np.matmul(first.vectors[name][begin:end], second.vectors[name].T, out=product[:, : second.count])
        return product, np.zeros_like(product)

    def _vectors(
        self,
        each: bool,
        inK: np.ndarray,
        inT: np.ndarray,
        first: tuple[np.ndarray, ...],
        second: tuple[np.ndarray, ...],
    ) -> tuple[np.ndarray, np.ndarray]:
        steps = self.program.vectors
        outK, outT = np.empty(inK.shape[1:], np.float32), np.empty(inK.shape[1:], np.float32)
        chunk = np.zeros((2, steps.registers * CHUNK * L), np.float32)
        repeated = np.zeros((2, CHUNK), np.float32)
        run_vectors(
            each, steps.code, steps.numbers, (0, inK.shape[1]), inK, inT, *first, *second, outK, outT,
            (chunk[0], chunk[1], repeated[0], repeated[1]), CHUNK,
        )  # fmt: skip
        return outK, outT


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over positions, `(sinks, rows, padded columns)`."""

    nngp: np.ndarray
    ntk: np.ndarray

    @staticmethod
    def of(program: Program, rows: int, blocks: int) -> "_Sums":
        shape = (len(program.sinks), rows, blocks * L)
        return _Sums(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def _pair(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)


def _in_lanes(single: np.ndarray) -> np.ndarray:
    """`(samples, numbers)` to `(blocks, numbers * LANES)`; missing samples are zero."""
    count, numbers = single.shape
    blocks = -(-count // L)
    padded = np.zeros((blocks * L, numbers), np.float32)
    padded[:count] = single
    return np.ascontiguousarray(padded.reshape(blocks, L, numbers).transpose(0, 2, 1)).reshape(blocks, -1)


def _from_lanes(lanes: np.ndarray, count: int) -> np.ndarray:
    """The way back."""
    blocks = len(lanes)
    return np.ascontiguousarray(lanes.reshape(blocks, -1, L).transpose(0, 2, 1)).reshape(blocks * L, -1)[:count]


def _mirrored(part: np.ndarray, own: np.ndarray) -> np.ndarray:
    """A symmetric matrix from its upper triangle and its diagonal."""
    upper = np.triu(part, 1)
    upper += upper.T
    np.fill_diagonal(upper, own)
    return upper


def _on_threads(task: object, parts: list[np.ndarray]) -> None:
    """Call a task that releases the lock on every part, on as many threads as torch uses."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            task(part)  # type: ignore[operator]
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, parts):  # type: ignore[arg-type]
            pass
