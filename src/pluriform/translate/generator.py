"""TSIT's generator: content by FADE and style by FAdaIN, coarse to fine."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.translate.depth import Padding, check_levels, level_widths, pad_to_multiple
from pluriform.translate.fadain import ChannelStatistics, channel_statistics, fadain
from pluriform.translate.fade import FADEBlock
from pluriform.translate.initialisation import xavier_initialise
from pluriform.translate.spade import SPADE
from pluriform.translate.stream import Stream

__all__ = ["Start", "Style", "StyleJoin", "TSITGenerator", "interpolate_styles"]

Start = Literal["noise", "content", "latent"]
Style = tuple[ChannelStatistics, ...]
SLOPE = 0.2
NOISE = 3
SPADE_HIDDEN = 128
LATENT = 256


class TSITGenerator(nn.Module):
    """From the start tensor up: for every level FAdaIN by the style, FADE block by the content, nearest x2.

    Then LeakyReLU 0.2, conv 3x3, tanh. Levels i = 0..L-1 have `width * min(2^i, cap)` channels and `size / 2^i` pixels;
    both streams compute level 0, and the trunk reads levels L-1..1. Images whose sides do not halve evenly are
    reflected at the border and the output is cropped. One image costs about 97 GMACs at 256 pixels with the published
    widths; cost grows with `width^2` and with pixels.

    Args:
        content: Channels of the content image, or labels of a one-hot map; 0 switches the content stream off.
        style: Channels of the style image; 0 switches the style stream off.
        out: Channels of the output, which lies in [-1, 1].
        levels: L, at least 2.
        width: Channels at full resolution.
        cap: Most channels of a level, over `width`.
        norm: N of FADE: `batch`, `instance` or `joint`.
        start: What the trunk begins with: `noise` of 3 channels, the shrunken `content`, or a `latent` vector of 256
            numbers.
        fade: Modulate by features of the content stream; otherwise there is none, and the resized content itself
            modulates as in SPADE.
        fadain: Give the trunk the statistics of the style features; otherwise means of these are joined to it by a 1x1
            convolution.
        size: Height and width of the images; needed by `latent` only, which then takes this size only.

    References:
        Jiang, Zhang, Huang, Liu, Shi, Loy 2020, TSIT: A Simple and Versatile Framework for Image-to-Image Translation,
        arXiv:2007.12072.

    Example:
        >>> net = TSITGenerator(3, 3, 3, levels=4, width=4)
        >>> images = torch.rand(2, 3, 32, 40)
        >>> noise = net.draw_start(2, 32, 40, torch.Generator().manual_seed(0))
        >>> net(images, images, noise).shape
        torch.Size([2, 3, 32, 40])
    """

    def __init__(
        self,
        content: int,
        style: int,
        out: int,
        *,
        levels: int,
        width: int = 64,
        cap: int = 16,
        norm: str = "batch",
        start: Start = "noise",
        fade: bool = True,
        fadain: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check(content, out, levels, start, size)
        widths = level_widths(width, levels, cap)
        self.levels, self.start = levels, start
        self.content_stream = Stream(content, widths) if content and fade else None
        self.raw_content = bool(content) and not fade
        self.style_stream = Stream(style, widths) if style else None
        self.bottom: tuple[int, int] | None = None
        if start == "latent" and size is not None:
            self.bottom = self._bottom(*size)
            self.first: nn.Module = nn.Linear(LATENT, widths[-1] * self.bottom[0] * self.bottom[1])
        else:
            self.first = nn.Conv2d(content if start == "content" else NOISE, widths[-1], 3, padding=1)
        downward = range(levels - 1, 0, -1)
        self.blocks = nn.ModuleList(
            FADEBlock(
                widths[level],
                widths[level - 1],
                widths[level] if content else 0,
                norm,
                partial(SPADE, widths[level], content, min(SPADE_HIDDEN, 2 * width), norm)
                if self.raw_content
                else None,
            )
            for level in downward
        )
        joined = bool(style) and not fadain
        self.joins = nn.ModuleList(StyleJoin(widths[level]) for level in downward) if joined else None
        self.last = nn.Conv2d(widths[0], out, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, Xavier normal with gain 0.02."""
        xavier_initialise(self)

    def draw_start(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor | None:
        """Noise or latent vectors for images of that size, `None` where the trunk starts with the content."""
        if self.start == "content":
            return None
        shape = (batch, LATENT) if self.start == "latent" else (batch, NOISE, *self._bottom(height, width))
        return torch.randn(shape, generator=generator, device=generator.device)

    def style_of(self, image: Tensor) -> Style:
        """Statistics of a style image at levels 1..L-1, all that the trunk takes from it."""
        if self.style_stream is None:
            return ()
        padding = self._padding(image)
        return tuple(channel_statistics(features) for features in self.style_stream(padding.pad(image))[1:])

    def forward(
        self,
        content: Tensor,
        style: Tensor | Style | None = None,
        start: Tensor | None = None,
        alpha: float | int = 1.0,
    ) -> Tensor:
        """Translate.

        Args:
            content: `(batch, content, height, width)` in [-1, 1], or a one-hot label map.
            style: `(batch, style, height', width')` in [-1, 1], of any size, or what `style_of` gave; ignored where the
                style stream is off.
            start: What `draw_start` gives for this batch and size.
            alpha: Strength of the style.

        Returns:
            Images `(batch, out, height, width)` in [-1, 1].

        Raises:
            ShapeError: Images too small for the levels, or style or start missing or of the wrong shape.
        """
        padding = self._padding(content)
        padded = padding.pad(content)
        styles = self._styles(style)
        features = self._features(padded)
        x = self._first(padded, start)
        if styles:
            x = self._styled(x, styles, self.levels - 1, alpha)
        for level, block in zip(range(self.levels - 1, 0, -1), self.blocks, strict=True):
            x = block(x, features[level])
            if level == 1:
                x = F.leaky_relu(x, SLOPE)
            elif styles:
                x = self._styled(x, styles, level - 1, alpha, copies=4)  # Of the next level, before pixels are copied.
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return padding.crop(torch.tanh(self.last(x)))

    def _features(self, padded: Tensor) -> Sequence[Tensor | None]:
        """What modulates the trunk, by level."""
        if self.content_stream is not None:
            return self.content_stream(padded)
        return [padded if self.raw_content else None] * self.levels

    def _styled(self, x: Tensor, styles: Style, level: int, alpha: float | int, copies: int = 1) -> Tensor:
        """The trunk with the style of a level."""
        if self.joins is None:
            return fadain(x, styles[level - 1], alpha, copies)
        return torch.lerp(x, self.joins[self.levels - 1 - level](x, styles[level - 1]), float(alpha))

    def _styles(self, style: Tensor | Style | None) -> Style:
        if self.style_stream is None:
            return ()
        if style is None:
            remedy = "pass a style image, or build the generator with style=0"
            raise ShapeError(explain("a style", "none", "TSIT generator", remedy))
        return self.style_of(style) if isinstance(style, Tensor) else style

    def _first(self, content: Tensor, start: Tensor | None) -> Tensor:
        size = (content.shape[-2] // 2 ** (self.levels - 1), content.shape[-1] // 2 ** (self.levels - 1))
        if self.start == "content":
            return self.first(F.interpolate(content, size, mode="nearest"))
        expected = (len(content), LATENT) if self.bottom else (len(content), NOISE, *size)
        wrong_size = self.bottom is not None and self.bottom != size
        if start is None or tuple(start.shape) != expected or wrong_size:
            got = "none" if start is None else str(tuple(start.shape))
            if wrong_size:
                got = f"{got} for images of {tuple(content.shape[-2:])}, made for a map of {self.bottom}"
            remedy = "pass draw_start(batch, height, width, generator), for the size the generator was built for"
            raise ShapeError(explain(f"{self.start} of shape {expected}", got, "TSIT generator", remedy))
        return self.first(start).view(len(content), -1, *size)

    def _bottom(self, height: int, width: int) -> tuple[int, int]:
        step = 2 ** (self.levels - 1)
        return -(-height // step), -(-width // step)

    def _padding(self, image: Tensor) -> Padding:
        height, width = int(image.shape[-2]), int(image.shape[-1])
        check_levels(self.levels, height, width)
        return pad_to_multiple(height, width, 2 ** (self.levels - 1))


class StyleJoin(nn.Module):
    """Means of style features beside the trunk, through a 1x1 convolution: FAdaIN left out, the style still there.

    Args:
        channels: Of both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, style: ChannelStatistics) -> Tensor:
        """The trunk `(batch, channels, height, width)` with the style in it."""
        return self.conv(torch.cat((x, style.mean.to(x.dtype).expand(len(x), -1, *x.shape[2:])), 1))


def interpolate_styles(one: Style, two: Style, share: float | int) -> Style:
    """`(1 - share) * one + share * two`, mean and deviation of every channel at every level.

    Args:
        one: What `style_of` gave.
        two: The same, of another image.
        share: 0 gives the first, 1 the second.
    """
    return tuple(
        ChannelStatistics(torch.lerp(a.mean, b.mean, share), torch.lerp(a.std, b.std, share))
        for a, b in zip(one, two, strict=True)
    )


def _check(content: int, out: int, levels: int, start: Start, size: tuple[int, int] | None) -> None:
    if levels < 2 or out < 1:
        raise ConfigError(
            explain("at least 2 levels and 1 output channel", f"{levels} and {out}", "TSIT generator", "raise them")
        )
    if start == "content" and not content:
        raise ConfigError(explain("a content stream", "content=0", "start='content'", "start from noise instead"))
    if start == "latent" and size is None:
        raise ConfigError(explain("the size of the images", "none", "start='latent'", "pass size=(height, width)"))
    if size is not None:
        check_levels(levels, *size)
