"""Content and style apart, joined by AdaIN, as in MUNIT, made small."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ShapeError, explain
from pluriform.translate.depth import pad_to_multiple
from pluriform.translate.fadain import channel_statistics
from pluriform.translate.initialisation import xavier_initialise
from pluriform.translate.normalisation import InstanceNorm, JointNorm
from pluriform.translate.resnet_generator import ResidualBlock

__all__ = ["AdaINDecoder", "ContentEncoder", "MUNITAutoencoder", "StyleCodeEncoder", "adain"]

STEP = 4
STYLE = 8


def adain(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`(x - mean(x)) / std(x) * std + mean`, per sample and channel.

    Args:
        x: `(batch, channels, height, width)`.
        mean: New means, `(batch, channels)`.
        std: New deviations, `(batch, channels)`.

    References:
        Huang, Belongie 2017, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization,
        arXiv:1703.06868.
    """
    own = channel_statistics(x)
    scale = std[:, :, None, None] / own.std
    return torch.addcmul((mean[:, :, None, None] - own.mean * scale).to(x.dtype), x, scale.to(x.dtype))


class ContentEncoder(nn.Module):
    """Conv 7x7, two halvings, residual blocks, instance norm throughout: a map without the image's style.

    Args:
        channels: Of the image.
        width: Channels at full resolution; the map has four times as many.
        blocks: Residual blocks.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), InstanceNorm(), nn.ReLU()]
        for a in (width, 2 * width):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(a, 2 * a, 4, 2), InstanceNorm(), nn.ReLU()]
        self.layers = nn.Sequential(*layers, *(ResidualBlock(4 * width) for _ in range(blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, 4 * width, height / 4, width / 4)`."""
        return self.layers(image)


class StyleCodeEncoder(nn.Module):
    """Conv 7x7, two halvings without norm, mean over positions, linear: a vector that any size of image has.

    Args:
        channels: Of the image.
        width: Channels at full resolution.
        style: Dimensions.
    """

    def __init__(self, channels: int, width: int, style: int = STYLE) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), nn.ReLU()]
        for a in (width, 2 * width):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(a, 2 * a, 4, 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(4 * width, style)

    def forward(self, image: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, style)`."""
        return self.last(self.layers(image).mean((2, 3)))


class AdaINDecoder(nn.Module):
    """Residual blocks whose norms take mean and deviation from the style, two doublings, conv 7x7, tanh.

    A perceptron of two hidden layers turns the style into all means and deviations; deviations are `1 + its output`.

    Args:
        out: Channels of the image.
        width: Channels at full resolution.
        blocks: Residual blocks of two convolutions.
        style: Dimensions of the style.
        hidden: Width of the perceptron.
    """

    def __init__(self, out: int, width: int, blocks: int, style: int = STYLE, hidden: int = 64) -> None:
        super().__init__()
        channels = 4 * width
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3) for _ in range(2 * blocks))
        self.perceptron = nn.Sequential(
            nn.Linear(style, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * channels * len(self.convs)),
        )
        layers: list[nn.Module] = []
        for a in (channels, channels // 2):
            layers += [nn.Upsample(scale_factor=2.0), nn.ReflectionPad2d(2), nn.Conv2d(a, a // 2, 5)]
            layers += [JointNorm(), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, out, 7))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """An image `(batch, out, 4 h, 4 w)` from content `(batch, 4 * width, h, w)` and style `(batch, style)`."""
        wanted = self.perceptron(style).view(len(style), len(self.convs), 2, -1)
        x = skip = content
        for place, conv in enumerate(self.convs):
            if place % 2 == 0:
                skip = x
            y = adain(conv(F.pad(x, (1, 1, 1, 1), mode="reflect")), wanted[:, place, 0], 1 + wanted[:, place, 1])
            x = skip + y if place % 2 else F.relu(y)
        return torch.tanh(self.layers(x))


class MUNITAutoencoder(nn.Module):
    """One domain's content encoder, style encoder and decoder; MUNIT has one for each of two domains.

    Args:
        channels: Of the images, in [-1, 1].
        width: Channels at full resolution; 64 as published.
        blocks: Residual blocks of encoder and decoder; 4 as published.
        style: Dimensions of the style; 8 as published.

    References:
        Huang, Liu, Belongie, Kautz 2018, Multimodal Unsupervised Image-to-Image Translation, arXiv:1804.04732.

    Example:
        >>> net = MUNITAutoencoder(3, width=4, blocks=1)
        >>> images = torch.rand(2, 3, 16, 20)
        >>> net.decode(net.content(images), net.style(images), (16, 20)).shape
        torch.Size([2, 3, 16, 20])
    """

    def __init__(self, channels: int, *, width: int = 64, blocks: int = 4, style: int = STYLE) -> None:
        super().__init__()
        self.dimensions = style
        self.content_encoder = ContentEncoder(channels, width, blocks)
        self.style_encoder = StyleCodeEncoder(channels, width, style)
        self.decoder = AdaINDecoder(channels, width, blocks, style)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 1: the style encoder has no norm that would rescale it."""
        xavier_initialise(self, 1.0)

    def content(self, image: Tensor) -> Tensor:
        """The content map; sides that are no multiples of 4 are reflected."""
        height, width = int(image.shape[-2]), int(image.shape[-1])
        return self.content_encoder(pad_to_multiple(height, width, STEP).pad(image))

    def style(self, image: Tensor) -> Tensor:
        """The style, `(batch, style)`."""
        return self.style_encoder(image)

    def draw_style(self, batch: int, generator: torch.Generator) -> Tensor:
        """Styles from the standard normal."""
        return torch.randn((batch, self.dimensions), generator=generator, device=generator.device)

    def decode(self, content: Tensor, style: Tensor, size: tuple[int, int]) -> Tensor:
        """An image of that height and width.

        Raises:
            ShapeError: The content belongs to images of another size, or the style has another width.
        """
        padding = pad_to_multiple(*size, STEP)
        sides = (size[0] + padding.top + padding.bottom) // STEP, (size[1] + padding.left + padding.right) // STEP
        if tuple(content.shape[-2:]) != sides or tuple(style.shape) != (len(content), self.dimensions):
            expected = f"content of {sides} and style of {(len(content), self.dimensions)}"
            got = f"{tuple(content.shape[-2:])} and {tuple(style.shape)}"
            remedy = "pass what content(image) and style(image) gave, with the size of the image"
            raise ShapeError(explain(expected, got, "MUNIT decoder", remedy))
        return padding.crop(self.decoder(content, style))
