"""What two images share without any classifier: coarse light and edges."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["structure_loss"]

LARGEST = 16


def structure_loss(output: Tensor, content: Tensor) -> Tensor:
    """`mean |coarse(output) - coarse(content)| + mean |edges(output) - edges(content)|` of the luminance.

    The only thing that holds the content where sides are unpaired and no feature extractor is given: colours are free,
    coarse light and the strength of edges are not. Coarse is the average over squares of an eighth of the short side,
    at most 16 pixels; edges are the absolute differences of neighbours.

    Args:
        output: What the translator made, `(batch, channels, height, width)`.
        content: What it was made from; its channels may be others.
    """
    ours, theirs = (image.float().mean(1, keepdim=True) for image in (output, content))
    side = max(1, min(LARGEST, min(ours.shape[2:]) // 8))
    coarse = (F.avg_pool2d(ours, side) - F.avg_pool2d(theirs, side)).abs().mean()
    edges = [
        (ours.diff(dim=axis).abs() - theirs.diff(dim=axis).abs()).abs().mean()
        for axis in (2, 3)
        if ours.shape[axis] > 1
    ]
    return coarse + (torch.stack(edges).mean() if edges else 0.0)
