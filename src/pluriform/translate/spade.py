"""SPADE: a label map scales and shifts every pixel of the normalised trunk; its blocks and its generator."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.translate.depth import pad_to_multiple
from pluriform.translate.initialisation import xavier_initialise
from pluriform.translate.normalisation import trunk_norm
from pluriform.translate.spectral_norm import SpectralConv2d

__all__ = ["SPADE", "SPADEBlock", "SPADEGenerator", "recommended_doublings"]

SLOPE = 0.2
LATENT = 256
MOST = 5


def recommended_doublings(height: int, width: int) -> int:
    """`floor(log2(short side)) - 2`, at most 5 and at least 1: the start map has four pixels or more.

    Example:
        >>> recommended_doublings(32, 32), recommended_doublings(64, 80), recommended_doublings(256, 512)
        (3, 4, 5)
    """
    return min(MOST, max(1, int(math.log2(max(min(height, width), 1))) - 2))


class SPADE(nn.Module):
    """`N(x) * (1 + gamma(m)) + beta(m)`: m resized to x (nearest), conv 3x3, ReLU, then gamma and beta by conv 3x3.

    Gamma and beta are one convolution to twice the channels here; gamma's come first.

    Args:
        channels: Of the trunk `x`.
        labels: Channels of the label map `m`.
        hidden: Channels between; 128 as published.
        norm: `batch`, `instance` or `joint`.

    References:
        Park, Liu, Wang, Zhu 2019, Semantic Image Synthesis with Spatially-Adaptive Normalization, arXiv:1903.07291.

    Example:
        >>> SPADE(4, 5, 8)(torch.rand(2, 4, 6, 6), torch.rand(2, 5, 12, 12)).shape
        torch.Size([2, 4, 6, 6])
    """

    def __init__(self, channels: int, labels: int, hidden: int = 128, norm: str = "batch") -> None:
        super().__init__()
        self.norm = trunk_norm(norm, channels)
        self.shared = nn.Conv2d(labels, hidden, 3, padding=1)
        self.modulation = nn.Conv2d(hidden, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Modulate `(batch, channels, height, width)` by a map of any size."""
        hidden = F.relu(self.shared(F.interpolate(labels, x.shape[2:], mode="nearest")))
        normal = self.norm(x)
        gamma, beta = self.modulation(hidden).chunk(2, 1)
        return torch.addcmul(normal + beta, normal, gamma)


class SPADEBlock(nn.Module):
    """SPADE, LeakyReLU 0.2, conv 3x3, twice, plus a shortcut: the identity, or SPADE, conv 1x1.

    The width between the convolutions is the smaller of input and output; spectral norm on the three convolutions.

    Args:
        before: Channels of the trunk.
        after: Channels of the output.
        labels: Channels of the label map.
        hidden: Channels within SPADE.
        norm: `batch`, `instance` or `joint`.

    References:
        Park et al. 2019, arXiv:1903.07291, appendix A.
    """

    def __init__(self, before: int, after: int, labels: int, hidden: int = 128, norm: str = "batch") -> None:
        super().__init__()
        middle = min(before, after)
        self.spade1 = SPADE(before, labels, hidden, norm)
        self.conv1 = SpectralConv2d(before, middle, 3, padding=1)
        self.spade2 = SPADE(middle, labels, hidden, norm)
        self.conv2 = SpectralConv2d(middle, after, 3, padding=1)
        self.shortcut_spade = SPADE(before, labels, hidden, norm) if before != after else None
        self.shortcut = SpectralConv2d(before, after, 1, bias=False) if before != after else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map the trunk `(batch, before, height, width)` to `(batch, after, height, width)`."""
        y = self.conv1(F.leaky_relu(self.spade1(x, labels), SLOPE))
        y = self.conv2(F.leaky_relu(self.spade2(y, labels), SLOPE))
        if self.shortcut is None or self.shortcut_spade is None:
            return x + y
        return y + self.shortcut(self.shortcut_spade(x, labels))


class SPADEGenerator(nn.Module):
    """Start map, three blocks of `cap * width` channels, blocks that halve the channels to `width`, conv 3x3, tanh.

    The trunk doubles its size `doublings` times, before the last blocks: with 5 and the published widths after the
    first block, after the third, and between those that halve. The start is the shrunken label map behind a
    convolution, or a latent vector of 256 numbers behind a linear layer.

    Args:
        labels: Channels of the one-hot map.
        out: Channels of the output, in [-1, 1].
        doublings: Of the start map, 1 to 5.
        width: Channels at full resolution, 64 as published.
        cap: Channels of the first blocks over `width`, a power of two.
        hidden: Channels within SPADE.
        norm: `batch`, `instance` or `joint`.
        size: Height and width of the images where the trunk starts from a latent vector, else `None`.

    References:
        Park et al. 2019, arXiv:1903.07291, appendix A: 93.0 million parameters with 36 label channels.

    Example:
        >>> SPADEGenerator(5, 3, doublings=2, width=4, cap=4, hidden=8)(torch.rand(2, 5, 18, 16)).shape
        torch.Size([2, 3, 18, 16])
    """

    def __init__(
        self,
        labels: int,
        out: int,
        *,
        doublings: int = 5,
        width: int = 64,
        cap: int = 16,
        hidden: int = 128,
        norm: str = "batch",
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        halvings = int(math.log2(max(cap, 1)))
        if not 1 <= doublings <= halvings + 1 or cap != 2**halvings:
            expected = f"cap a power of two and 1 to {halvings + 1} doublings"
            remedy = "use recommended_doublings(height, width) and cap=16"
            raise ConfigError(explain(expected, f"cap {cap} and {doublings}", "SPADE generator", remedy))
        widths = [*(3 * [cap * width]), *(width * 2**place for place in reversed(range(halvings)))]
        self.doublings = doublings
        self.bottom = None if size is None else (-(-size[0] // 2**doublings), -(-size[1] // 2**doublings))
        if self.bottom is None:
            self.first: nn.Module = nn.Conv2d(labels, widths[0], 3, padding=1)
        else:
            self.first = nn.Linear(LATENT, widths[0] * self.bottom[0] * self.bottom[1])
        before = [widths[0], *widths[:-1]]
        self.blocks = nn.ModuleList(SPADEBlock(a, b, labels, hidden, norm) for a, b in zip(before, widths, strict=True))
        self.doubled = _doubled(len(widths), doublings)
        self.last = nn.Conv2d(width, out, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 0.02."""
        xavier_initialise(self)

    def draw_start(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor | None:
        """Latent vectors, or `None` where the trunk starts with the label map."""
        del height, width
        if self.bottom is None:
            return None
        return torch.randn((batch, LATENT), generator=generator, device=generator.device)

    def forward(self, labels: Tensor, start: Tensor | None = None) -> Tensor:
        """Map one-hot labels `(batch, labels, height, width)` to images `(batch, out, height, width)`."""
        padding = pad_to_multiple(int(labels.shape[-2]), int(labels.shape[-1]), 2**self.doublings)
        padded = padding.pad(labels)
        size = (padded.shape[-2] // 2**self.doublings, padded.shape[-1] // 2**self.doublings)
        if self.bottom is None:
            x = self.first(F.interpolate(padded, size, mode="nearest"))
        elif start is None or tuple(start.shape) != (len(labels), LATENT) or size != self.bottom:
            got = f"{None if start is None else tuple(start.shape)} for a start map of {size}"
            expected = f"a latent vector {(len(labels), LATENT)} for a start map of {self.bottom}"
            remedy = "pass draw_start(...), and images of the size the generator was built for"
            raise ShapeError(explain(expected, got, "SPADE generator", remedy))
        else:
            x = self.first(start).view(len(labels), -1, *size)
        for place, block in enumerate(self.blocks):
            x = block(x, padded)
            if place in self.doubled:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return padding.crop(torch.tanh(self.last(F.leaky_relu(x, SLOPE))))


def _doubled(blocks: int, doublings: int) -> tuple[int, ...]:
    """Blocks behind which the trunk doubles: the last ones that another block follows, and the first block at most."""
    places = [0, *range(2, blocks - 1)]
    return tuple(places[len(places) - doublings :])
