"""Images against the images they should be: PSNR and SSIM, one figure an image."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ShapeError, explain

__all__ = ["psnr_terms", "ssim_terms"]

Images = Float[Tensor, "_ _ _ _"]
Terms = Float[Tensor, "_"]

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr_terms(images: Images, truth: Images, span: float | int = 1.0) -> Terms:
    """`10 log10(span^2 / mean squared error)` of every image in dB; infinite where they are equal.

    Args:
        images: What was made.
        truth: What it should be.
        span: Difference of the highest and the lowest legal pixel.

    Raises:
        ShapeError: They differ in shape.

    Example:
        >>> psnr_terms(torch.full((1, 3, 4, 4), 0.1), torch.zeros(1, 3, 4, 4)).round(decimals=4)
        tensor([20.], dtype=torch.float64)
    """
    _check(images, truth)
    error = (images.double() - truth.double()).square().flatten(1).mean(1)
    return 10 * (span**2 / error).log10()


def ssim_terms(images: Images, truth: Images, span: float | int = 1.0) -> Terms:
    """Structural similarity of every image, at most 1.

    With local means m, variances v and covariance c under an 11 x 11 Gaussian window of deviation 1.5,

        SSIM = mean of (2 m1 m2 + C1) (2 c + C2) / ((m1^2 + m2^2 + C1) (v1 + v2 + C2)),

    C1 = (0.01 span)^2, C2 = (0.03 span)^2, over channels and all places where the window fits. Images smaller than the
    window have a smaller one.

    Args:
        images: What was made.
        truth: What it should be.
        span: Difference of the highest and the lowest legal pixel.

    Raises:
        ShapeError: They differ in shape.

    References:
        Wang, Bovik, Sheikh, Simoncelli 2004, Image Quality Assessment, IEEE Transactions on Image Processing 13(4).
    """
    _check(images, truth)
    first, second = images.double(), truth.double()
    side = min(WINDOW, *images.shape[2:])
    line = _line(side - (side + 1) % 2)

    def blurred(values: Tensor) -> Tensor:
        return _weighted(_weighted(values, line, -1), line, -2)

    mean1, mean2 = blurred(first), blurred(second)
    variances = blurred(first * first) - mean1 * mean1 + blurred(second * second) - mean2 * mean2
    covariance = blurred(first * second) - mean1 * mean2
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    local = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    local = local / ((mean1 * mean1 + mean2 * mean2 + c1) * (variances + c2))
    return local.flatten(1).mean(1)


def _line(side: int) -> list[float]:
    """Weights of the window along one axis; the window is the product of two."""
    weights = [math.exp(-((place - (side - 1) / 2) ** 2) / (2 * SIGMA**2)) for place in range(side)]
    return [weight / sum(weights) for weight in weights]


def _weighted(values: Tensor, line: Sequence[float], axis: int) -> Tensor:
    """Weighted sums of neighbours along an axis, tap by tap: in float64 a convolution takes its window in memory."""
    length = values.shape[axis] - len(line) + 1
    found = torch.zeros_like(values.narrow(axis, 0, length))
    for place, weight in enumerate(line):
        found = found.add_(values.narrow(axis, place, length), alpha=weight)
    return found


def _check(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or math.prod(images.shape) == 0:
        expected, got = f"images of shape {tuple(truth.shape)}, as the truth", f"{tuple(images.shape)}"
        raise ShapeError(explain(expected, got, "comparison of images", "pass pairs of images"))
