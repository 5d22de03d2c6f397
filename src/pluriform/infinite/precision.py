"""How far float32 kernels are from float64 ones, on a sample of the pairs at hand."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.kernel_function import KernelFunction

__all__ = ["Precision", "precision_of"]


@dataclass(frozen=True)
class Precision:
    """Relative errors in the Frobenius norm.

    Attributes:
        nngp: Of the NNGP.
        ntk: Of the NTK.
        pairs: How many pairs were computed twice.
    """

    nngp: float
    ntk: float
    pairs: int


def precision_of(
    function: KernelFunction, x1: Tensor, x2: Tensor | None = None, *, pairs: int = 64, seed: int = 0
) -> Precision:
    """Compute some pairs in float32 and in float64.

    Args:
        function: The kernel.
        x1: First inputs, `(n1, *input_shape)`.
        x2: Second inputs; `None` takes `x1`.
        pairs: About how many, a square of rows and columns drawn at random.
        seed: For the draw.

    Returns:
        The relative errors.

    Example:
        >>> from torch import nn
        >>> from pluriform.infinite import kernel_of
        >>> x = torch.eye(4)
        >>> precision_of(kernel_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), x), x).ntk < 1e-6
        True
    """
    generator = torch.Generator().manual_seed(seed)
    side, order = max(1, math.isqrt(pairs)), torch.randperm(len(x1), generator=generator)
    if x2 is None:  # an input with itself is never computed as a pair
        side = max(1, min(side, len(x1) // 2))
        first, second = x1[order[:side]], x1[order[-side:]]
    else:
        first, second = x1[order[:side]], x2[torch.randperm(len(x2), generator=generator)[:side]]
    with torch.no_grad():
        exact, found = function(first, second), function(first, second, dtype=torch.float32)
    errors = [
        float((got.double() - expected).norm() / expected.norm())
        for got, expected in ((found.nngp, exact.nngp), (found.ntk, exact.ntk))
        if got is not None and expected is not None
    ]
    return Precision(errors[0], errors[1], len(first) * len(second))
