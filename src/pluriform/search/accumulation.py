"""Steps in parts, for networks whose training does not fit into memory with a whole batch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.training.feed import Batch

__all__ = ["accumulated"]


def accumulated(step: Callable[[Batch], Any], network: nn.Module, parts: int) -> Callable[[Batch], Tensor]:
    """The same step in parts of a batch, one after the other: `loss = sum_i n_i / n loss_i`, and so its gradient.

    Only one part is in memory at a time. Layers that look at the batch as a whole, such as batch norm, look at a part.

    Args:
        step: Gives the mean loss of a batch.
        network: That it trains.
        parts: Of a batch, at most as many as it has samples; each has at least two.

    Example:
        >>> net, loss = nn.Linear(3, 1), nn.MSELoss()
        >>> batch = Batch(torch.randn(8, 3), torch.randn(8, 1))
        >>> whole = lambda part: loss(net(part.inputs), part.targets)
        >>> bool((accumulated(whole, net, 2)(batch) - whole(batch)).abs() < 1e-6)
        True
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]

    def in_parts(batch: Batch) -> Tensor:
        count = max(1, min(parts, len(batch.inputs) // 2))
        return _Accumulated.apply(step, _chunks(batch, count), weights, *weights)  # type: ignore[return-value]

    return in_parts


def _chunks(batch: Batch, count: int) -> list[Batch]:
    tensors = (batch.inputs, batch.targets, batch.index)
    split = [None if tensor is None else tensor.tensor_split(count) for tensor in tensors]
    parts = range(count)
    rows = [[None if each is None else each[part] for each in split] for part in parts]
    return [replace(batch, inputs=inputs, targets=targets, index=index) for inputs, targets, index in rows]


class _Accumulated(torch.autograd.Function):
    """The loss of all parts; its gradients are there when it is computed."""

    @staticmethod
    def forward(
        ctx: Any, step: Callable[[Batch], Any], parts: list[Batch], weights: list[Tensor], *leaves: Tensor
    ) -> Tensor:
        total, gradients = torch.zeros(()), [torch.zeros_like(leaf) for leaf in leaves]
        samples = sum(len(part.inputs) for part in parts)
        for part in parts:
            with torch.enable_grad():
                found = step(part)
                loss = (found["loss"] if isinstance(found, Mapping) else found) * (len(part.inputs) / samples)
                slopes = torch.autograd.grad(loss, weights, allow_unused=True)
            total = total + loss.detach().cpu()
            for gradient, slope in zip(gradients, slopes, strict=True):
                if slope is not None:
                    gradient += slope
            del found, loss, slopes
        ctx.save_for_backward(*gradients)
        return total.to(leaves[0].device) if leaves else total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(gradient * grad_outputs[0] for gradient in ctx.saved_tensors)
