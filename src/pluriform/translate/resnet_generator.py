"""The residual generator of CycleGAN."""

import torch
from torch import Tensor, nn

from pluriform.translate.depth import pad_to_multiple
from pluriform.translate.initialisation import xavier_initialise
from pluriform.translate.normalisation import InstanceNorm

__all__ = ["ResNetGenerator", "recommended_blocks"]

STEP = 4


def recommended_blocks(height: int, width: int) -> int:
    """9 residual blocks from 256 pixels on the short side on, else 6."""
    return 9 if min(height, width) >= 256 else 6


class ResNetGenerator(nn.Module):
    """Conv 7x7, two halvings, residual blocks, two doublings, conv 7x7, tanh.

    Instance norm and ReLU after every convolution but the last; reflection padding around the 7x7 and the residual
    convolutions. Sides that are no multiples of 4 are reflected and cropped.

    Args:
        channels: Of the input.
        out: Channels of the output, in [-1, 1].
        blocks: Residual blocks of two convolutions; 9 with width 64 make the published 11.4 million parameters.
        width: Channels at full resolution.

    References:
        Zhu, Park, Isola, Efros 2017, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks,
        arXiv:1703.10593, after Johnson, Alahi, Fei-Fei 2016, arXiv:1603.08155.

    Example:
        >>> ResNetGenerator(3, 1, blocks=1, width=4)(torch.rand(2, 3, 30, 32)).shape
        torch.Size([2, 1, 30, 32])
    """

    def __init__(self, channels: int, out: int, *, blocks: int = 9, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), InstanceNorm(), nn.ReLU()]
        for a in (width, 2 * width):
            layers += [nn.Conv2d(a, 2 * a, 3, 2, 1), InstanceNorm(), nn.ReLU()]
        layers += [ResidualBlock(4 * width) for _ in range(blocks)]
        for a in (4 * width, 2 * width):
            layers += [nn.ConvTranspose2d(a, a // 2, 3, 2, 1, 1), InstanceNorm(), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, out, 7)]
        self.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 0.02."""
        xavier_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, out, height, width)`."""
        padding = pad_to_multiple(int(x.shape[-2]), int(x.shape[-1]), STEP)
        return padding.crop(torch.tanh(self.layers(padding.pad(x))))


class ResidualBlock(nn.Module):
    """Conv 3x3, instance norm, ReLU, conv 3x3, instance norm, plus the input.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm(),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to the same shape."""
        return x + self.layers(x)
