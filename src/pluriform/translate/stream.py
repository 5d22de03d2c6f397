"""Content and style streams: an image as a pyramid of features, full resolution first."""

import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.translate.normalisation import InstanceNorm
from pluriform.translate.spectral_norm import SpectralConv2d

__all__ = ["Stream", "StreamBlock"]

SLOPE = 0.2


class StreamBlock(nn.Module):
    """Conv 3x3 (a -> a), norm, LeakyReLU, conv 3x3 (a -> b), norm, LeakyReLU, plus a shortcut; nothing after the sum.

    The shortcut is the identity where a = b, else conv 1x1 without bias, norm, LeakyReLU. All convolutions carry
    spectral norm, all norms are instance norm without affine parameters, LeakyReLU has slope 0.2.

    Args:
        before: Input channels a, also those between the convolutions.
        after: Output channels b.

    References:
        Jiang et al. 2020, TSIT, arXiv:2007.12072.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(before, before, 3, padding=1)
        self.conv2 = SpectralConv2d(before, after, 3, padding=1)
        self.shortcut = SpectralConv2d(before, after, 1, bias=False) if before != after else None
        self.norm = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, before, height, width)` to `(batch, after, height, width)`."""
        y = F.leaky_relu(self.norm(self.conv1(x)), SLOPE, inplace=True)
        y = F.leaky_relu(self.norm(self.conv2(y)), SLOPE, inplace=True)
        return y + (x if self.shortcut is None else F.leaky_relu(self.norm(self.shortcut(x)), SLOPE, inplace=True))


class Stream(nn.Module):
    """One block at full resolution, then nearest-neighbour halving and one block for every further level.

    Args:
        channels: Of the image.
        widths: Channels of every level, full resolution first.

    References:
        Jiang et al. 2020, TSIT, arXiv:2007.12072.

    Example:
        >>> import torch
        >>> [tuple(f.shape[1:]) for f in Stream(3, (4, 8, 16))(torch.rand(1, 3, 16, 24))]
        [(4, 16, 24), (8, 8, 12), (16, 4, 6)]
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(StreamBlock(a, b) for a, b in zip(before, widths, strict=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every level, `(batch, widths[i], height / 2^i, width / 2^i)`; the image's sides divide evenly."""
        features: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            features.append(block(features[-1][..., ::2, ::2] if level else image))
        return features
