"""Whether to train the members of an ensemble together or one by one: counted, so that a resumed run decides alike."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.errors import GraphError
from pluriform.graph.parameters import weights_of
from pluriform.training.feed import Batch
from pluriform.training.members import Members

__all__ = ["Choice", "choose"]

MOST_MULTIPLICATIONS = 2_000_000  # A forward step of one member; above it stacking gains nothing on a CPU.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Choice:
    """How the members are trained.

    Attributes:
        together: As one stack, instead of one by one.
        reason: Why, in words.
    """

    together: bool
    reason: str

    def to_json(self) -> dict[str, bool | str]:
        """As plain JSON."""
        return asdict(self)


def choose(members: Sequence[nn.Module], batch: Batch) -> Choice:
    """Together where the result is the same, all weights are in linear layers, and calls cost more than arithmetic.

    Args:
        members: Networks of one architecture, on the device of the batch; left as they are.
        batch: A training batch with a leading member axis.
    """
    if any(isinstance(layer, _BatchNorm) for layer in members[0].modules()):
        # Weights before it have gradients that are rounding errors only, which AdamW blows up to whole steps.
        return Choice(False, "batch normalisation makes training sensitive to rounding, which stacking changes")
    if any(isinstance(layer, nn.modules.conv._ConvNd) for layer in members[0].modules()):
        return Choice(False, "stacked convolutions are slower than one after the other")
    multiplications = batch.inputs.shape[1] * sum(w.numel() for w in weights_of(members[0]).values() if w.dim() > 1)
    if multiplications > MOST_MULTIPLICATIONS and batch.inputs.device.type == "cpu":
        return Choice(False, f"a step of one member has {multiplications} multiplications, which fill the processor")
    try:
        difference = _difference(members, batch)
    except (GraphError, RuntimeError) as error:
        return Choice(False, f"the network cannot be stacked: {str(error).splitlines()[0]}")
    if not difference <= TOLERANCE:
        return Choice(False, f"stacked outputs differ by {difference:.1g} (random layers draw other numbers)")
    return Choice(True, f"a step of one member has {multiplications} multiplications only")


@torch.no_grad()
def _difference(members: Sequence[nn.Module], batch: Batch) -> float:
    """Largest difference of training-mode outputs and updated buffers, both ways, relative to the largest value."""
    alone, together = copy.deepcopy(list(members)), copy.deepcopy(list(members))
    with torch.random.fork_rng(devices=[batch.inputs.device] if batch.inputs.device.type == "cuda" else []):
        outputs = torch.stack([one.train()(part) for one, part in zip(alone, batch.inputs, strict=True)])
        stack = Members(together).train()
        differences = [_relative(stack(batch.inputs), outputs)]
    stack.unstack()
    for one, other in zip(alone, together, strict=True):
        differences += [_relative(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True)]
    return max(differences)


def _relative(first: Tensor, second: Tensor) -> float:
    if first.numel() == 0:
        return 0.0
    first, second = first.double(), second.double()
    return float((first - second).abs().max() / second.abs().max().clamp(min=1e-12))
