"""The style encoder of semantic synthesis: an image as a Gaussian over latent vectors."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain
from pluriform.translate.initialisation import xavier_initialise
from pluriform.translate.normalisation import InstanceNorm
from pluriform.translate.spectral_norm import SpectralConv2d

__all__ = ["Posterior", "StyleEncoder"]

SLOPE = 0.2
LARGEST = 256
BOTTOM = 4


@dataclass(frozen=True, eq=False)
class Posterior:
    """A Gaussian with independent dimensions, each tensor `(batch, dimensions)`."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        """`mean + exp(log_variance / 2) * e`, e standard normal; differentiable in both."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device).to(self.mean)
        return torch.addcmul(self.mean, torch.exp(self.log_variance / 2), noise)


class StyleEncoder(nn.Module):
    """Stride-2 convs 3x3 of 64, 128, 256, 512, 512, 512 channels down to 4x4, then one Linear each to mu and log s^2.

    Every convolution carries spectral norm and is followed by instance norm and LeakyReLU 0.2. The image is resized to
    `side` first; 256 has six convolutions as published, 64 has four.

    Args:
        channels: Of the image.
        side: Pixels, a power of two from 8 on.
        latent: Dimensions.
        width: Channels of the first convolution; the most are eight times as many.

    Raises:
        ConfigError: Another side.

    References:
        Park, Liu, Wang, Zhu 2019, Semantic Image Synthesis with Spatially-Adaptive Normalization, arXiv:1903.07291,
        whose encoder TSIT takes for labels to photographs.

    Example:
        >>> StyleEncoder(3, side=32, latent=8, width=4)(torch.rand(2, 3, 40, 32)).mean.shape
        torch.Size([2, 8])
    """

    def __init__(self, channels: int, *, side: int = LARGEST, latent: int = 256, width: int = 64) -> None:
        super().__init__()
        if side < 2 * BOTTOM or side & (side - 1):
            remedy = "use StyleEncoder.side_for(height, width)"
            raise ConfigError(explain("a side of 8, 16, 32, ... pixels", f"{side}", "style encoder", remedy))
        self.side = side
        widths = [channels, *(width * min(2**place, 8) for place in range(int(math.log2(side // BOTTOM))))]
        self.convs = nn.ModuleList(SpectralConv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.norm = InstanceNorm()
        self.mean = nn.Linear(widths[-1] * BOTTOM**2, latent)
        self.log_variance = nn.Linear(widths[-1] * BOTTOM**2, latent)
        self.reset_parameters()

    @staticmethod
    def side_for(height: int, width: int) -> int:
        """The greatest power of two within the short side, at most 256 and at least 8."""
        return max(2 * BOTTOM, min(LARGEST, 2 ** int(math.log2(min(height, width)))))

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 0.02."""
        xavier_initialise(self)

    def forward(self, image: Tensor) -> Posterior:
        """The posterior of images `(batch, channels, height, width)`."""
        x = image
        if tuple(image.shape[-2:]) != (self.side, self.side):
            x = F.interpolate(image, (self.side, self.side), mode="bilinear", align_corners=False)
        for conv in self.convs:
            x = F.leaky_relu(self.norm(conv(x)), SLOPE)
        return Posterior(self.mean(x.flatten(1)), self.log_variance(x.flatten(1)))
