"""What two images share without any classifier: their edges, fine and coarse."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["structure_loss"]

LARGEST = 16


def structure_loss(output: Tensor, content: Tensor) -> Tensor:
    """`mean |edges(output) - edges(content)|` of the luminance, and the same of its averages over squares.

    The only thing that holds the content where sides are unpaired and no feature extractor is given. Edges are the
    absolute differences of neighbours: where shapes end is held, colours, light and dark are free, so that a black
    ground may become white. Squares have an eighth of the short side, at most 16 pixels.

    Args:
        output: What the translator made, `(batch, channels, height, width)`.
        content: What it was made from; its channels may be others.
    """
    ours, theirs = (image.float().mean(1, keepdim=True) for image in (output, content))
    side = max(1, min(LARGEST, min(ours.shape[2:]) // 8))
    return _between(ours, theirs) + _between(F.avg_pool2d(ours, side), F.avg_pool2d(theirs, side))


def _between(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean absolute difference of edges, both directions alike."""
    differences = [
        (ours.diff(dim=axis).abs() - theirs.diff(dim=axis).abs()).abs().mean()
        for axis in (2, 3)
        if ours.shape[axis] > 1
    ]
    return torch.stack(differences).mean() if differences else (ours * 0.0).sum()
