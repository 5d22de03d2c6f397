"""Columns and codes of a program."""

from enum import IntEnum

__all__ = ["Bend", "Call", "Column", "Item", "Opcode", "Tap"]


class Opcode(IntEnum):
    """Kinds of steps."""

    PRODUCT = 0
    ACTIVATION = 1
    AVG_POOL = 2
    MAX_POOL = 3


class Bend(IntEnum):
    """Elementwise nonlinearities; `LEAKY` has a slope for negative numbers, 0 for ReLU."""

    LEAKY = 0
    ELU = 1
    TANH = 2
    SIGMOID = 3
    SILU = 4
    GELU = 5


class Column(IntEnum):
    """Of a step. Places are counted in numbers a sample; strides of tensors over samples, too."""

    OPCODE = 0
    SOURCE = 1  # Place of what it reads; -1 is the input of the network.
    TARGET = 2
    GRADIENT = 3  # Place of the gradient with respect to what it gives.
    CHANNELS = 4  # Of the source.
    AREA = 5  # Positions of the source.
    CHANNELS_OUT = 6
    AREA_OUT = 7
    KIND = 8  # Of an activation.
    WEIGHT = 9  # Number of the parameter.
    BIAS = 10  # Or -1.
    DENSE = 11  # One position: the gradient of the weight is a product over samples.
    BACK = 12  # Whether a gradient is passed on.
    FIRST_ITEM = 13
    LAST_ITEM = 14
    ROW = 15  # Strides of the weight: of an output, then of the three axes that are summed; then those of the source.
    AXES = 16
    COUNT = 22  # Length of the first of them.
    FIRST_BACK = 23  # The same for the gradient of the source.
    LAST_BACK = 24
    ROW_BACK = 25
    AXES_BACK = 26
    COUNT_BACK = 32
    FIRST_TAP = 33  # Rows of taps.
    LAST_TAP = 34
    WIDTH_OUT = 35  # Positions from a row to the next.
    STEP_ROW = 36  # Positions of the source from a row of outputs to the next, and from one output to the next.
    STEP = 37
    DISJOINT = 38  # Windows of a pool do not overlap.
    END = 39


class Item(IntEnum):
    """One output position of a convolution, or one window of a pool."""

    TARGET = 0
    SOURCE = 1
    WEIGHT = 2
    ROWS = 3
    COLUMNS = 4
    END = 5


class Tap(IntEnum):
    """Up to four weights of a filter that meet the same output positions."""

    COUNT = 0
    ROWS = 1
    COLUMNS = 2
    TARGET = 3  # First output position.
    SOURCES = 4  # Their first positions in the source, channels included.
    WEIGHTS = 8
    END = 12


class Call(IntEnum):
    """Of the table that says a thread what to compute."""

    COUNTER = 0  # Address of the number of the next task.
    SLOTS = 1  # Address of the number of threads that have begun.
    SPACES = 2  # Address of the addresses of workspaces.
    MEMBERS = 3
    OWN = 4  # Whether every network has inputs of its own; shared ones are packed.
    SAMPLES = 5
    BLOCKS = 6  # Address of `(blocks, 4)`: first sample, samples, lanes, lanes of the blocks before.
    BLOCK_COUNT = 7
    SHAPE = 8  # Channels, height, width of an input.
    BORDER = 11  # Zeros around it: rows, columns.
    INPUTS = 13  # Address.
    CODE = 14  # Address of the addresses of tiles.
    STEPS = 15
    STEP_COUNT = 16
    NUMBERS = 17
    ITEMS = 18
    ITEM_COUNT = 19
    TILES = 20
    TILE_COUNT = 21
    PLACES = 22  # Of gradients that are passed on, of the copy for a pool, the end.
    WEIGHTS = 25  # Address of the addresses of all parameters.
    GRADIENTS = 26
    SIZES = 27
    OUTPUTS = 28
    RESULTS = 29  # Address of the losses or outputs.
    LABELS = 30
    TARGETS = 31
    CLASSIFY = 32
    NOISE = 33  # Of chains: address of `(rounds, numbers of all blocks)`.
    UNITS = 34  # Address of the unit of every input.
    SETTING = 35  # Address of step, noise, largest gradient, lowest and highest input, whether to normalise.
    ROUNDS = 36
    LARGEST = 37  # Address of the largest norm of a gradient of every sample.
    END = 38
