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
CHUNK = 64
ROWS = 1024
SIDE = 4096
_Two = tuple[np.ndarray, np.ndarray]


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
    tables: _Two
    singles: _Two
    own: _Two
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
        own, result = _pair(program.vectors.tables, blocks * L), _pair(1, blocks * L)
        pairs = [self._own_input(name, vectors, sums, len(x), blocks * L) for name in program.vectors.inputs]
        inputs = np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])
        self._vectors(True, (0, 1), np.zeros(3, np.int64), inputs, own, own, result)
        singles = _from_lanes(tables[0], len(x)), _from_lanes(tables[1], len(x))
        nngp, ntk = (part[0, : len(x)] for part in result)
        return _Side(len(x), lanes, single, vectors, tables, singles, own, nngp, ntk)

    def kernel(self, x1: Tensor, x2: Tensor | None, *, ntk: bool) -> Kernel:
        """NNGP and NTK of all pairs, float32, tile by tile into place.

        Args:
            x1: First inputs, `(n1, *input_shape)`.
            x2: Second inputs; `None` for the first ones, whose pairs are then computed once.
            ntk: Whether the NTK is asked for.
        """
        same, second = x2 is None, x1 if x2 is None else x2
        rows, columns = len(x1), -(-len(second) // L) * L
        whole = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
        own = np.empty((2, rows), np.float32), np.empty((2, len(second)), np.float32)
        for i, a in enumerate(x1.split(SIDE)):
            first = self.side(a)
            own[0][:, i * SIDE : i * SIDE + first.count] = first.nngp, first.ntk
            for j, b in enumerate(second.split(SIDE)):
                if same and j < i:
                    continue
                other = first if same and i == j else self.side(b)
                own[1][:, j * SIDE : j * SIDE + other.count] = other.nngp, other.ntk
                sums = self._sums(first, other, triangle=same and i == j)
                self._combine(first, other, sums, (i * SIDE, j * SIDE), whole)
        if same:
            for part, diagonal in zip(whole, own[0], strict=True):
                _mirror(part, diagonal)
        nngp, tangent = (torch.from_numpy(part[:, : len(second)]) for part in whole)
        return Kernel(
            nngp=nngp,
            ntk=tangent if ntk else None,
            variance1=torch.from_numpy(own[0][0]),
            variance2=torch.from_numpy(own[1][0]),
            same=same,
            gaussian=True,
            zero_mean=True,
        )

    def _sums(self, first: _Side, second: _Side, *, triangle: bool) -> "_Sums":
        """All stages on every pair of a tile, or on those on and above its diagonal; one block after another, so that
        its tables stay in cache.
        """
        rows, blocks = first.count, -(-second.count // L)
        sums = _Sums.of(self.program, rows, blocks)
        j, i = np.divmod(np.arange(rows * blocks), rows)
        chosen = (j + 1) * L > i if triangle else slice(None)
        units = np.stack([i[chosen], j[chosen]], 1)
        self._units(units, False, (first.single, second.lanes), (first.singles, second.tables), sums)
        return sums

    def _flat(self, value: Tensor, name: str) -> np.ndarray:
        """Channels first, `(samples, channels * positions)`, over the root of the number of channels."""
        value = value.detach().to("cpu", torch.float32)
        value = value.movedim(-1, 1) if self.channel_axes[name] == -1 and value.ndim > 2 else value
        return (value.flatten(1) / self.channels[name] ** 0.5).contiguous().numpy()

    def _own_input(self, name: str, vectors: dict[str, np.ndarray], sums: "_Sums", count: int, padded: int) -> _Two:
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
        features: _Two,
        tables: tuple[_Two, _Two],
        sums: "_Sums",
    ) -> None:
        """Run all stages on every unit, a few units a task."""
        program = self.program
        if not len(units) or not program.stages.size:
            return

        def task(part: np.ndarray) -> None:
            slices = program.registers * program.area * L
            rows, stored = program.row * L, program.stored
            sizes = (slices, slices, rows, rows, stored, stored)
            workspace = tuple(np.zeros(max(size, 1), np.float32) for size in sizes)
            run_units(
                part, each, program.code, program.numbers, program.stages, program.displacements, program.active,
                program.area, program.places, program.pools, program.blocks, *features, *tables[0], *tables[1],
                sums.nngp, sums.ntk, workspace,
            )  # fmt: skip

        _on_threads(task, np.array_split(units, max(torch.get_num_threads(), -(-len(units) // 64))))

    def _combine(self, first: _Side, second: _Side, sums: "_Sums", corner: tuple[int, int], whole: _Two) -> None:
        """The steps on vectors, from sums over positions and products of vectors, into place.

        Every thread takes rows of its own, some at a time, and multiplies them itself: a library that splits each
        product would make the threads wait for one another.
        """
        from threadpoolctl import threadpool_limits

        names, padded = self.program.vectors.inputs, second.own[0].shape[1]

        def task(part: np.ndarray) -> None:
            shape = (len(names), min(ROWS, len(part)), padded)
            covariance, tangent = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            for begin in range(int(part[0]), int(part[-1]) + 1, ROWS):
                rows = slice(begin, min(begin + ROWS, int(part[-1]) + 1))
                for place, name in enumerate(names):
                    self._pairs(name, first, second, sums, rows, covariance[place], tangent[place])
                at = np.array([begin, corner[0] + begin, corner[1]])
                some = (0, rows.stop - begin)
                self._vectors(False, some, at, (covariance, tangent), first.own, second.own, whole)

        with threadpool_limits(1, "blas"):
            _on_threads(task, np.array_split(np.arange(first.count), min(torch.get_num_threads(), first.count)))

    def _pairs(
        self,
        name: str,
        first: _Side,
        second: _Side,
        sums: "_Sums",
        rows: slice,
        covariance: np.ndarray,
        tangent: np.ndarray,
    ) -> None:
        """One input of the steps on vectors, for some rows; products of vectors have no NTK."""
        count = rows.stop - rows.start
        if name in first.vectors:
            np.matmul(first.vectors[name][rows], second.vectors[name].T, out=covariance[:count, : second.count])
            return
        place = self.program.sinks.index(name)
        covariance[:count], tangent[:count] = sums.nngp[place, rows], sums.ntk[place, rows]

    def _vectors(
        self,
        each: bool,
        rows: tuple[int, int],
        corner: np.ndarray,
        inputs: _Two,
        first: _Two,
        second: _Two,
        outputs: _Two,
    ) -> None:
        """Run the steps on vectors: covariances and NTKs of all inputs, tables of both sides, results in place."""
        steps = self.program.vectors
        chunk, repeated = np.zeros((2, steps.registers * CHUNK * L), np.float32), np.zeros((2, CHUNK), np.float32)
        workspace = (chunk[0], chunk[1], repeated[0], repeated[1])
        run_vectors(
            each, steps.code, steps.numbers, rows, corner, *inputs, *first, *second, *outputs, workspace, CHUNK,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over positions, `(sinks, rows, padded columns)`."""

    nngp: np.ndarray
    ntk: np.ndarray

    @staticmethod
    def of(program: Program, rows: int, blocks: int) -> "_Sums":
        shape = (len(program.sinks), rows, blocks * L)
        return _Sums(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def _pair(rows: int, columns: int) -> _Two:
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


def _mirror(matrix: np.ndarray, diagonal: np.ndarray) -> None:
    """Make a matrix symmetric in place from its upper triangle and its diagonal."""
    count = len(diagonal)
    for i in range(0, count, ROWS):
        rows = slice(i, min(i + ROWS, count))
        for j in range(i, count, ROWS):
            columns = slice(j, min(j + ROWS, count))
            if i == j:
                upper = np.triu(matrix[rows, rows], 1)
                matrix[rows, rows] = upper + upper.T
            else:
                matrix[columns, rows] = matrix[rows, columns].T
    matrix[np.arange(count), np.arange(count)] = diagonal


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
