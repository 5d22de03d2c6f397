"""A plan as arrays that the interpreter runs: stages between poolings, then the steps on vectors."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pluriform.infinite.engine.code import Column, Number, Opcode
from pluriform.infinite.engine.compile import LANES
from pluriform.infinite.engine.demand import demand_of_input, demands, entries
from pluriform.infinite.engine.reach import reaches
from pluriform.infinite.engine.reading import POINT, Extent, Instruction, NotFused, Reading
from pluriform.infinite.engine.steps import TABLED, Registers, fused, row_of
from pluriform.infinite.engine.vectors import VectorProgram, vector_program

__all__ = ["Program", "program_of"]


@dataclass(frozen=True, eq=False)
class Program:
    """Everything that `run_units` takes, but for the data.

    Attributes:
        code: `(steps, columns)`.
        numbers: `(steps, numbers)`.
        stages: `(stages, 4)`.
        displacements: `(displacements, 2)`.
        active: `(steps, most displacements)`.
        area: Most positions of a slice.
        registers: Slices held at once.
        row: Numbers of the ring of rows of a convolution.
        places: `(features, 3)`: offset, channels, positions.
        pools: Cells of poolings and their weights.
        blocks: Where slices of stored tensors begin.
        stored: Numbers of all stored tensors.
        positions: Positions of all tables of variances.
        sinks: Names of the sums over positions.
        features: Names of the deterministic nodes with positions.
        vectors: What follows.
        work: Entries a pair that pass a nonlinearity or a convolution, for estimates.
    """

    code: np.ndarray
    numbers: np.ndarray
    stages: np.ndarray
    displacements: np.ndarray
    active: np.ndarray
    area: int
    registers: int
    row: int
    places: np.ndarray
    pools: tuple[np.ndarray, np.ndarray]
    blocks: np.ndarray
    stored: int
    positions: int
    sinks: tuple[str, ...]
    features: tuple[str, ...]
    vectors: VectorProgram
    work: int


def program_of(reading: Reading) -> Program:
    """Assemble a program.

    Raises:
        NotFused: Extents of one stage do not fit each other.
    """
    spatial = [step for step in reading.instructions if reading.extents[step.inputs[0]] != POINT]
    vectors = [step for step in reading.instructions if reading.extents[step.inputs[0]] == POINT]
    if any(reading.extents[step.out] != POINT for step in vectors):
        raise NotFused("positions after vectors")
    return _Assembly(reading, spatial, vector_program(reading, vectors)).program()


class _Assembly:
    """Stages, reaches, displacements and registers of the steps with positions."""

    def __init__(self, reading: Reading, steps: list[Instruction], vectors: VectorProgram) -> None:
        self.reading, self.steps, self.vectors = reading, steps, vectors
        self.extents, self.demands = reading.extents, demands(reading)
        self.features = tuple(name for name in reading.features if self.extents[name] != POINT)
        self.stage = self._stages()
        self.places: dict[str, int] = {}
        self.sinks: dict[str, int] = {}
        self.pools: list[tuple[Tensor, ...]] = []
        self.positions = 0
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def _stages(self) -> dict[str, int]:
        stage = dict.fromkeys(self.features, 0)
        for step in self.steps:
            stage[step.out] = max(stage[name] for name in step.inputs) + (step.opcode is Opcode.POOL)
        return stage

    def program(self) -> Program:
        """Assemble."""
        count = max((1 + self._runs_in(step) for step in self.steps), default=0)
        for step in self.steps:
            crossing = [name for name in step.inputs if self._runs_in(step) > self.stage[name]]
            for name in [*crossing, *([step.out] if step.opcode is Opcode.POOL else [])]:
                if name not in self.features:
                    self.places.setdefault(name, len(self.places))
        stages, displacements, registers, area = [], [], 0, 1
        for number in range(count):
            begin, first = len(self.rows), len(displacements)
            base, held, most = self._stage(number)
            displacements.extend(base)
            stages.append((begin, len(self.rows), first, len(displacements)))
            registers, area = max(registers, held), max(area, most)
        width = max((len(row[2]) for row in self.rows), default=0)
        active = np.zeros((len(self.rows), width), dtype=np.bool_)
        for position, (_, _, part) in enumerate(self.rows):
            active[position, : len(part)] = part
        blocks, stored = self._blocks()
        return Program(
            code=np.array([row[0] for row in self.rows]).reshape(-1, Column.COUNT),
            numbers=np.array([row[1] for row in self.rows], np.float32).reshape(-1, Number.COUNT),
            stages=np.array(stages, np.int64).reshape(-1, 4),
            displacements=np.array(displacements, np.int64).reshape(-1, 2),
            active=active,
            area=area,
            registers=registers,
            row=max([0, *(self._ring(row[0]) for row in self.rows)]),
            places=self._feature_places(),
            pools=self._pool_arrays(),
            blocks=blocks,
            stored=stored,
            positions=self.positions,
            sinks=tuple(self.sinks),
            features=self.features,
            vectors=self.vectors,
            work=self._work(),
        )

    def _runs_in(self, step: Instruction) -> int:
        return max(self.stage[name] for name in step.inputs)

    def _stage(self, number: int) -> tuple[list[tuple[int, int]], int, int]:
        """Append the steps of a stage; its displacements, registers and largest slice."""
        own = [step for step in self.steps if self._runs_in(step) == number]
        made = {step.out for step in own if step.opcode is not Opcode.POOL}
        needed = dict.fromkeys(name for step in own for name in step.inputs if name not in made)
        loads = [Instruction(Opcode.FEATURES if name in self.features else Opcode.LOAD, name, ()) for name in needed]
        kept = made & set(self.places)
        stores = [Instruction(Opcode.STORE, name, (name,)) for name in kept]
        steps = [*loads, *own, *stores]
        reach = reaches(steps)
        base = self._displacements(reach)
        pairs = fused(steps, kept)
        last = {name: position for position, (step, _) in enumerate(pairs) for name in step.inputs}
        registers = Registers()
        for position, (step, bend) in enumerate(pairs):
            self._append(step, bend, reach, base, registers)
            for name in dict.fromkeys(step.inputs):
                if last[name] == position:
                    registers.release(name)
            out = bend.out if bend else step.out
            if out in registers.slot and out not in last:
                registers.release(out)
        most = max((math.prod(self.extents[name]) for name in reach), default=1)
        return base, registers.count, most

    def _append(
        self,
        step: Instruction,
        bend: Instruction | None,
        reach: dict[str, Extent],
        base: list[tuple[int, int]],
        registers: Registers,
    ) -> None:
        code, numbers = row_of(step, bend)
        sinks = step.opcode in (Opcode.MEAN, Opcode.POOL, Opcode.STORE)
        source = step.inputs[0] if step.inputs else step.out
        out = bend.out if bend else step.out
        for column, name in zip((Column.IN, Column.OTHER), step.inputs, strict=False):
            code[column] = registers.slot[name]
        within = source if sinks else step.out
        for axis in range(2):
            code[Column.EXTENT_IN + axis], code[Column.REACH_IN + axis] = (
                self.extents[source][axis],
                reach[source][axis],
            )
            code[Column.EXTENT_OUT + axis] = self.extents[step.out if step.opcode is Opcode.POOL else within][axis]
            code[Column.REACH_OUT + axis] = reach[within][axis]
        if step.opcode is Opcode.POOL:
            code[Column.PLACE], code[Column.OTHER] = self.places[step.out], len(self.pools)
            self.pools.append(step.matrices)
            wanted = demand_of_input(step, self.demands[step.out], self.extents[source])
        elif step.opcode is Opcode.MEAN:
            code[Column.PLACE] = self.sinks.setdefault(step.out, len(self.sinks))
            wanted = demand_of_input(step, None, self.extents[source])
        else:
            wanted = self.demands[within]
            if step.opcode is Opcode.FEATURES:
                code[Column.PLACE] = self.features.index(step.out)
            elif step.opcode in (Opcode.LOAD, Opcode.STORE):
                code[Column.PLACE] = self.places[step.out]
            if step.opcode is not Opcode.STORE:
                code[Column.OUT] = registers.give(out)
        if step.opcode in TABLED or bend:
            code[Column.TABLE] = self.positions
            self.positions += math.prod(self.extents[out])
        self.rows.append((code, numbers, _active(wanted, reach[within], base)))

    def _displacements(self, reach: dict[str, Extent]) -> list[tuple[int, int]]:
        """All displacements that some node of the stage is asked for; 0 first, then by size, for the sake of caches."""
        found: set[tuple[int, int]] = set()
        for name, (y, x) in reach.items():
            rows, columns = self.extents[name]
            found.update(
                (int(dy) * y, int(dx) * x) for dy, dx in np.argwhere(self.demands[name]) - (rows - 1, columns - 1)
            )
        return sorted(found, key=lambda d: (d != (0, 0), d))

    @staticmethod
    def _ring(code: np.ndarray) -> int:
        if code[Column.OPCODE] != Opcode.CONVOLUTION:
            return 0
        rows = (code[Column.SIZE] - 1) * code[Column.DILATION] + 2
        return int(rows * code[Column.EXTENT_OUT + 1])

    def _feature_places(self) -> np.ndarray:
        places, offset = [], 0
        for name in self.features:
            positions, channels = math.prod(self.extents[name]), self.reading.features[name]
            places.append((offset, channels, positions))
            offset += channels * positions
        return np.array(places, np.int64).reshape(-1, 3)

    def _pool_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        longest = max((matrix.shape[1] for pair in self.pools for matrix in pair), default=1)
        most = max((int((matrix != 0).sum(0).max()) for pair in self.pools for matrix in pair), default=1)
        cells = np.zeros((len(self.pools), 2, longest, 1 + most), np.int64)
        weights = np.zeros((len(self.pools), 2, longest, most), np.float32)
        for pool, pair in enumerate(self.pools):
            for axis, matrix in enumerate(pair):
                for position in range(matrix.shape[1]):
                    found = np.flatnonzero(matrix[:, position].numpy())
                    cells[pool, axis, position, 0] = len(found)
                    cells[pool, axis, position, 1 : 1 + len(found)] = found
                    weights[pool, axis, position, : len(found)] = matrix[found, position].numpy()
        return cells, weights

    def _blocks(self) -> tuple[np.ndarray, int]:
        longest = max((self.demands[name].size for name in self.places), default=1)
        blocks, offset = np.full((len(self.places), longest), -1, np.int64), 0
        for name, place in self.places.items():
            rows, columns = self.extents[name]
            for position, wanted in enumerate(self.demands[name].ravel()):
                if wanted:
                    dy, dx = position // (2 * columns - 1) - rows + 1, position % (2 * columns - 1) - columns + 1
                    blocks[place, position] = offset
                    offset += (rows - abs(dy)) * (columns - abs(dx)) * LANES
        return blocks, offset

    def _work(self) -> int:
        total = 0
        for step in self.steps:
            if step.opcode in (Opcode.CONVOLUTION, *TABLED) and step.out in self.demands:
                total += entries(self.demands[step.out])
        return total


def _active(wanted: np.ndarray, reach: Extent, base: list[tuple[int, int]]) -> np.ndarray:
    rows, columns = ((size - 1) // 2 for size in wanted.shape)
    part = np.zeros(len(base), np.bool_)
    for position, (dy, dx) in enumerate(base):
        if dy % reach[0] == 0 and dx % reach[1] == 0:
            y, x = dy // reach[0] + rows, dx // reach[1] + columns
            if 0 <= y < wanted.shape[0] and 0 <= x < wanted.shape[1]:
                part[position] = wanted[y, x]
    return part
