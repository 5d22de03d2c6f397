"""Outputs, losses and gradients of many networks of one architecture, by the fused kernels."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.fused.chain import NotFused
from pluriform.fused.code import Call, Column, Opcode
from pluriform.fused.program import MOST_LANES, Program, compile_program
from pluriform.fused.threads import on_threads

__all__ = [
    "FusedChains",
    "FusedGradients",
    "blocks_of",
    "fused_chains",
    "fused_gradients",
    "fused_outputs",
    "fused_program",
]

REMEDY = "stack the weights of networks of one architecture"
MOST_PLACES = 2**21  # Numbers a sample: 320 MB a thread.
MOST_NOISE = 2**23  # Numbers that are drawn at once for chains.
KEPT_BYTES = 2**26  # Workspaces up to this size are kept for the next call.


@dataclass(frozen=True, eq=False)
class FusedGradients:
    """Losses `(member,)` and gradients by name, `(member, *shape)`."""

    losses: Tensor
    weights: dict[str, Tensor]


def fused_program(module: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor) -> Program:
    """The program that computes these networks; kept with the module as long as its layers stay of their kinds.

    Args:
        module: Gives code and mode.
        weights: Stacked ones, by name; they must be all that the network uses.
        inputs: One batch, `(batch, *features)`.

    Raises:
        NotFused: With a sentence why not.
    """
    if inputs.device.type != "cpu" or any(part.device.type != "cpu" for part in weights.values()):
        raise NotFused("it computes on the CPU only")
    if {inputs.dtype, *(part.dtype for part in weights.values())} != {torch.float32}:
        raise NotFused("it computes float32 only")
    if torch.is_autocast_enabled("cpu"):
        raise NotFused("it does not take part in automatic mixed precision")
    known = _programs.setdefault(module, {})
    key = (inputs.shape[1:], *((type(layer), layer.training) for layer in module.modules()))
    if key not in known:
        known[key] = _compiled(module, inputs[:1])
    found = known[key]
    if isinstance(found, str):
        raise NotFused(found)
    own = [name for name in found.names if name not in weights]
    if own:
        raise NotFused(f"all networks share {own[0]}")
    odd = sorted(set(weights) - set(found.names))
    if odd:
        raise NotFused(f"{odd[0]} is no weight of a layer")
    return found


def _compiled(module: nn.Module, example: Tensor) -> Program | str:
    try:
        program = compile_program(module, example.detach())
    except (NotFused, ShapeError, GraphError) as error:
        return str(error)
    return program if program.places <= MOST_PLACES else "the numbers of a sample do not fit in a cache"


def fused_gradients(
    program: Program,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    classification: bool,
    own_batches: bool = False,
) -> FusedGradients:
    """Mean loss of every network over its batch, and its gradients.

    Cross-entropy, or the squared error averaged over samples and outputs. Every network is computed by one thread in
    a fixed order, so results do not depend on the number of threads.

    Args:
        program: Of the architecture.
        weights: All parameters by name, `(member, *shape)`, float32 on the CPU.
        inputs: `(batch, *features)`, or with a leading member axis with `own_batches`.
        targets: Labels `(batch,)` or numbers `(batch, outputs)`; with a leading member axis like the inputs.
        classification: Which loss.
        own_batches: Whether every network has a batch of its own.
    """
    from pluriform.fused.kernels import gradients_task

    call = _Call(program, weights, inputs, own_batches)
    found = {name: torch.empty_like(part) for name, part in call.weights.items()}
    call.check_targets(targets, classification)
    given = targets.detach().flatten().numpy()
    labels = given if classification else np.zeros(1, np.int64)
    numbers = np.zeros(1, np.float32) if classification else given
    if classification and (labels.min() < 0 or labels.max() >= program.outputs):
        raise IndexError(f"labels from 0 to {program.outputs - 1} expected, got {labels.min()} to {labels.max()}")
    losses = np.empty(call.members, np.float32)
    own = {
        Call.GRADIENTS: _addresses(program, found),
        Call.LABELS: labels,
        Call.TARGETS: numbers,
        Call.CLASSIFY: classification,
        Call.RESULTS: losses,
    }
    call.run(gradients_task(), own, call.members)
    return FusedGradients(torch.from_numpy(losses), found)


def fused_outputs(
    program: Program, weights: Mapping[str, Tensor], inputs: Tensor, *, own_batches: bool = False
) -> Tensor:
    """Outputs of every network, `(member, batch, outputs)`; arguments as in `fused_gradients`."""
    from pluriform.fused.kernels import outputs_task

    call = _Call(program, weights, inputs, own_batches)
    results = np.empty((call.members, call.samples, program.outputs), np.float32)
    call.run(outputs_task(), {Call.RESULTS: results}, call.members * len(call.blocks))
    return torch.from_numpy(results)


@dataclass(frozen=True, eq=False)
class FusedChains:
    """Last states `(samples, *features)`, and the largest norm of a gradient of each chain, `(samples,)`."""

    inputs: Tensor
    gradients: Tensor


def fused_chains(
    program: Program,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    rounds: int,
    step: float,
    noise: float,
    unit: Tensor,
    normalise: bool = False,
    most: float = math.inf,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> FusedChains:
    """Chains x <- x + unit (step g + noise xi), where g is the unit times the gradient of the logsumexp of the outputs.

    Args:
        program: Of the network; must begin with a linear layer or a convolution.
        weights: Of one network, each with a leading axis of length 1.
        inputs: First states, `(samples, *features)`.
        rounds: Number of steps.
        step: Step size.
        noise: Standard deviation of the noise.
        unit: Of the inputs; broadcasts against one of them.
        normalise: Divide g by its norm for each sample.
        most: Entries of g are clamped to this size.
        bounds: States are clamped to them.
        labels: Climb the outputs of these classes instead, int64 `(samples,)`.
        generator: Of the noise, which is drawn in another order than one step after the other would.

    Raises:
        NotFused: The network begins with another layer.
    """
    from pluriform.fused.chains import chains_task

    if program.steps[0, Column.OPCODE] != Opcode.PRODUCT:
        raise NotFused("it does not begin with a linear layer or a convolution")
    state, largest = inputs.detach().contiguous(), np.zeros(len(inputs), np.float32)
    units = unit.detach().expand(inputs.shape[1:]).contiguous().numpy().astype(np.float32)
    setting = np.array([step, noise, most, *bounds, normalise], np.float32)
    target = np.zeros(1, np.int64) if labels is None else labels.detach().contiguous().numpy()
    while rounds > 0:
        call = _Call(program, weights, state, own=False)
        part = max(1, min(rounds, MOST_NOISE // call.numbers)) if noise else rounds
        draws = (
            torch.zeros(part, call.numbers)
            if not noise
            else torch.empty(part, call.numbers).normal_(generator=generator)
        )
        results = torch.empty_like(state)
        own = {
            Call.RESULTS: results.numpy(),
            Call.LABELS: target,
            Call.CLASSIFY: labels is not None,
            Call.NOISE: draws.numpy(),
            Call.UNITS: units,
            Call.SETTING: setting,
            Call.ROUNDS: part,
            Call.LARGEST: largest,
        }
        call.run(chains_task(), own, len(call.blocks))
        state, rounds = results, rounds - part
    return FusedChains(state, torch.from_numpy(largest))


class _Call:
    """What both have in common: weights in memory order, packed inputs, blocks, threads."""

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
        kind = torch.int64 if classification else torch.float32
        if tuple(targets.shape) != shape or targets.dtype != kind:
            got = f"shape {tuple(targets.shape)}, {targets.dtype}"
            raise ShapeError(explain(f"targets of shape {shape}, {kind}", got, "targets", "give one row a sample"))

    def run(self, task: int, own: Mapping[Call, np.ndarray | int], parts: int) -> None:
        """The task at an address on as many threads as PyTorch uses, of which each takes one part after the other."""
        program = self.program
        threads = max(1, min(torch.get_num_threads(), parts))
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
            Call.WEIGHTS: _addresses(program, self.weights),
            **own,
        }
        for column, value in arrays.items():
            table[column] = value.ctypes.data if isinstance(value, np.ndarray) else value
        on_threads(task, table.ctypes.data, threads)
        _spaces.setdefault(program, []).extend(space for space in spaces if space.nbytes <= KEPT_BYTES)


_spaces: WeakKeyDictionary[Program, list[np.ndarray]] = WeakKeyDictionary()
_tables: WeakKeyDictionary[Program, np.ndarray] = WeakKeyDictionary()
_programs: WeakKeyDictionary[nn.Module, dict[Hashable, Program | str]] = WeakKeyDictionary()


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


def _addresses(program: Program, tensors: Mapping[str, Tensor]) -> np.ndarray:
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
