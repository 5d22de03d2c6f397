"""`FusedChain`: a network as a function of its weights, by the fused kernels, under any loss."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.fused.chain import NotFused
from pluriform.fused.code import Column
from pluriform.fused.program import Program
from pluriform.fused.run import FusedGradients, fused_gradients, fused_outputs, fused_program
from pluriform.graph.parameters import weights_of

__all__ = ["FusedChain", "fused_chain"]

LEAST_SAMPLES = 32  # In each of the parts of a batch that cores take.


class FusedChain:
    """Outputs and squared errors of a chain of layers; gradients of its weights alone.

    Args:
        network: The chain, in the mode in which it is computed.
        example: One input at least.
        weights: Gives all its weights by name, as they are at the time; its own parameters by default.

    Raises:
        NotFused: The network is not a chain that the kernels compute.
    """

    def __init__(
        self, network: nn.Module, example: Tensor, weights: Callable[[], Mapping[str, Tensor]] | None = None
    ) -> None:
        self.network = network
        self.weights = weights or (lambda: dict(network.named_parameters()))
        stacked = {name: tensor.detach()[None] for name, tensor in weights_of(network).items()}
        program = fused_program(network, stacked, example)
        last = program.steps[-1]  # Of a chain that ends with images, every position of every channel.
        self.program = replace(program, outputs=int(last[Column.CHANNELS_OUT] * last[Column.AREA_OUT]))

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs `(batch, outputs)`, differentiable once; the gradients take another forward pass."""
        return _Outputs.apply(self.program, inputs, *self._ordered())

    def squared_error(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples and outputs of the squared difference from `targets`, `(batch, outputs)`."""
        return _SquaredError.apply(self.program, inputs, targets, *self._ordered())

    def _ordered(self) -> list[Tensor]:
        weights = self.weights()
        return [weights[name] for name in self.program.names]


def fused_chain(
    network: nn.Module,
    example: Tensor,
    most: float | int,
    weights: Callable[[], Mapping[str, Tensor]] | None = None,
) -> FusedChain | None:
    """A network with convolutions by fused kernels, where they compute it.

    Args:
        network: As for `FusedChain`.
        example: Likewise.
        most: Multiplications a sample; `None` is given for networks that need more.
        weights: As for `FusedChain`.
    """
    if not any(isinstance(part, nn.Conv2d) for part in network.modules()):
        return None
    try:
        found = FusedChain(network, example, weights)
    except NotFused:
        return None
    return found if found.program.products <= most else None


def _parts(samples: int) -> int:
    return next(count for count in range(max(1, samples // LEAST_SAMPLES), 0, -1) if samples % count == 0)


def _stacked(program: Program, weights: tuple[Tensor, ...], parts: int) -> dict[str, Tensor]:
    return {name: own.expand(parts, *own.shape) for name, own in zip(program.names, weights, strict=True)}


def _summed(found: FusedGradients, program: Program) -> list[Tensor]:
    """Gradients of all weights, the parts of the batch added; a call for all, since weights are small and many."""
    first, *others = zip(*(found.weights[name].unbind() for name in program.names), strict=True)
    total = list(first)
    for other in others:
        torch._foreach_add_(total, other)  # type: ignore[attr-defined]
    return total


class _SquaredError(torch.autograd.Function):
    """Parts of a batch are computed as if they were networks of their own."""

    @staticmethod
    def forward(ctx: Any, program: Program, inputs: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        parts = _parts(len(inputs))
        split = [each.unflatten(0, (parts, -1)) for each in (inputs, targets)]
        stacked = _stacked(program, weights, parts)
        found = fused_gradients(program, stacked, *split, classification=False, own_batches=True)
        ctx.parts = parts
        ctx.save_for_backward(*_summed(found, program))
        return found.losses.mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *torch._foreach_mul(ctx.saved_tensors, grad_outputs[0] / ctx.parts)  # type: ignore[attr-defined]


class _Outputs(torch.autograd.Function):
    """The kernels know the squared error alone: its targets are set so that its gradient is the one that arrives."""

    @staticmethod
    def forward(ctx: Any, program: Program, inputs: Tensor, *weights: Tensor) -> Tensor:
        parts = _parts(len(inputs))
        stacked = _stacked(program, weights, parts)
        outputs = fused_outputs(program, stacked, inputs.unflatten(0, (parts, -1)), own_batches=True)
        ctx.program = program
        ctx.save_for_backward(inputs, outputs, *weights)
        return outputs.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        program, (inputs, outputs, *weights) = ctx.program, ctx.saved_tensors
        parts = len(outputs)
        # Of the mean of (o - t)^2 over k numbers the gradient is 2 (o - t) / k.
        targets = outputs - grad_outputs[0].reshape(outputs.shape) * (outputs[0].numel() / 2)
        stacked = _stacked(program, tuple(weights), parts)
        found = fused_gradients(
            program,
            stacked,
            inputs.unflatten(0, (parts, -1)),
            targets,
            classification=False,
            own_batches=True,
        )
        return None, None, *_summed(found, program)
