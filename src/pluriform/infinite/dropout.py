"""The rule of dropout in training mode."""

import torch
from torch import Tensor

from pluriform.infinite.kernel import Kernel, position_diagonal

__all__ = ["dropout"]


def dropout(kernel: Kernel, keep: float, *, whole_channels: bool = False) -> Kernel:
    """Units are kept with probability `keep` and divided by it; masks are drawn for every sample and position.

    Moments of a sample with itself at equal positions grow by `1 / keep`; all others stay. Where whole channels are
    dropped, that is so for every pair of positions of one sample.
    """
    axes = len(kernel.spatial)
    everywhere = whole_channels or kernel.layout == "diagonal" or not axes

    def own(part: Tensor) -> Tensor:
        if everywhere:
            return part / keep
        square = part.flatten(1).reshape(len(part), kernel_size := _count(kernel), kernel_size)
        diagonal = position_diagonal(part, 1, axes).flatten(1) / keep
        return torch.diagonal_scatter(square, diagonal, 0, 1, 2).reshape(part.shape)

    def pairs(part: Tensor) -> Tensor:
        if not kernel.same:
            return part
        diagonal = own(torch.diagonal(part, 0, 0, 1).movedim(-1, 0))
        return torch.diagonal_scatter(part, diagonal.movedim(0, -1), 0, 0, 1)

    return kernel.replace(
        nngp=pairs(kernel.nngp),
        ntk=None if kernel.ntk is None else pairs(kernel.ntk),
        variance1=own(kernel.variance1),
        variance2=own(kernel.variance2),
        gaussian=False,
    )


def _count(kernel: Kernel) -> int:
    return int(torch.Size(kernel.spatial).numel())
