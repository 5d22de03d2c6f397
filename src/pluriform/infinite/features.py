"""Second moments of what the network knows before its first random weights: the inputs, or fixed functions of them."""

import torch
from torch import Tensor

from pluriform.infinite.kernel import Kernel, Layout

__all__ = ["input_kernel"]


def input_kernel(
    x1: Tensor, x2: Tensor, *, same: bool, ntk: bool, layout: Layout = "full", channel_axis: int = 1
) -> Kernel:
    """The record of deterministic features: `K(p, p') = 1/C sum_c x1_c(p) x2_c(p')`, `Theta = 0`.

    Args:
        x1: Features of the first inputs, `(n1, *axes)`.
        x2: Features of the second inputs.
        same: `x2` is `x1`.
        ntk: Whether the NTK is asked for.
        layout: Which pairs of positions are needed.
        channel_axis: Axis that is averaged over, 1 or -1; all others are positions.
    """
    first, second = (part.movedim(channel_axis, -1) for part in (x1, x2))
    spatial, channels = tuple(first.shape[1:-1]), first.shape[-1]
    if layout == "diagonal" or not spatial:
        left, right = (part.reshape(len(part), -1, channels).movedim(1, 0) for part in (first, second))
        nngp = ((left / channels) @ right.mT).permute(1, 2, 0).reshape(len(x1), len(x2), *spatial)
        sides = [(part**2).mean(-1) for part in (first, second)]
    else:
        left, right = (part.reshape(len(part), -1, channels) for part in (first, second))
        count = left.shape[1]
        nngp = ((left / channels).reshape(-1, channels) @ right.reshape(-1, channels).T).reshape(
            len(x1), count, len(x2), count
        )
        nngp = nngp.transpose(1, 2).reshape(len(x1), len(x2), *spatial, *spatial)
        sides = [(part @ part.mT / channels).reshape(len(part), *spatial, *spatial) for part in (left, right)]
    return Kernel(
        nngp=nngp,
        ntk=torch.zeros_like(nngp) if ntk else None,
        variance1=sides[0],
        variance2=sides[0] if same else sides[1],
        spatial=spatial,
        layout=layout if spatial else "full",
        channel_axis=channel_axis,
        same=same,
    )
