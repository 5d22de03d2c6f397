"""A call of fused kernels: weights in memory order, packed inputs, blocks, workspaces, threads."""

import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor, float32, get_num_threads, int64

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.fused.code import Call
from pluriform.fused.program import MOST_LANES, Program
from pluriform.fused.threads import on_threads

__all__ = ["PackedCall", "addresses", "blocks_of"]

REMEDY = "stack the weights of networks of one architecture"
KEPT_BYTES = 2**26  # Workspaces up to this size are kept for the next call.


class PackedCall:
    """Weights and inputs of networks, as the kernels read them.

    Args:
        program: Of the architecture.
        weights: By name, `(member, *shape)`, float32 on the CPU.
        inputs: `(batch, *features)`, or with a leading member axis with `own`.
        own: Whether every network has a batch of its own.

    Raises:
        GraphError: Weights that the program was not made for.
        ShapeError: Inputs that it was not made for.
    """

    def __init__(self, program: Program, weights: Mapping[str, Tensor], inputs: Tensor, own: bool) -> None:
        from pluriform.fused.compile import LANES
        from pluriform.fused.kernels import pack_inputs

        self.program, self.own = program, own
        self.weights = {name: weights[name].detach().contiguous() for name in program.names}
        self.members = len(next(iter(self.weights.values())))
        self.samples = inputs.shape[1] if own else len(inputs)
        self._check(inputs)
        self.blocks = blocks_of(self.samples, LANES)
        self.given = inputs.detach().contiguous()
        self.inputs = self.given.data_ptr()
        if not own:
            self.numbers = int(self.blocks[:, 2].sum()) * _inside(program)
            self.packed = np.empty(self.numbers + 8 * MOST_LANES, np.float32)
            pack_inputs(self.inputs, self.blocks, program.shape, program.border, self.packed.ctypes.data)
            self.inputs = self.packed.ctypes.data

    def _check(self, inputs: Tensor) -> None:
        """The kernels read by address, so every length must be the one that the program was made for."""
        for (name, part), size in zip(self.weights.items(), self.program.sizes, strict=True):
            if part.numel() != self.members * size:
                expected = f"{size} numbers for each of {self.members} members"
                raise GraphError(explain(expected, f"shape {tuple(part.shape)}", f"weight {name}", REMEDY))
        count = self.samples * (self.members if self.own else 1)
        if inputs.numel() != count * math.prod(self.program.shape) or (self.own and len(inputs) != self.members):
            expected = f"inputs of shape {self.program.shape}" + (" for every member" if self.own else "")
            raise ShapeError(explain(expected, f"shape {tuple(inputs.shape)}", "inputs", "compile it for these inputs"))

    def check_targets(self, targets: Tensor, classification: bool) -> None:
        """Labels int64, numbers float32, one row a sample."""
        lead = (self.members, self.samples) if self.own else (self.samples,)
        shape = lead if classification else (*lead, self.program.outputs)
        kind = int64 if classification else float32
        if tuple(targets.shape) != shape or targets.dtype != kind:
            got = f"shape {tuple(targets.shape)}, {targets.dtype}"
            raise ShapeError(explain(f"targets of shape {shape}, {kind}", got, "targets", "give one row a sample"))

    def run(self, task: int, own: Mapping[Call, np.ndarray | int], parts: int) -> None:
        """The task at an address on as many threads as PyTorch uses, of which each takes one part after the other."""
        program = self.program
        threads = max(1, min(get_num_threads(), parts))
        spaces = [_taken(program) for _ in range(threads)]
        table = _table(program).copy()
        counters = np.zeros(2, np.int64)
        arrays: dict[Call, np.ndarray | int] = {
            Call.COUNTER: counters,
            Call.SLOTS: counters[1:],
            Call.SPACES: np.array([space.ctypes.data for space in spaces], np.int64),
            Call.MEMBERS: self.members,
            Call.OWN: self.own,
            Call.SAMPLES: self.samples,
            Call.BLOCKS: self.blocks,
            Call.BLOCK_COUNT: len(self.blocks),
            Call.INPUTS: self.inputs,
            Call.WEIGHTS: addresses(program, self.weights),
            **own,
        }
        for column, value in arrays.items():
            table[column] = value.ctypes.data if isinstance(value, np.ndarray) else value
        on_threads(task, table.ctypes.data, threads)
        _spaces.setdefault(program, []).extend(space for space in spaces if space.nbytes <= KEPT_BYTES)


_spaces: WeakKeyDictionary[Program, list[np.ndarray]] = WeakKeyDictionary()
_tables: WeakKeyDictionary[Program, np.ndarray] = WeakKeyDictionary()


def _table(program: Program) -> np.ndarray:
    """What calls of a program have in common."""
    from pluriform.fused.products import tile_addresses

    if program not in _tables:
        table = np.zeros(Call.END, np.int64)
        arrays: dict[Call, np.ndarray | int] = {
            Call.CODE: tile_addresses(),
            Call.STEPS: program.steps,
            Call.STEP_COUNT: len(program.steps),
            Call.NUMBERS: program.numbers,
            Call.ITEMS: program.items,
            Call.ITEM_COUNT: len(program.items),
            Call.TILES: program.taps,
            Call.TILE_COUNT: len(program.taps),
            Call.SIZES: program.sizes,
            Call.OUTPUTS: program.outputs,
        }
        for column, value in arrays.items():
            table[column] = value.ctypes.data if isinstance(value, np.ndarray) else value
        table[Call.SHAPE : Call.SHAPE + 3], table[Call.BORDER : Call.BORDER + 2] = program.shape, program.border
        table[Call.PLACES : Call.PLACES + 3] = program.flow, program.spare, program.places
        _tables[program] = table
    return _tables[program]


def _inside(program: Program) -> int:
    return program.shape[0] * (program.shape[1] + 2 * program.border[0]) * (program.shape[2] + 2 * program.border[1])


def _taken(program: Program) -> np.ndarray:
    """A workspace."""
    known = _spaces.setdefault(program, [])
    if known:
        return known.pop()
    most = int(program.steps[:, [4, 6]].max())
    turned = MOST_LANES * (program.turned + 64) + 8 * most
    return np.zeros(MOST_LANES * (program.places + _inside(program) + 16) + turned, np.float32)


def addresses(program: Program, tensors: Mapping[str, Tensor]) -> np.ndarray:
    """Of the parameters, in the order of the program."""
    return np.array([tensors[name].data_ptr() for name in program.names], np.int64)


def blocks_of(samples: int, lanes: tuple[int, ...]) -> np.ndarray:
    """Blocks, as few and as equal as can be, `(blocks, 4)`: first sample, samples, lanes, lanes before."""
    units = [lane // 8 for lane in lanes]
    left, rows, start = -(-samples // 8), [], 0
    while left:
        count = -(-left // max(units))
        size = min((unit for unit in units if unit * count >= left), default=max(units))
        size = size if size <= left else max(unit for unit in units if unit <= left)
        rows.append((start, min(8 * size, samples - start), 8 * size, start))
        start, left = start + 8 * size, left - size
    return np.array(rows, np.int64)
