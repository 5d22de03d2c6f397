"""Inputs as small PNG pictures in text."""

import base64
import colorsys
import io

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pluriform.axes import Inputs
from pluriform.data.signature import Bounds

__all__ = ["byte_size", "coloured", "palette", "pictured", "pngs"]

MOST_SIDE = 32
GOLDEN = 0.618034
LIGHT = ((0.45, 0.62), (0.5, 0.92), (0.3, 0.8))  # Saturation and value, in turn.


def pictured(shape: tuple[int, ...]) -> bool:
    """Whether inputs of this shape are images of one or three channels."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape) > 0


def byte_size(shape: tuple[int, ...]) -> int:
    """Bytes of one picture before its compression."""
    if not pictured(shape):
        return 0
    height, width = _sides(shape)
    return shape[0] * height * width


def pngs(inputs: Inputs, bounds: Bounds, most: int = MOST_SIDE) -> list[str]:
    """Each image as an 8-bit PNG in base64, averaged down where a side is longer than `most` pixels.

    Args:
        inputs: Shape `(batch, channels, height, width)`, 1 or 3 channels.
        bounds: What becomes black and white; values beyond are clamped.
        most: Pixels of the longer side.
    """
    from PIL import Image

    sides = _sides(tuple(inputs.shape[1:]), most)
    if sides != tuple(inputs.shape[2:]):
        inputs = F.interpolate(inputs, sides, mode="area")
    low, high = bounds
    span = (high - low) or 1.0
    pixels = ((inputs.detach().cpu() - low) / span).clamp(0, 1).mul(255).round().to(torch.uint8)
    found = []
    for picture in pixels.permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(np.squeeze(picture, 2) if picture.shape[2] == 1 else picture).save(file, "PNG", optimize=True)
        found.append(base64.b64encode(file.getvalue()).decode())
    return found


def palette(classes: int) -> Tensor:
    """A colour for each class, `(classes, 3)` in [0, 1]: the first dark, hues apart by the golden ratio.

    Example:
        >>> palette(3).shape
        torch.Size([3, 3])
    """
    hues = [colorsys.hsv_to_rgb((0.58 + place * GOLDEN) % 1, *LIGHT[place % 3]) for place in range(classes - 1)]
    return torch.tensor([(0.12, 0.12, 0.15), *hues])[:classes]


def coloured(ids: Tensor, classes: int) -> Tensor:
    """Label maps `(batch, 1, height, width)` as pictures, `(batch, 3, height, width)` in [0, 1]."""
    return palette(classes)[ids[:, 0].long()].permute(0, 3, 1, 2)


def _sides(shape: tuple[int, ...], most: int = MOST_SIDE) -> tuple[int, int]:
    _, height, width = shape
    shrink = max(1.0, max(height, width) / most)
    return max(1, round(height / shrink)), max(1, round(width / shrink))
