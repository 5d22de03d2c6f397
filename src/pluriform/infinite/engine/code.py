"""The instruction set of the engine: what the interpreter reads, one row of integers and one of numbers a step."""

from enum import IntEnum

__all__ = ["Column", "Number", "Opcode"]


class Opcode(IntEnum):
    """What a step does."""

    FEATURES = 0
    LOAD = 1
    CONVOLUTION = 2
    AFFINE = 3
    BEND = 4
    ERF = 5
    GELU = 6
    SINE = 7
    NORMALISE = 8
    ADD = 9
    MIX = 10
    MULTIPLY = 11
    DROPOUT = 12
    MEAN = 13
    POOL = 14
    STORE = 15


class Column(IntEnum):
    """Integers of a step. Extents and strides come in pairs, rows first."""

    OPCODE = 0
    OUT = 1
    IN = 2
    OTHER = 3
    TABLE = 4
    SIZE = 5
    STRIDE = 7
    DILATION = 9
    PADDING = 11
    EXTENT_IN = 13
    EXTENT_OUT = 15
    REACH_IN = 17
    REACH_OUT = 19
    BENT = 21
    PLACE = 22
    WHOLE = 23
    COUNT = 24


class Number(IntEnum):
    """Real numbers of a step."""

    WEIGHT = 0
    BIAS = 1
    TANGENT_WEIGHT = 2
    RATE = 3
    BIAS_RATE = 4
    TURN = 5
    HALF = 6
    PHASE = 7
    SCALE = 8
    COUNT = 9
