"""The steps on vectors, which follow all stages."""

from dataclasses import dataclass

import numpy as np

from pluriform.infinite.engine.code import Column, Opcode
from pluriform.infinite.engine.reading import Instruction, Reading
from pluriform.infinite.engine.steps import TABLED, Registers, fused, row_of

__all__ = ["VectorProgram", "vector_program"]


@dataclass(frozen=True, eq=False)
class VectorProgram:
    """Steps on vectors.

    Attributes:
        code: `(steps, columns)`.
        numbers: `(steps, numbers)`.
        tables: Number of tables of variances.
        registers: Chunks held at once.
        inputs: Names of the nodes that come from before: sums over positions, and deterministic vectors.
    """

    code: np.ndarray
    numbers: np.ndarray
    tables: int
    registers: int
    inputs: tuple[str, ...]


def vector_program(reading: Reading, steps: list[Instruction]) -> VectorProgram:
    """Assemble the steps whose inputs have no positions."""
    made = {step.out for step in steps}
    inputs = tuple(dict.fromkeys(name for step in steps for name in step.inputs if name not in made))
    inputs = inputs or (reading.output,)
    loads = [Instruction(Opcode.LOAD, name, ()) for name in inputs]
    pairs = fused(loads + steps, {reading.output})
    last = {name: position for position, (step, _) in enumerate(pairs) for name in step.inputs}
    registers, codes, numbers, tables = Registers(), [], [], 0
    for position, (step, bend) in enumerate(pairs):
        code, number = row_of(step, bend)
        if step.opcode is Opcode.LOAD:
            code[Column.PLACE] = inputs.index(step.out)
        if step.opcode in TABLED or bend:
            code[Column.TABLE] = tables
            tables += 1
        for column, name in zip((Column.IN, Column.OTHER), step.inputs, strict=False):
            code[column] = registers.slot[name]
        out = bend.out if bend else step.out
        code[Column.OUT] = registers.give(out)
        for name in dict.fromkeys(step.inputs):
            if last[name] == position:
                registers.release(name)
        codes.append(code)
        numbers.append(number)
    return VectorProgram(np.array(codes), np.array(numbers), tables, registers.count, inputs)
