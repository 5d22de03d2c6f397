"""The product of a train kernel with vectors, computed anew tile by tile each time: no matrix is ever stored."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pluriform.axes import Inputs
from pluriform.gaussian_process.exact import Outputs
from pluriform.infinite.kernel_function import KernelFunction

__all__ = ["kernel_columns", "kernel_product"]


def kernel_product(
    function: KernelFunction, inputs: Inputs, *, kernel: Literal["ntk", "nngp"] = "ntk", side: int = 1024
) -> Callable[[Outputs], Outputs]:
    """What `conjugate_gradients` takes; every call computes each pair of samples once.

    Args:
        function: Kernels of the network.
        inputs: Training inputs, `(n, *input_shape)`.
        kernel: Which of the two.
        side: Samples on a side of a tile.

    Example:
        >>> from torch import nn
        >>> from pluriform.infinite.kernel_function import kernel_of
        >>> x = torch.eye(3)
        >>> product = kernel_product(kernel_of(nn.Linear(3, 1), x, weight_var=3.0), x, kernel="nngp")
        >>> product(torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)).flatten()
        tensor([1., 2., 3.], dtype=torch.float64)
    """
    parts = inputs.detach().split(side)

    def product(vectors: Outputs) -> Outputs:
        blocks, result = vectors.split(side), torch.zeros_like(vectors)
        sums = result.split(side)
        with torch.no_grad():
            for i, left in enumerate(parts):
                for j, right in enumerate(parts[i:], i):
                    tile = _tile(function, left, None if i == j else right, kernel)
                    sums[i].add_(tile @ blocks[j])
                    if i != j:
                        sums[j].add_(tile.T @ blocks[i])
        return result

    return product


def kernel_columns(
    function: KernelFunction, inputs: Inputs, *, kernel: Literal["ntk", "nngp"] = "ntk"
) -> Callable[[Tensor], Tensor]:
    """Columns of the train kernel by index, `(rank,)` to `(n, rank)`: what preconditioners are made of."""
    inputs = inputs.detach()

    def columns(index: Tensor) -> Tensor:
        with torch.no_grad():
            return _tile(function, inputs, inputs[index], kernel)

    return columns


def _tile(function: KernelFunction, left: Tensor, right: Tensor | None, kernel: str) -> Tensor:
    record = function(left, right, ntk=kernel == "ntk")
    return record.nngp if record.ntk is None else record.ntk
