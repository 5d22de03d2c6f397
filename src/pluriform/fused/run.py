"""Outputs, losses and gradients of many networks of one architecture, by the fused kernels."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from pluriform.errors import GraphError, ShapeError
from pluriform.fused.call import PackedCall, addresses
from pluriform.fused.chain import NotFused
from pluriform.fused.code import Call, Column, Opcode
from pluriform.fused.program import Program, compile_program

__all__ = [
    "FusedChains",
    "FusedGradients",
    "fused_chains",
    "fused_gradients",
    "fused_outputs",
    "fused_program",
]

MOST_PLACES = 2**21  # Numbers a sample: 320 MB a thread.
_programs: WeakKeyDictionary[nn.Module, dict[Hashable, Program | str]] = WeakKeyDictionary()
MOST_NOISE = 2**23  # Numbers that are drawn at once for chains.


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

    call = PackedCall(program, weights, inputs, own_batches)
    found = {name: torch.empty_like(part) for name, part in call.weights.items()}
    call.check_targets(targets, classification)
    given = targets.detach().flatten().numpy()
    labels = given if classification else np.zeros(1, np.int64)
    numbers = np.zeros(1, np.float32) if classification else given
    if classification and (labels.min() < 0 or labels.max() >= program.outputs):
        raise IndexError(f"labels from 0 to {program.outputs - 1} expected, got {labels.min()} to {labels.max()}")
    losses = np.empty(call.members, np.float32)
    own = {
        Call.GRADIENTS: addresses(program, found),
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

    call = PackedCall(program, weights, inputs, own_batches)
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
        call = PackedCall(program, weights, state, own=False)
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
