"""Ways to compute networks of one architecture: all at once, some at a time, one after the other, or fused."""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pluriform.axes import Inputs, Members
from pluriform.errors import GraphError, explain
from pluriform.fused.chain import NotFused
from pluriform.fused.run import fused_outputs, fused_program
from pluriform.graph.parameters import StackedWeights, call, call_stacked, weights_of
from pluriform.training.layout import to_channels_last

__all__ = ["Calling", "by_count", "call_members", "laid_out", "multiplications", "split_members", "takes_channels_last"]

MOST_MULTIPLICATIONS = 4_000_000  # Of one network in one call; above it, arithmetic outweighs the calls on a CPU.
MOST_SAMPLES = 4096  # Members times samples that are computed at once.


@dataclass(frozen=True)
class Calling:
    """How the members are called.

    Attributes:
        way: `vmap` all at once, `chunk` some at a time, `loop` one after the other, `fused` by kernels that compute
            a block of samples in cache, without a graph for automatic differentiation.
        chunk: Members at a time; of `fused`, where outputs have to be differentiated: see `autograd`.
        channels_last: Whether the loop lays images and filters out with the channels last in memory.
        reason: Why, in words.
    """

    way: Literal["vmap", "chunk", "loop", "fused"]
    chunk: int
    channels_last: bool = False
    reason: str = ""

    def autograd(self) -> "Calling":
        """The same, or in the place of `fused` a way that automatic differentiation follows."""
        if self.way != "fused":
            return self
        way = "loop" if self.chunk == 1 else "chunk"
        return Calling(way, self.chunk, self.channels_last, f"outputs are differentiated, else: {self.reason}")

    def to_json(self) -> dict[str, str | int | bool]:
        """As plain JSON."""
        return asdict(self)


def call_members(
    module: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, calling: Calling, shared_inputs: bool = True
) -> Members:
    """Outputs of networks that differ in some or all of their weights.

    Args:
        module: Gives the code, the mode, and the weights that are not named.
        weights: By name, `(member, *shape)`. Running statistics among them are updated in place in training mode.
        inputs: Shape `(batch, *features)`; with `shared_inputs=False` with a leading member axis.
        calling: Which way; all give the same numbers up to rounding. Outputs that are differentiated are never fused.
        shared_inputs: Whether all networks see the same inputs.

    Returns:
        `(member, batch, outputs)`.

    Raises:
        GraphError: The network cannot be computed for several members at once, and `way` is not `loop`.
    """
    if calling.way == "fused":
        differentiated = inputs.requires_grad or any(part.requires_grad for part in weights.values())
        if not (torch.is_grad_enabled() and differentiated):
            return _fused(module, weights, inputs, shared_inputs)
        calling = calling.autograd()
    if calling.way == "loop":
        names, columns = list(weights), [tensor.unbind() for tensor in weights.values()]
        sets = [dict(zip(names, column, strict=True)) for column in zip(*columns, strict=True)]
        given = [laid_out(inputs, calling)] * len(sets) if shared_inputs else inputs.unbind()
        pairs = zip(sets, given, strict=True)
        return torch.stack([_one(module, own, one, calling) for own, one in pairs])
    chunk = None if calling.way == "vmap" else calling.chunk
    return call_stacked(module, StackedWeights({}, dict(weights)), inputs, chunk, shared_inputs)


def _fused(module: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, shared_inputs: bool) -> Tensor:
    try:
        program = fused_program(module, weights, inputs if shared_inputs else inputs[0])
    except NotFused as error:
        raise GraphError(
            explain("a network that the fused kernels compute", str(error), type(module).__name__, "take way='chunk'")
        ) from error
    return fused_outputs(program, weights, inputs, own_batches=not shared_inputs)


def _one(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, calling: Calling) -> Tensor:
    own = {name: laid_out(tensor, calling) for name, tensor in weights.items()}
    return call(module, own, laid_out(inputs, calling))


def laid_out(tensor: Tensor, calling: Calling) -> Tensor:
    """The tensor with its channels last in memory where the calling asks for it.

    Strides are those of that layout also where one channel leaves them open, since convolutions choose their code by
    the strides; `Tensor.contiguous` does not change them then.
    """
    if not calling.channels_last or tensor.dim() != 4:
        return tensor
    _, channels, _, width = tensor.shape
    if tensor.stride()[1:] == (1, width * channels, channels):
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=torch.channels_last).copy_(
        tensor
    )


def takes_channels_last(module: nn.Module, inputs: Inputs) -> bool:
    """Whether a network with 2-D convolutions computes the same from images laid out with the channels last."""
    return to_channels_last(copy.deepcopy(module), inputs)


def split_members(weights: Mapping[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """Stacked weights in parts of at most `size` members, as views."""
    parts = zip(*(tensor.split(size) for tensor in weights.values()), strict=True)
    return [dict(zip(weights, part, strict=True)) for part in parts]


def by_count(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, members: int) -> Calling:
    """The way that is the fastest for a prediction: fused for a chain of layers, else as multiplications say.

    It is counted, not timed, so that a stored form predicts the same to the last bit wherever it is loaded.

    Args:
        module: The network.
        weights: Stacked ones, of any number of members; those that it does not name are shared by all members.
        inputs: One batch.
        members: Number of networks to be computed.
    """
    graph = _by_count(module, weights, inputs, members)
    try:
        fused_program(module, weights, inputs)
    except NotFused as error:
        return replace(graph, reason=f"{graph.reason}; not fused: {error}")
    reason = "a chain of layers that fused kernels compute"
    return Calling("fused", graph.chunk, graph.channels_last, reason)


def _by_count(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, members: int) -> Calling:
    chunk = max(1, min(members, MOST_SAMPLES // max(1, len(inputs))))
    try:
        with torch.no_grad():
            call_stacked(module, StackedWeights({}, {name: part[:1] for name, part in weights.items()}), inputs[:2])
    except (GraphError, RuntimeError) as error:
        return Calling(
            "loop", 1, False, f"cannot be computed for several members at once: {str(error).splitlines()[0]}"
        )
    shared = [name for name, own in weights_of(module).items() if own.dim() > 1 and name not in weights]
    trial = inputs[:2]  # Two, since batch statistics need them.
    count = multiplications(module, trial) * len(inputs) // len(trial)
    if shared or count <= MOST_MULTIPLICATIONS or inputs.device.type == "cuda":
        reason = f"layers up to {shared[-1]} are shared" if shared else f"{count} multiplications a network and call"
        return Calling("vmap" if chunk == members else "chunk", chunk, False, reason)
    reason = f"{count} multiplications a network and call fill the processor"
    return Calling("loop", 1, takes_channels_last(module, inputs[:2]), reason)


@torch.no_grad()
def multiplications(module: nn.Module, inputs: Inputs) -> int:
    """Multiplications of matrix products and convolutions in one forward pass over `inputs`."""
    modes = {part: part.training for part in module.modules()}
    try:
        with FlopCounterMode(display=False) as counter:
            module.eval()(inputs)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return math.ceil(counter.get_total_flops() / 2)
