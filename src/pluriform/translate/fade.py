"""FADE: content features scale and shift every pixel of the normalised trunk."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ShapeError, explain
from pluriform.translate.normalisation import trunk_norm
from pluriform.translate.spectral_norm import SpectralConv2d

__all__ = ["FADE", "FADEBlock"]

SLOPE = 0.2


class FADE(nn.Module):
    """`FADE(x, f) = N(x) * (1 + gamma(f)) + beta(f)`, gamma and beta one 3x3 convolution of the content features each.

    Both are one convolution to twice the channels here; gamma's come first.

    Args:
        channels: Of the trunk `x`.
        content: Channels of the content features `f`; 0 for none, which leaves N(x).
        norm: `batch`, `instance` or `joint`.

    References:
        Jiang, Zhang, Huang, Liu, Shi, Loy 2020, TSIT: A Simple and Versatile Framework for Image-to-Image Translation,
        arXiv:2007.12072.

    Example:
        >>> FADE(4, 8)(torch.rand(2, 4, 6, 6), torch.rand(2, 8, 6, 6)).shape
        torch.Size([2, 4, 6, 6])
    """

    def __init__(self, channels: int, content: int, norm: str = "batch") -> None:
        super().__init__()
        self.norm = trunk_norm(norm, channels)
        self.modulation = nn.Conv2d(content, 2 * channels, 3, padding=1) if content else None

    def forward(self, x: Tensor, f: Tensor | None) -> Tensor:
        """Modulate `(batch, channels, height, width)` by features of the same height and width."""
        normal = self.norm(x)
        if self.modulation is None or f is None:
            return normal
        if f.shape[2:] != x.shape[2:]:
            raise ShapeError(
                explain(
                    f"content features of {x.shape[2]}x{x.shape[3]} pixels",
                    f"{f.shape[2]}x{f.shape[3]}",
                    "FADE",
                    "take the level of the content stream with the size of the trunk",
                )
            )
        of_gamma, of_beta = self.modulation.bias.chunk(2)  # type: ignore[union-attr]
        bias = torch.cat((of_gamma + 1, of_beta))  # 1 + gamma for the price of gamma.
        scale, beta = F.conv2d(f, self.modulation.weight, bias, padding=1).chunk(2, 1)
        return torch.addcmul(beta, normal, scale)


class FADEBlock(nn.Module):
    """FADE, LeakyReLU 0.2, conv 3x3, FADE, LeakyReLU 0.2, conv 3x3, plus a shortcut: the identity, or FADE, conv 1x1.

    All FADEs read the same content features. Spectral norm on the three convolutions, not on gamma and beta.

    Args:
        before: Channels of the trunk.
        after: Channels of the output.
        content: Channels of the content features; 0 for none.
        norm: `batch`, `instance` or `joint`.
        modulation: Makes what modulates the trunk in place of FADE.

    References:
        Jiang et al. 2020, arXiv:2007.12072.
    """

    def __init__(
        self,
        before: int,
        after: int,
        content: int,
        norm: str = "batch",
        modulation: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()

        make = modulation or (lambda: FADE(before, content, norm))
        self.fade1 = make()
        self.conv1 = SpectralConv2d(before, before, 3, padding=1)
        self.fade2 = make()
        self.conv2 = SpectralConv2d(before, after, 3, padding=1)
        self.shortcut_fade = make() if before != after else None
        self.shortcut = SpectralConv2d(before, after, 1, bias=False) if before != after else None

    def forward(self, x: Tensor, f: Tensor | None) -> Tensor:
        """Map the trunk `(batch, before, height, width)` to `(batch, after, height, width)`."""
        y = self.conv1(F.leaky_relu(self.fade1(x, f), SLOPE, inplace=True))
        y = self.conv2(F.leaky_relu(self.fade2(y, f), SLOPE, inplace=True))
        if self.shortcut is None or self.shortcut_fade is None:
            return x + y
        return y + self.shortcut(self.shortcut_fade(x, f))
