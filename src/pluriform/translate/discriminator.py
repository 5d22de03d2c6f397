"""Patch discriminators at several scales."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain
from pluriform.translate.initialisation import xavier_initialise
from pluriform.translate.normalisation import InstanceNorm
from pluriform.translate.spectral_norm import SpectralConv2d

__all__ = [
    "DiscriminatorNorm",
    "MultiScaleDiscriminator",
    "PatchDiscriminator",
    "recommended_patch_layers",
    "recommended_scales",
]

DiscriminatorNorm = Literal["spectral-instance", "batch", "instance"]
SLOPE = 0.2
MOST = 8
STRIDES = (2, 2, 2, 1)


def recommended_patch_layers(height: int, width: int) -> int:
    """4 strided layers from 256 pixels on the short side on, 3 from 64 on, else 2: patches of 70, 46, 22 pixels."""
    short = min(height, width)
    return 4 if short >= 256 else 3 if short >= 64 else 2


def recommended_scales(height: int, width: int) -> int:
    """2 from 64 pixels on the short side on, else 1."""
    return 2 if min(height, width) >= 64 else 1


class PatchDiscriminator(nn.Module):
    """Kernel 4: conv stride 2 without norm, convs that double the channels (at most 8 times), conv to one channel.

    The layer of index 3 has stride 1, as has the last; LeakyReLU 0.2 everywhere but at the end, and no sigmoid. A
    convolution that a norm without shift of its own follows has no bias.

    Args:
        channels: Of the input; image and condition together where it is conditional.
        width: Channels of the first layer, ndf.
        layers: Convolutions before the last, n; the receptive field is 22, 46, 70 pixels for 2, 3, 4.
        norm: `spectral-instance` of TSIT, `batch` of pix2pix, `instance` of CycleGAN (biases kept, as published).
        padding: Zeros around every layer: 2 in TSIT, 1 in pix2pix and CycleGAN.

    References:
        Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
        arXiv:1611.07004.

    Example:
        >>> import torch
        >>> [tuple(f.shape[1:]) for f in PatchDiscriminator(3, 8, 2)(torch.rand(1, 3, 32, 32))]
        [(8, 17, 17), (16, 9, 9), (1, 10, 10)]
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        layers: int = 3,
        norm: DiscriminatorNorm = "spectral-instance",
        padding: int = 2,
    ) -> None:
        super().__init__()
        if not 1 <= layers <= len(STRIDES):
            remedy = "use recommended_patch_layers(height, width)"
            raise ConfigError(explain("1 to 4 layers", f"{layers}", "patch discriminator", remedy))
        widths = [channels, *(width * min(2**place, MOST) for place in range(layers))]
        stages: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, padding)]
        for a, b, stride in zip(widths[1:], widths[2:], STRIDES[1:], strict=False):
            stages.append(_stage(a, b, stride, padding, norm))
        self.stages = nn.ModuleList(stages)
        self.last = nn.Conv2d(widths[-1], 1, 4, 1, padding)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 0.02."""
        xavier_initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every layer, then the map of scores, `(batch, 1, height', width')`."""
        found = []
        for stage in self.stages:
            x = F.leaky_relu(stage(x), SLOPE)
            found.append(x)
        return [*found, self.last(x)]


def _stage(before: int, after: int, stride: int, padding: int, norm: str) -> nn.Module:
    if norm == "spectral-instance":  # Not fused: R1 differentiates it twice.
        conv = SpectralConv2d(before, after, 4, stride, padding, bias=False, fused=False)
        return nn.Sequential(conv, InstanceNorm())
    if norm == "batch":
        return nn.Sequential(nn.Conv2d(before, after, 4, stride, padding, bias=False), nn.BatchNorm2d(after))
    if norm == "instance":
        return nn.Sequential(nn.Conv2d(before, after, 4, stride, padding), InstanceNorm())
    remedy = "name spectral-instance, batch or instance"
    raise ConfigError(explain("a norm of discriminators", repr(norm), "patch discriminator", remedy))


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator a scale, each with weights of its own.

    The next scale is the average over 3x3 pixels at stride 2, border pixels over those that exist.

    Args:
        channels: Of the input; image and condition together where it is conditional.
        width: Channels of the first layer, ndf.
        layers: Convolutions before the last.
        scales: How many.

    References:
        Wang, Liu, Zhu, Tao, Kautz, Catanzaro 2018, High-Resolution Image Synthesis and Semantic Manipulation with
        Conditional GANs, arXiv:1711.11585.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3, scales: int = 2) -> None:
        super().__init__()
        if scales < 1:
            raise ConfigError(explain("at least one scale", f"{scales}", "discriminator", "use 1 or 2"))
        self.scales = nn.ModuleList(PatchDiscriminator(channels, width, layers) for _ in range(scales))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """For every scale, finest first, features of every layer and the map of scores."""
        found = []
        for place, net in enumerate(self.scales):
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if place else x
            found.append(net(x))
        return found
