"""Steps as rows of numbers: which are run as one, what their columns hold, which slots of the workspace they take."""

import numpy as np

from pluriform.infinite.engine.code import Column, Number, Opcode
from pluriform.infinite.engine.reading import Instruction

__all__ = ["Registers", "TABLED", "fused", "row_of"]

TABLED = frozenset({Opcode.BEND, Opcode.ERF, Opcode.GELU, Opcode.SINE, Opcode.NORMALISE})


def fused(steps: list[Instruction], kept: set[str]) -> list[tuple[Instruction, Instruction | None]]:
    """Pairs of a linear step and the two-piece nonlinearity that alone reads it; all others alone."""
    readers: dict[str, list[Instruction]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    taken, pairs = set(), []
    for step in steps:
        if step.out in taken:
            continue
        after = readers.get(step.out, [])
        bends = len(after) == 1 and after[0].opcode is Opcode.BEND and step.out not in kept
        if step.opcode in (Opcode.CONVOLUTION, Opcode.AFFINE) and bends:
            taken.add(after[0].out)
            pairs.append((step, after[0]))
        else:
            pairs.append((step, None))
    return pairs


def row_of(step: Instruction, bend: Instruction | None) -> tuple[np.ndarray, np.ndarray]:
    """Integers and numbers of a step, registers and places still open."""
    code, numbers = np.zeros(Column.COUNT, np.int64), np.zeros(Number.COUNT, np.float32)
    code[Column.OPCODE], code[Column.TABLE], code[Column.WHOLE] = step.opcode, -1, step.whole
    code[Column.REACH_IN : Column.BENT] = 1
    for source in (step, bend):
        if source is not None:
            for name, value in source.numbers.items():
                if source is step or name in (Number.TURN, Number.HALF):
                    numbers[name] = value
    code[Column.BENT] = bend is not None
    for axis, window in enumerate(step.windows):
        code[Column.SIZE + axis], code[Column.STRIDE + axis] = window.size, window.stride
        code[Column.DILATION + axis], code[Column.PADDING + axis] = window.dilation, window.padding[0]
    return code, numbers


class Registers:
    """Workspace slots, each free again after the last use of its node."""

    def __init__(self) -> None:
        self.slot: dict[str, int] = {}
        self.free: list[int] = []
        self.count = 0

    def give(self, name: str) -> int:
        """A slot for a new node."""
        if not self.free:
            self.free.append(self.count)
            self.count += 1
        self.slot[name] = self.free.pop()
        return self.slot[name]

    def release(self, name: str) -> None:
        """The node is not read again."""
        self.free.append(self.slot.pop(name))
