"""Label maps against label maps: pixel accuracy and intersection over union."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pluriform.errors import LabelError, ShapeError, explain

__all__ = ["confusion", "intersection_over_union", "mean_iou", "pixel_accuracy"]

Maps = Int[Tensor, "_ _ _"]
Counts = Int[Tensor, "classes classes"]


def confusion(predicted: Maps, truth: Maps, classes: int) -> Counts:
    """Pixels by true class (row) and predicted class (column).

    Args:
        predicted: Class ids.
        truth: Class ids.
        classes: How many.

    Raises:
        ShapeError: The maps differ in shape.
        LabelError: An id of no class.
    """
    if predicted.shape != truth.shape:
        got = f"{tuple(predicted.shape)} and {tuple(truth.shape)}"
        raise ShapeError(explain("label maps of one shape", got, "confusion", "resize one by its nearest pixels"))
    for name, ids in (("predicted", predicted), ("true", truth)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < classes:
            got = f"{int(ids.min())}..{int(ids.max())}"
            raise LabelError(explain(f"{name} ids 0..{classes - 1}", got, "confusion", "check the label maps"))
    pairs = (truth.long() * classes + predicted.long()).flatten()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def pixel_accuracy(counts: Counts) -> float:
    """Share of the pixels with the true class."""
    return float(counts.diagonal().sum() / counts.sum())


def intersection_over_union(counts: Counts) -> Float[Tensor, "classes"]:
    """Pixels of both over pixels of either, by class; NaN where a class neither occurs nor is predicted."""
    both = counts.diagonal().double()
    return both / (counts.sum(0) + counts.sum(1) - both)


def mean_iou(counts: Counts) -> float:
    """Mean over the classes that occur in truth.

    A class that is predicted and never true lowers the figures of the others; it has none of its own, so that a rare
    class of few test images does not decide the mean.

    Example:
        >>> round(mean_iou(torch.tensor([[3, 1], [2, 4]])), 6)  # (3 / 6 + 4 / 7) / 2
        0.535714
    """
    return float(intersection_over_union(counts)[counts.sum(1) > 0].mean())
