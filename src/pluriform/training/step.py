"""The step of ordinary training: inputs through the network into the loss, by fused kernels where that pays."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.fused.chain import NotFused
from pluriform.fused.program import Program
from pluriform.fused.run import fused_gradients, fused_program
from pluriform.graph.parameters import modes_kept, weights_of
from pluriform.training.feed import Batch, Feed
from pluriform.training.layout import to_channels_last
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe

__all__ = ["fused_loss", "training_step"]

LEAST_MULTIPLICATIONS = (
    1e12  # Of a whole training, forward: below it, compiling the kernels could cost more than it gains.
)
MOST_MULTIPLICATIONS = 1.5e7  # Of a sample: above it, the library's convolutions are as fast.
LEAST_SAMPLES = 32  # In each of the parts of a batch that cores take.


def training_step(network: nn.Module, loss: Loss, feed: Feed, recipe: Recipe, epochs: int) -> Callable[[Batch], Tensor]:
    """What a loop calls with each batch.

    A long training of a chain with convolutions on the CPU takes the fused kernels: measured for LeNet-like networks in
    `benchmarks/fused_training.json`. The choice is counted, not timed, and so is the number of parts that a batch is
    computed in, so that a resumed run gives the same numbers. Other networks are laid out with the channels last
    where they take it.

    Args:
        network: What is trained, on the device of the feed; its layout may change.
        loss: Of outputs and targets.
        feed: The batches.
        recipe: Its precision counts.
        epochs: Of the training.
    """
    if _pays(network, loss, feed, recipe, epochs):
        return lambda batch: fused_loss(network, batch)
    if to_channels_last(network, feed.sample()):
        feed.memory_format = torch.channels_last
    return lambda batch: loss(network(batch.inputs), batch.targets)


def _pays(network: nn.Module, loss: Loss, feed: Feed, recipe: Recipe, epochs: int) -> bool:
    """Whether the kernels compute this training, and its arithmetic outweighs their compilation."""
    plain = loss.task in ("classification", "regression") and not loss.smoothing and loss.weights is None
    if not plain or recipe.precision != "32" or not any(isinstance(part, nn.Conv2d) for part in network.modules()):
        return False
    _, targets = feed.split.batch(torch.arange(1))
    if targets.dtype != (torch.int64 if loss.task == "classification" else torch.float32):
        return False
    with modes_kept(network):
        try:
            program = fused_program(network.train(), _stacked(network, 1), feed.sample())
        except NotFused:
            return False
    whole = program.products * len(feed.split) * epochs
    return program.products <= MOST_MULTIPLICATIONS and whole >= LEAST_MULTIPLICATIONS


def _stacked(network: nn.Module, parts: int) -> dict[str, Tensor]:
    return {name: tensor.detach().expand(parts, *tensor.shape) for name, tensor in weights_of(network).items()}


def fused_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy or squared error of a batch by the fused kernels, with gradients of the parameters alone.

    Raises:
        NotFused: The network is not a chain that they compute.
    """
    samples = len(batch.targets)
    parts = next(count for count in range(max(1, samples // LEAST_SAMPLES), 0, -1) if samples % count == 0)
    program = fused_program(network, _stacked(network, 1), batch.inputs)
    parameters = dict(network.named_parameters())
    return _FusedLoss.apply(program, batch, parts, *(parameters[name] for name in program.names))


class _FusedLoss(torch.autograd.Function):
    """Mean loss of a batch, its parts computed as if they were networks of their own."""

    @staticmethod
    def forward(ctx: Any, program: Program, batch: Batch, parts: int, *weights: Tensor) -> Tensor:
        stacked = {name: own.expand(parts, *own.shape) for name, own in zip(program.names, weights, strict=True)}
        inputs, targets = (part.unflatten(0, (parts, -1)) for part in (batch.inputs, batch.targets))
        found = fused_gradients(
            program,
            stacked,
            inputs,
            targets,
            classification=not targets.is_floating_point(),
            own_batches=True,
        )
        ctx.save_for_backward(*(found.weights[name].mean(0) for name in program.names))
        return found.losses.mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(grad_outputs[0] * part for part in ctx.saved_tensors)
