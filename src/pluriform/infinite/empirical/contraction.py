"""Contraction of gradients into kernels: all pairs of outputs, equal outputs, or their sum."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Over", "contract", "over_outputs"]

Over = Literal["full", "trace", "diagonal"]
"""Which pairs of outputs a kernel holds: all, `(n1, n2, O, O)`; their mean over equal outputs, `(n1, n2)`; or equal
outputs, `(n1, n2, O)`. While blocks of outputs are added up, the trace is a plain sum."""


def contract(
    left: Float[Tensor, "n1 outputs1 weights"], right: Float[Tensor, "n2 outputs2 weights"], over: Over
) -> Float[Tensor, "n1 n2 *pairs"]:
    """Inner products of gradients of every pair of inputs, summed over outputs for the trace.

    Args:
        left: Gradients of a block of outputs of the first inputs.
        right: The same for the second inputs.
        over: Pairs of outputs.
    """
    n1, outputs1, _ = left.shape
    n2, outputs2, _ = right.shape
    if over == "full":
        return (left.flatten(0, 1) @ right.flatten(0, 1).T).reshape(n1, outputs1, n2, outputs2).transpose(1, 2)
    if over == "trace":
        return left.flatten(1) @ right.flatten(1).T
    return torch.bmm(left.transpose(0, 1), right.permute(1, 2, 0)).permute(1, 2, 0)


def over_outputs(full: Float[Tensor, "n1 n2 outputs1 outputs2"], over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
    """The pairs of outputs that were asked for, out of all; summed for the trace."""
    if over == "full":
        return full
    diagonal = full.diagonal(dim1=2, dim2=3)
    return diagonal if over == "diagonal" else diagonal.sum(2)
