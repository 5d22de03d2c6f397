"""Pairs of images compared by the features of a network, and how far the translations of one content lie apart."""

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ShapeError, explain

__all__ = ["perceptual_terms", "spread_terms"]

Terms = Float[Tensor, "_"]

FLOOR = 1e-10


def perceptual_terms(first: Sequence[Tensor], second: Sequence[Tensor]) -> Terms:
    """Distance of every pair of images, with the features of a place scaled to unit length.

        d = mean over layers of mean over places of |f1 - f2|^2

    It lies in [0, 4]. LPIPS has further weights for its own networks, learned from people, and sums the layers.

    Args:
        first: Features of each layer, `(batch, channels, height, width)` or `(batch, features)`.
        second: Likewise.

    Raises:
        ShapeError: The layers differ.

    References:
        Zhang, Isola, Efros, Shechtman, Wang 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual
        Metric, arXiv:1801.03924.
    """
    if not first or [layer.shape for layer in first] != [layer.shape for layer in second]:
        got = f"{[tuple(layer.shape) for layer in first]} and {[tuple(layer.shape) for layer in second]}"
        expected, remedy = "the same layers of both images", "use one extractor and one image size"
        raise ShapeError(explain(expected, got, "perceptual_terms", remedy))
    layers = [
        (_unit(one) - _unit(two)).square().sum(1).flatten(1).mean(1) for one, two in zip(first, second, strict=True)
    ]
    return torch.stack(layers).mean(0)


def spread_terms(members: Sequence[Sequence[Tensor]]) -> Terms:
    """Mean perceptual distance over all pairs of translations of each content: 0 where all look alike.

    Args:
        members: For each style or draw the features of each layer, contents in the same order.

    Raises:
        ShapeError: Fewer than two styles, or layers that differ.
    """
    if len(members) < 2:
        raise ShapeError(explain("at least two styles", f"{len(members)}", "spread_terms", "draw more"))
    return torch.stack([perceptual_terms(one, two) for one, two in combinations(members, 2)]).mean(0)


def _unit(features: Tensor) -> Tensor:
    values = features.double().flatten(2) if features.dim() > 2 else features.double()[:, :, None]
    return values / values.square().sum(1, keepdim=True).sqrt().clamp_min(FLOOR)
