"""Sets of images compared by their features: Frechet distance and kernel distance."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["ENOUGH", "KernelDistance", "frechet_distance", "kernel_distance"]

Features = Float[Tensor, "_ _"]

ENOUGH = 10  # Samples a feature below which a Frechet distance ranks noise.
LARGEST_SUBSET = 1000


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance.

    Attributes:
        value: Mean over the subsets; of unbiased estimates, so it may be negative.
        deviation: Standard deviation over the subsets. Where a subset is half of the samples this estimates the
            standard error of the value.
        subsets: How many.
        size: Samples of each set in a subset.
    """

    value: float
    deviation: float
    subsets: int
    size: int


def frechet_distance(first: Features, second: Features) -> float:
    """Distance of the Gaussians with the means and covariances of two sets of features, in float64.

        |m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2))

    With Inception features it is the FID. The trace of the square root is the nuclear norm of A1 A2^T, where S = A^T A,
    so no ill-conditioned matrix root is taken. From fewer than 10 samples a feature the figure is mostly noise: a line
    in the log says so.

    Args:
        first: One row a sample.
        second: Likewise; the numbers of samples may differ.

    Raises:
        ShapeError: Different numbers of features, or fewer than two samples.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017, GANs Trained by a Two Time-Scale Update Rule Converge
        to a Local Nash Equilibrium, arXiv:1706.08500.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + torch.tensor([1.0, 0.0, 0.0])), 6)
        1.0
    """
    _check(first, second)
    fewest, width = min(len(first), len(second)), first.shape[1]
    if fewest < ENOUGH * width:
        logging.getLogger("pluriform").warning(
            "Frechet distance of %d features from %d samples: below %d it ranks noise; use the kernel distance",
            width,
            fewest,
            ENOUGH * width,
        )
    (mean1, root1), (mean2, root2) = _moments(first), _moments(second)
    spread = float(root1.square().sum() + root2.square().sum())
    overlap = float(torch.linalg.matrix_norm(root1 @ root2.T, "nuc"))
    return max(0.0, float((mean1 - mean2).square().sum()) + spread - 2 * overlap)


def kernel_distance(
    first: Features, second: Features, *, subsets: int = 100, size: int | None = None, seed: int = 0
) -> KernelDistance:
    """Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, unbiased, over random subsets.

    With Inception features it is the KID. Meaningful from tens of samples on.

    Args:
        first: One row a sample.
        second: Likewise.
        subsets: How many.
        size: Samples of each set in a subset; by default half of the smaller set, at most 1,000.
        seed: Of the subsets.

    Raises:
        ShapeError: Different numbers of features, or fewer than two samples.
        ConfigError: A subset of fewer than two samples or of more than there are.

    References:
        Binkowski, Sutherland, Arbel, Gretton 2018, Demystifying MMD GANs, arXiv:1801.01401.
    """
    _check(first, second)
    most = min(len(first), len(second))
    size = min(LARGEST_SUBSET, max(2, most // 2)) if size is None else size
    if not 2 <= size <= most or subsets < 1:
        expected = f"at least one subset of 2 to {most} samples"
        raise ConfigError(explain(expected, f"{subsets} of {size}", "kernel_distance", "leave the size to its default"))
    generator = np.random.default_rng(seed)
    one, two = first.double(), second.double()
    values = []
    for _ in range(subsets):
        rows = [torch.from_numpy(generator.choice(len(side), size, replace=False)) for side in (one, two)]
        values.append(_discrepancy(one[rows[0].to(one.device)], two[rows[1].to(two.device)]))
    found = np.array(values)
    return KernelDistance(float(found.mean()), float(found.std(ddof=1)) if subsets > 1 else 0.0, subsets, size)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and a matrix whose Gram matrix is the covariance, with at most as many rows as features."""
    values = features.double()
    mean = values.mean(0)
    centred = (values - mean) / (len(values) - 1) ** 0.5
    return mean, centred if len(values) <= values.shape[1] else torch.linalg.qr(centred, mode="r").R


def _discrepancy(first: Tensor, second: Tensor) -> float:
    def kernel(one: Tensor, two: Tensor) -> Tensor:
        return (one @ two.T / one.shape[1] + 1) ** 3

    def within(side: Tensor) -> Tensor:
        gram = kernel(side, side)
        return (gram.sum() - gram.diagonal().sum()) / (len(side) * (len(side) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        expected = "two sets of at least 2 samples with equally many features"
        got = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ShapeError(explain(expected, got, "distance of sets", "take more samples, and one extractor"))
