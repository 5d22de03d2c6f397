"""Strides of a stage: how far a displacement at each node reaches at the finest node."""

import math
from fractions import Fraction

from pluriform.infinite.engine.code import Opcode
from pluriform.infinite.engine.reading import Extent, Instruction, NotFused

__all__ = ["reaches"]

Link = tuple[str, str, int, int]


def reaches(steps: list[Instruction]) -> dict[str, Extent]:
    """Reach of every node of a stage, rows first.

    Raises:
        NotFused: Branches of different strides meet.
    """
    links: list[Link] = []
    for step in steps:
        if step.opcode in (Opcode.MEAN, Opcode.POOL, Opcode.STORE):
            continue
        strides = [window.stride for window in step.windows] or [1, 1]
        links += [(name, step.out, strides[0], strides[1]) for name in step.inputs]
    names = dict.fromkeys(
        name
        for step in steps
        for name in (*step.inputs, *(() if step.opcode in (Opcode.POOL, Opcode.MEAN) else (step.out,)))
    )
    return _solve(list(names), links)


def _solve(names: list[str], links: list[Link]) -> dict[str, Extent]:
    """Reaches that grow by the stride along every link, smallest integers for each connected part."""
    around: dict[str, list[tuple[str, Fraction, Fraction]]] = {name: [] for name in names}
    for source, target, y, x in links:
        around[source].append((target, Fraction(y), Fraction(x)))
        around[target].append((source, Fraction(1, y), Fraction(1, x)))
    reach: dict[str, Extent] = {}
    for start in names:
        if start in reach:
            continue
        part, waiting = {start: (Fraction(1), Fraction(1))}, [start]
        while waiting:
            name = waiting.pop()
            for other, y, x in around[name]:
                found = part[name][0] * y, part[name][1] * x
                if part.setdefault(other, found) != found:
                    raise NotFused("branches of different strides")
                if found is part[other]:
                    waiting.append(other)
        scales = [math.lcm(*(value[axis].denominator for value in part.values())) for axis in range(2)]
        reach |= {name: (int(y * scales[0]), int(x * scales[1])) for name, (y, x) in part.items()}
    return reach
