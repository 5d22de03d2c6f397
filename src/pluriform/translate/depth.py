"""How deep a pyramid an image allows, how wide its levels are, and padding to sides that halve evenly."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["Padding", "check_levels", "largest_levels", "level_widths", "pad_to_multiple", "recommended_levels"]

FEWEST = 2


def largest_levels(height: int, width: int) -> int:
    """The most levels whose smallest still has two pixels on the short side: the least L with 2^L >= short side.

    Example:
        >>> largest_levels(256, 256), largest_levels(128, 128), largest_levels(96, 160)
        (8, 7, 7)
    """
    return math.ceil(math.log2(max(min(height, width), 1)))


def recommended_levels(height: int, width: int) -> int:
    """`floor(log2(short side)) - 1`, at least 2: the smallest level has four to seven pixels on the short side.

    Args:
        height: Of the images, pixels.
        width: The same.

    Raises:
        ConfigError: The images are smaller than 3 pixels.

    Example:
        >>> [recommended_levels(side, side) for side in (32, 64, 128, 256, 512)], recommended_levels(96, 160)
        ([4, 5, 6, 7, 8], 5)
    """
    levels = max(FEWEST, math.floor(math.log2(max(min(height, width), 1))) - 1)
    check_levels(levels, height, width)
    return levels


def check_levels(levels: int, height: int, width: int) -> None:
    """Raise where a pyramid of so many levels has a level of one pixel.

    Raises:
        ConfigError: Too many or too few levels; the largest legal number is named.
    """
    most = largest_levels(height, width)
    if most < FEWEST:
        raise ConfigError(
            explain("images of at least 3x3 pixels", f"{height}x{width}", "pyramid", "enlarge the images, to 32x32 say")
        )
    if not FEWEST <= levels <= most:
        raise ConfigError(
            explain(
                f"{FEWEST} to {most} levels for {height}x{width} pixels",
                f"{levels}, whose last would be {_bottom(height, levels)}x{_bottom(width, levels)}",
                "pyramid",
                f"use at most {most} levels, or a short side of more than {2 ** max(levels - 1, 1)} pixels",
            )
        )


def _bottom(side: int, levels: int) -> int:
    return -(-side // 2 ** max(levels - 1, 0))


def level_widths(width: int, levels: int, cap: int = 16) -> tuple[int, ...]:
    """Channels of every level, full resolution first: `width * min(2^i, cap)`.

    Example:
        >>> level_widths(64, 8)
        (64, 128, 256, 512, 1024, 1024, 1024, 1024)
    """
    return tuple(width * min(2**level, cap) for level in range(levels))


@dataclass(frozen=True)
class Padding:
    """Pixels added on each side, as `torch.nn.functional.pad` takes them; `crop` takes them away."""

    left: int
    right: int
    top: int
    bottom: int

    def crop(self, image: Tensor) -> Tensor:
        """The image without the added pixels."""
        return image[..., self.top : image.shape[-2] - self.bottom, self.left : image.shape[-1] - self.right]

    def pad(self, image: Tensor) -> Tensor:
        """The image with its sides reflected, or itself where nothing is to be added."""
        sides = (self.left, self.right, self.top, self.bottom)
        return F.pad(image, sides, mode="reflect") if any(sides) else image


def pad_to_multiple(height: int, width: int, multiple: int) -> Padding:
    """The padding that makes both sides multiples, split evenly.

    Args:
        height: Pixels.
        width: Pixels.
        multiple: Of pixels.

    Raises:
        ShapeError: A side is too short to be reflected so far.

    Example:
        >>> pad_to_multiple(50, 64, 16)
        Padding(left=0, right=0, top=7, bottom=7)
    """
    more = {"height": (-height) % multiple, "width": (-width) % multiple}
    for name, side in (("height", height), ("width", width)):
        if -(-more[name] // 2) >= side:
            raise ShapeError(
                explain(
                    f"a {name} of more than {multiple // 2} pixels",
                    f"{side}",
                    f"padding to a multiple of {multiple}",
                    "enlarge the image, or use a network with fewer levels",
                )
            )
    return Padding(
        more["width"] // 2, -(-more["width"] // 2), more["height"] // 2, -(-more["height"] // 2)
    )  # fmt: skip
