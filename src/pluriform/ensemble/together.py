"""Whether to train the members of an ensemble together or one by one: measured, and recorded."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.errors import GraphError
from pluriform.graph.parameters import weights_of
from pluriform.training.feed import Batch, Feed
from pluriform.training.loop import Loop
from pluriform.training.members import Members
from pluriform.training.recipe import Recipe

__all__ = ["Choice", "choose"]

ADVANTAGE = 1.15  # Training together must be faster by this factor, so that noise does not decide.
TOLERANCE = 1e-4

_CHOICES: dict[str, "Choice"] = {}  # Measured in this process, so that one fit after another decides alike.


@dataclass(frozen=True)
class Choice:
    """How the members are trained.

    Attributes:
        together: As one stack, instead of one by one.
        reason: Why, in words.
        stacked_ms: Time of a step of all members together, in ms, where measured.
        alone_ms: Time of a step of each member, one after the other, in ms, where measured.
    """

    together: bool
    reason: str
    stacked_ms: float | None = None
    alone_ms: float | None = None

    def to_json(self) -> dict[str, bool | str | float | None]:
        """As plain JSON."""
        return asdict(self)


def choose(
    members: Sequence[nn.Module], feed: Feed, recipe: Recipe, loss: Callable[[Tensor, Tensor], Tensor]
) -> Choice:
    """Measure a few steps both ways on copies of the members; together where that is clearly faster and the same.

    Args:
        members: Networks of one architecture, on the device of the feed; left as they are.
        feed: Batches with a leading member axis.
        recipe: Hyper-parameters of the training.
        loss: Of outputs and targets, one value a member.
    """
    shapes = [(name, tuple(tensor.shape)) for name, tensor in weights_of(members[0]).items()]
    key = repr((str(members[0]), shapes, len(members), recipe, str(feed.device), torch.get_num_threads()))
    if key not in _CHOICES:
        _CHOICES[key] = _measured(members, next(feed.batches(0)), feed, recipe, loss)
    return _CHOICES[key]


def _measured(
    members: Sequence[nn.Module],
    batch: Batch,
    feed: Feed,
    recipe: Recipe,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Choice:
    if any(isinstance(layer, _BatchNorm) for layer in members[0].modules()):
        # Weights before it have gradients that are rounding errors only, which AdamW blows up to whole steps.
        return Choice(False, "batch normalisation makes training sensitive to rounding, which stacking changes")
    try:
        difference = _difference(members, batch)
    except (GraphError, RuntimeError) as error:
        return Choice(False, f"the network cannot be stacked: {str(error).splitlines()[0]}")
    if not difference <= TOLERANCE:
        return Choice(False, f"stacked outputs differ by {difference:.1g} (random layers draw other numbers)")

    def seconds(network: nn.Module, sample: Batch, count: int | None) -> float:
        loop = Loop(
            network,
            lambda part: loss(network(part.inputs), part.targets),
            feed,
            recipe,
            seed=0,
            epochs=1,
            members=count,
        )
        return loop.rehearse(sample, 1 if count else len(members))

    stacked = seconds(Members(copy.deepcopy(list(members))), batch, len(members))
    alone = seconds(copy.deepcopy(members[0]), Batch(batch.inputs[0], batch.targets[0]), None)
    words = f"a step of {len(members)} members takes {stacked * 1e3:.2f} ms together, {alone * 1e3:.2f} ms one by one"
    return Choice(stacked * ADVANTAGE < alone, words, stacked * 1e3, alone * 1e3)


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
