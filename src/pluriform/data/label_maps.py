"""Label maps: their ids are checked, counted and spread over channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pluriform.errors import LabelError, explain

__all__ = ["check_ids", "histogram", "one_hot"]

SHOWN = 8


def check_ids(ids: Tensor, classes: Sequence[str], where: str) -> None:
    """Raise where an id of one label map is none of the classes.

    Args:
        ids: Of any shape and type.
        classes: Names in id order.
        where: The file or sample.

    Raises:
        LabelError: Names the value, and how often each value occurs.

    Example:
        >>> check_ids(torch.tensor([0, 1, 1, 7]), ("wall", "door"), "b.png")
        Traceback (most recent call last):
        ...
        pluriform.errors.LabelError: expected label ids 0..1 for 2 classes; got 7, 1 pixel of it (b.png; its values: \
1 in 2 pixels, 0 in 1, 7 in 1). To fix: name all classes, or correct the file.
    """
    least, most = (float(end) for end in torch.aminmax(ids)) if ids.numel() else (0.0, 0.0)
    if least >= 0 and most < len(classes) and (not ids.is_floating_point() or bool((ids == ids.round()).all())):
        return
    wrong = (ids < 0) | (ids >= len(classes)) | (ids != ids.round())
    value = ids[wrong].flatten()[0].item()
    count = int((ids == value).sum())
    raise LabelError(
        explain(
            f"label ids 0..{len(classes) - 1} for {len(classes)} classes",
            f"{value:g}, {count} pixel{'s' if count > 1 else ''} of it",
            f"{where}; its values: {histogram(ids)}",
            "name all classes, or correct the file"
            + ("; 255 means unlabelled where the last class is called unknown" if value == 255 else ""),
        )
    )


def histogram(ids: Tensor) -> str:
    """How many pixels have each value, the most frequent first."""
    values, counts = torch.unique(ids, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    pairs = list(zip(values[order].tolist(), counts[order].tolist(), strict=True))
    words = [f"{value:g} in {count}" for value, count in pairs[:SHOWN]]
    words[0] += " pixels"
    return ", ".join(words) + (f" and {len(pairs) - SHOWN} further" if len(pairs) > SHOWN else "")


def one_hot(ids: Tensor, classes: int) -> Tensor:
    """A channel for each class, from ids `(batch, 1, height, width)`; the type of `ids` is kept.

    Example:
        >>> one_hot(torch.tensor([[[[0.0, 2.0]]]]), 3).flatten(1)
        tensor([[1., 0., 0., 0., 0., 1.]])
    """
    known = torch.arange(classes, device=ids.device, dtype=ids.dtype)[:, None, None]
    return (ids == known).to(ids.dtype)
