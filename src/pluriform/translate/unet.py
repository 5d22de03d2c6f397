"""The U-Net of pix2pix."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain
from pluriform.translate.depth import pad_to_multiple
from pluriform.translate.initialisation import xavier_initialise

__all__ = ["UNet", "recommended_halvings"]

SLOPE = 0.2
MOST = 8
DROPPED = 3


def recommended_halvings(height: int, width: int) -> int:
    """`floor(log2(short side))`, at most 8 and at least 2: down to one pixel.

    Example:
        >>> recommended_halvings(256, 256), recommended_halvings(64, 80)
        (8, 6)
    """
    return min(8, max(2, int(math.log2(max(min(height, width), 1)))))


class UNet(nn.Module):
    """Halvings by conv 4x4 stride 2, doublings by their transpose, and every doubling reads the halving of its size.

    Channels `width * min(2^i, 8)`; LeakyReLU 0.2 on the way down, ReLU on the way up, BatchNorm but at the first and
    the innermost halving, dropout 0.5 in the three innermost doublings (training mode; never in the last two), tanh at
    the end. Sides that do not halve evenly are reflected and cropped.

    Args:
        channels: Of the input, or labels of a one-hot map.
        out: Channels of the output, in [-1, 1].
        halvings: How many, at least 2; the published 256 pixels have 8 and 54.4 million parameters.
        width: Channels of the first halving.

    References:
        Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
        arXiv:1611.07004, appendix 6.1, after Ronneberger, Fischer, Brox 2015, U-Net, arXiv:1505.04597.

    Example:
        >>> UNet(1, 3, halvings=4, width=4).eval()(torch.rand(2, 1, 20, 16)).shape
        torch.Size([2, 3, 20, 16])
    """

    def __init__(self, channels: int, out: int, *, halvings: int = 8, width: int = 64) -> None:
        super().__init__()
        if halvings < 2:
            remedy = "use recommended_halvings(height, width)"
            raise ConfigError(explain("at least 2 halvings", f"{halvings}", "UNet", remedy))
        self.halvings = halvings
        widths = [width * min(2**place, MOST) for place in range(halvings)]
        inner = range(1, halvings)
        self.first = nn.Conv2d(channels, width, 4, 2, 1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2, 1, bias=place == halvings - 1)
            for place, (a, b) in zip(inner, pairwise(widths), strict=True)
        )
        self.down_norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b if place == halvings - 1 else 2 * b, a, 4, 2, 1, bias=False)
            for place, (a, b) in zip(inner, pairwise(widths), strict=True)
        )
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(a) for a in widths[:-1])
        self.dropout = nn.Dropout(0.5)
        self.last = nn.ConvTranspose2d(2 * width, out, 4, 2, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 0.02; scales of BatchNorm are 1."""
        for norm in (*self.down_norms, *self.up_norms):
            norm.reset_parameters()  # type: ignore[operator]
        xavier_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, out, height, width)`."""
        padding = pad_to_multiple(int(x.shape[-2]), int(x.shape[-1]), 2**self.halvings)
        skips = [self.first(padding.pad(x))]
        for place, conv in enumerate(self.down):
            y = conv(F.leaky_relu(skips[-1], SLOPE))
            skips.append(self.down_norms[place](y) if place < len(self.down_norms) else y)
        y = skips.pop()
        for place in reversed(range(len(self.up))):
            y = self.up_norms[place](self.up[place](F.relu(y)))
            if place >= max(len(self.up) - DROPPED, 1):
                y = self.dropout(y)
            y = torch.cat((skips.pop(), y), 1)
        return padding.crop(torch.tanh(self.last(F.relu(y))))
