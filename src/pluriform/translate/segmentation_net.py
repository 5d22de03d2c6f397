"""A small U-Net that labels every pixel."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain
from pluriform.translate.depth import pad_to_multiple

__all__ = ["SegmentationNet"]

CAP = 8


class SegmentationNet(nn.Module):
    """Logits of every pixel: two convolutions a level, halved by maxima, enlarged again beside the level of that size.

    Convolutions are 3x3, each with BatchNorm and ReLU; channels `width * min(2^i, 8)`. On the way up features are
    enlarged by bilinear interpolation and joined with those of their size. Sides that do not halve evenly are reflected
    and cropped.

    Args:
        channels: Of the images.
        classes: Logits of a pixel.
        width: Channels at full resolution.
        halvings: Levels below it.

    References:
        Ronneberger, Fischer, Brox 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation,
        arXiv:1505.04597.

    Example:
        >>> SegmentationNet(3, 5, width=4, halvings=2).eval()(torch.rand(2, 3, 10, 16)).shape
        torch.Size([2, 5, 10, 16])
    """

    def __init__(self, channels: int, classes: int, *, width: int = 16, halvings: int = 4) -> None:
        super().__init__()
        if width < 1 or halvings < 1:
            got = f"width {width}, {halvings} halvings"
            raise ConfigError(explain("a width and halvings of at least 1", got, "SegmentationNet", "give larger ones"))
        self.halvings = halvings
        widths = [width * min(2**level, CAP) for level in range(halvings + 1)]
        self.first = _two(channels, width)
        self.down = nn.ModuleList(_two(above, below) for above, below in pairwise(widths))
        self.up = nn.ModuleList(_two(above + below, above) for above, below in pairwise(widths))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, classes, height, width)`."""
        padding = pad_to_multiple(int(images.shape[2]), int(images.shape[3]), 2**self.halvings)
        levels = [self.first(padding.pad(images))]
        for block in self.down:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        y = levels.pop()
        for block in reversed(self.up):  # type: ignore[call-overload]
            beside = levels.pop()
            y = block(torch.cat((F.interpolate(y, scale_factor=2.0, mode="bilinear"), beside), 1))
        return padding.crop(self.last(y))


def _two(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each with BatchNorm and ReLU."""
    parts: list[nn.Module] = []
    for channels in (before, after):
        parts += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts)
