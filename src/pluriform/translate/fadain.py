"""FAdaIN: the trunk takes the mean and deviation of every channel from the style features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.errors import ShapeError, explain

__all__ = ["ChannelStatistics", "channel_statistics", "fadain"]

EPS = 1e-5


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Of every sample and channel over its positions, each `(batch, channels, 1, 1)`."""

    mean: Tensor
    std: Tensor


def channel_statistics(x: Tensor, eps: float = EPS, copies: int = 1) -> ChannelStatistics:
    """Mean and `sqrt(unbiased variance + eps)` of every sample and channel over its positions, in float32 or wider.

    Args:
        x: Features `(batch, channels, height, width)`.
        eps: Added to the variance.
        copies: How often every position counts, as if `x` had been enlarged by nearest neighbours.

    Raises:
        ShapeError: There is one position only, which has no deviation.
    """
    if x.shape[2] * x.shape[3] < 2:
        raise ShapeError(
            explain(
                "features with at least 2 positions",
                f"{x.shape[2]}x{x.shape[3]}",
                "FAdaIN",
                "use fewer levels or larger images",
            )
        )
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(wide, (2, 3), keepdim=True)
    count = x.shape[2] * x.shape[3]
    if copies > 1:
        variance = variance * (copies * (count - 1) / (copies * count - 1))
    return ChannelStatistics(mean, (variance + eps).sqrt())


def fadain(x: Tensor, s: Tensor | ChannelStatistics, alpha: float | int = 1.0, copies: int = 1) -> Tensor:
    """`alpha * ((x - mean(x)) / std(x) * std(s) + mean(s)) + (1 - alpha) * x`.

    Args:
        x: Trunk, `(batch, channels, height, width)`.
        s: Style features of as many channels, of any size, or their statistics.
        alpha: Strength of the style; 0 leaves x.
        copies: How often every position of x counts: what follows may enlarge x by nearest neighbours, 4 times as many
            positions, and give what FAdaIN of the enlarged x would have given, at a quarter of the work.

    Raises:
        ShapeError: Other channels, or a single position.

    References:
        Jiang et al. 2020, arXiv:2007.12072, after Huang, Belongie 2017, Arbitrary Style Transfer in Real-time with
        Adaptive Instance Normalization, arXiv:1703.06868.

    Example:
        >>> x = torch.arange(8.0).view(1, 2, 2, 2)
        >>> bool(torch.allclose(fadain(x, x), x))
        True
    """
    style = channel_statistics(s) if isinstance(s, Tensor) else s
    if style.mean.shape[1] != x.shape[1]:
        remedy = "take the level of the style stream with the channels of the trunk"
        got = f"{style.mean.shape[1]}"
        raise ShapeError(explain(f"style features of {x.shape[1]} channels", got, "FAdaIN", remedy))
    own = channel_statistics(x, copies=copies)
    scale = style.std / own.std
    shift = style.mean - own.mean * scale
    if alpha != 1:
        scale, shift = alpha * scale + (1 - alpha), alpha * shift
    return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))
