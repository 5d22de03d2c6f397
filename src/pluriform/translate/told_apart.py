"""How well a discriminator tells real from fake."""

import torch
from torch import Tensor

from pluriform.translate.losses import Outputs

__all__ = ["told_apart"]


def told_apart(real: Outputs, fake: Outputs, threshold: float | int = 0.0) -> Tensor:
    """Share of patches on the right side of the threshold, mean over scales and both kinds: 0.5 is guessing."""
    shares = [(scale[-1].detach() > threshold).double().mean() for scale in real]
    shares += [(scale[-1].detach() <= threshold).double().mean() for scale in fake]
    return torch.stack(shares).mean()
