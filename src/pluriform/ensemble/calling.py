"""Three ways to compute networks of one architecture: all at once, some at a time, one after the other."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pluriform.axes import Inputs, Members
from pluriform.errors import GraphError
from pluriform.graph.parameters import StackedWeights, call, call_stacked, weights_of

__all__ = ["Calling", "by_count", "call_members", "multiplications", "split_members"]

MOST_MULTIPLICATIONS = 4_000_000  # Of one network in one call; above it, arithmetic outweighs the calls on a CPU.
MOST_SAMPLES = 4096  # Members times samples that are computed at once.


@dataclass(frozen=True)
class Calling:
    """How the members are called.

    Attributes:
        way: `vmap` all at once, `chunk` some at a time, `loop` one after the other.
        chunk: Members at a time.
        reason: Why, in words.
    """

    way: Literal["vmap", "chunk", "loop"]
    chunk: int
    reason: str = ""

    def to_json(self) -> dict[str, str | int]:
        """As plain JSON."""
        return asdict(self)


def call_members(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, calling: Calling) -> Members:
    """Outputs of networks that differ in some or all of their weights, with the same inputs.

    Args:
        module: Gives the code, the mode, and the weights that are not named.
        weights: By name, `(member, *shape)`. Running statistics among them are updated in place in training mode.
        inputs: Shape `(batch, *features)`.
        calling: Which way; all give the same numbers up to rounding.

    Returns:
        `(member, batch, outputs)`.

    Raises:
        GraphError: The network cannot be computed for several members at once, and `way` is not `loop`.
    """
    if calling.way == "loop":
        names, columns = list(weights), [tensor.unbind() for tensor in weights.values()]
        sets = [dict(zip(names, column, strict=True)) for column in zip(*columns, strict=True)]
        return torch.stack([call(module, own, inputs) for own in sets])
    chunk = None if calling.way == "vmap" else calling.chunk
    return call_stacked(module, StackedWeights({}, dict(weights)), inputs, chunk=chunk)


def split_members(weights: Mapping[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """Stacked weights in parts of at most `size` members, as views."""
    parts = zip(*(tensor.split(size) for tensor in weights.values()), strict=True)
    return [dict(zip(weights, part, strict=True)) for part in parts]


def by_count(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, members: int) -> Calling:
    """The way that a count of multiplications says is the fastest for a prediction.

    It is counted, not timed, so that a stored form predicts the same to the last bit wherever it is loaded.

    Args:
        module: The network.
        weights: Stacked ones, of any number of members; those that it does not name are shared by all members.
        inputs: One batch.
        members: Number of networks to be computed.
    """
    chunk = max(1, min(members, MOST_SAMPLES // max(1, len(inputs))))
    try:
        with torch.no_grad():
            call_stacked(module, StackedWeights({}, {name: part[:1] for name, part in weights.items()}), inputs[:1])
    except (GraphError, RuntimeError) as error:
        return Calling("loop", 1, f"cannot be computed for several members at once: {str(error).splitlines()[0]}")
    shared = [name for name, own in weights_of(module).items() if own.dim() > 1 and name not in weights]
    count = multiplications(module, inputs[:1]) * len(inputs)
    if shared or count <= MOST_MULTIPLICATIONS or inputs.device.type == "cuda":
        reason = f"layers up to {shared[-1]} are shared" if shared else f"{count} multiplications a network and call"
        return Calling("vmap" if chunk == members else "chunk", chunk, reason)
    return Calling("loop", 1, f"{count} multiplications a network and call fill the processor")


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
