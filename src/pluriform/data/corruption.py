"""Common corruptions, generated on tensors at severities 1 to 5.

The kinds are those of Hendrycks and Dietterich and of MNIST-C. Severities of `gaussian_noise`, `shot_noise`,
`impulse_noise`, `contrast`, `brightness`, `pixelate` and `jpeg` are the constants of ImageNet-C. All others are our
own: shifts as a share of the picture's side; blurs in units of the root of the side, which comes near ImageNet-C at 224
pixels and still blurs 8 pixels. Brightness is added to all channels, where ImageNet-C adds it to the value in HSV.
Figures compare with each other, not with the published archives.

References:
    Hendrycks, Dietterich 2019. Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.
    arXiv:1903.12261.
    Mu, Gilmer 2019. MNIST-C: A Robustness Benchmark for Computer Vision. arXiv:1906.02337.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from pluriform.data.signature import Bounds
from pluriform.errors import BoundsError, ConfigError, ShapeError, explain

__all__ = ["CORRUPTIONS", "TABLE_CORRUPTIONS", "corrupt"]

Apply = Callable[[Tensor, float, Generator], Tensor]


@dataclass(frozen=True)
class Corruption:
    """A way to spoil inputs, and how much at severities 1 to 5."""

    apply: Apply
    levels: tuple[float, float, float, float, float]


def corrupt(inputs: Tensor, name: str, severity: int, *, bounds: Bounds | None = None, seed: int = 0) -> Tensor:
    """Spoiled inputs of the same shape, inside `bounds`; the given tensor is left as it is.

    The draws depend on the number of inputs: corrupt a whole split in one call, not batch by batch.

    Args:
        inputs: Pictures `(N, channels, height, width)`, or rows of a table `(N, features)`.
        name: One of `CORRUPTIONS` for pictures, of `TABLE_CORRUPTIONS` for tables.
        severity: 1 (slight) to 5 (strong).
        bounds: Lowest and highest legal input. Needed for pictures; tables may have none.
        seed: Of the draws.

    Raises:
        ConfigError: No such corruption for such inputs, or no such severity.
        ShapeError: Neither pictures nor rows, or pictures that `jpeg` cannot hold.
        BoundsError: Pictures without bounds.
    """
    if inputs.dim() not in (2, 4):
        shape = f"shape {tuple(inputs.shape)}"
        raise ShapeError(explain("pictures (N, C, H, W) or rows (N, features)", shape, name, "reshape the inputs"))
    known = PICTURES if inputs.dim() == 4 else TABLES
    if name not in known:
        kind = "pictures" if inputs.dim() == 4 else "tables"
        raise ConfigError(
            explain(f"one of {', '.join(known)} for {kind}", repr(name), "corruption", "choose one of them")
        )
    if severity not in (1, 2, 3, 4, 5):
        raise ConfigError(explain("a severity of 1, 2, 3, 4 or 5", f"{severity}", name, "choose one of them"))
    chosen = known[name]
    level, generator = chosen.levels[severity - 1], torch.Generator().manual_seed(seed)
    if inputs.dim() == 2:
        rows = chosen.apply(inputs, level, generator)
        return rows if bounds is None else rows.clamp(*bounds)
    if bounds is None:
        raise BoundsError(explain("bounds of the pictures", "none", name, "give bounds=, for instance data.bounds"))
    low, high = bounds
    unit = (inputs - low) / (high - low)
    return chosen.apply(unit, level, generator).clamp(0, 1) * (high - low) + low


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)


def _gaussian_noise(x: Tensor, deviation: float, generator: Generator) -> Tensor:
    return x + deviation * _normal(x, generator)


def _shot_noise(x: Tensor, photons: float, generator: Generator) -> Tensor:
    return (torch.poisson(x.cpu().clamp_min(0) * photons, generator=generator) / photons).to(x.device)


def _impulse_noise(x: Tensor, share: float, generator: Generator) -> Tensor:
    draw = _uniform(tuple(x.shape), x, generator)
    return torch.where(draw < share, (draw < share / 2).to(x.dtype), x)


def _blurred(x: Tensor, kernel: Tensor) -> Tensor:
    reach = len(kernel) // 2
    channels = x.shape[1]
    weight = (kernel / kernel.sum()).to(x).expand(channels, 1, *kernel.shape)
    return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), weight, groups=channels)


def _squared_distance(reach: int) -> Tensor:
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return steps[:, None] ** 2 + steps**2


def _gaussian_blur(x: Tensor, share: float, _: Generator) -> Tensor:
    deviation = share * math.sqrt(min(x.shape[-2:]))
    return _blurred(x, torch.exp(-_squared_distance(math.ceil(3 * deviation)) / (2 * deviation**2)))


def _defocus_blur(x: Tensor, share: float, _: Generator) -> Tensor:
    radius = share * math.sqrt(min(x.shape[-2:]))
    # A disk whose edge pixels count by how much of them it covers, roughly.
    return _blurred(x, (radius + 0.5 - _squared_distance(math.ceil(radius)).sqrt()).clamp(0, 1))


def _contrast(x: Tensor, share: float, _: Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + share * (x - mean)


def _brightness(x: Tensor, amount: float, _: Generator) -> Tensor:
    return x + amount


def _pixelate(x: Tensor, share: float, _: Generator) -> Tensor:
    size = [max(1, round(share * side)) for side in x.shape[-2:]]
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[-2:], mode="area")


def _jpeg(x: Tensor, quality: float, _: Generator) -> Tensor:
    from PIL import Image

    if x.shape[1] not in (1, 3):
        raise ShapeError(explain("1 or 3 channels", f"{x.shape[1]}", "jpeg", "choose another corruption"))
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    coded = np.empty_like(pixels)
    for row, picture in zip(coded, pixels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            buffer, "JPEG", quality=int(quality)
        )
        row[:] = np.asarray(Image.open(buffer)).reshape(row.shape)
    return torch.from_numpy(coded).permute(0, 3, 1, 2).to(x) / 255


def _fog(x: Tensor, amount: float, generator: Generator) -> Tensor:
    """Smooth noise of halving sizes and weights laid over the picture, as the plasma fractals of the original."""
    height, width = x.shape[-2:]
    veil = torch.zeros(len(x), 1, height, width, dtype=x.dtype, device=x.device)
    for octave in range(1, 5):
        grid = _uniform((len(x), 1, 2**octave, 2**octave), x, generator)
        veil += F.interpolate(grid, (height, width), mode="bilinear", align_corners=True) / 2**octave
    veil -= veil.amin((1, 2, 3), keepdim=True)
    veil /= veil.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return (x + amount * veil) / (1 + amount)


def _moved(x: Tensor, matrix: Tensor) -> Tensor:
    """Pictures seen through one affine map each; what comes from outside has the lowest value."""
    grid = F.affine_grid(matrix.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _rotate(x: Tensor, degrees: float, generator: Generator) -> Tensor:
    sign = (_uniform((len(x),), x, generator) < 0.5).to(x.dtype) * 2 - 1
    angle = sign * math.radians(degrees)
    zero = torch.zeros_like(angle)
    rows = [torch.stack([angle.cos(), -angle.sin(), zero], 1), torch.stack([angle.sin(), angle.cos(), zero], 1)]
    return _moved(x, torch.stack(rows, 1))


def _shift(x: Tensor, share: float, generator: Generator) -> Tensor:
    angle = _uniform((len(x),), x, generator) * (2 * math.pi)
    matrix = torch.eye(2, 3).to(x).repeat(len(x), 1, 1)
    # The grid's own unit is half a side.
    matrix[:, :, 2] = 2 * share * torch.stack([angle.cos(), angle.sin()], 1)
    return _moved(x, matrix)


def _scale(x: Tensor, factor: float, _: Generator) -> Tensor:
    return _moved(x, torch.eye(2, 3).to(x).repeat(len(x), 1, 1) / factor)


def _table_noise(x: Tensor, share: float, generator: Generator) -> Tensor:
    """Noise in units of each feature's own deviation over the rows."""
    return x + share * x.std(0, unbiased=False) * _normal(x, generator)


def _feature_dropout(x: Tensor, share: float, generator: Generator) -> Tensor:
    """Cells replaced by the mean of their column, as if they had been missing and filled in."""
    return torch.where(_uniform(tuple(x.shape), x, generator) < share, x.mean(0), x)


PICTURES = {
    "brightness": Corruption(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "defocus_blur": Corruption(_defocus_blur, (0.25, 0.32, 0.42, 0.55, 0.68)),
    "fog": Corruption(_fog, (0.3, 0.6, 0.9, 1.2, 1.5)),
    "gaussian_blur": Corruption(_gaussian_blur, (0.15, 0.2, 0.27, 0.34, 0.42)),
    "gaussian_noise": Corruption(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "impulse_noise": Corruption(_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "jpeg": Corruption(_jpeg, (25.0, 18.0, 15.0, 10.0, 7.0)),
    "pixelate": Corruption(_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "rotate": Corruption(_rotate, (6.0, 12.0, 18.0, 24.0, 30.0)),
    "scale": Corruption(_scale, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "shift": Corruption(_shift, (0.04, 0.08, 0.12, 0.16, 0.2)),
    "shot_noise": Corruption(_shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0)),
}
TABLES = {
    "feature_dropout": Corruption(_feature_dropout, (0.05, 0.1, 0.2, 0.3, 0.5)),
    "gaussian_noise": Corruption(_table_noise, (0.1, 0.2, 0.4, 0.6, 1.0)),
}
CORRUPTIONS = tuple(PICTURES)
TABLE_CORRUPTIONS = tuple(TABLES)
