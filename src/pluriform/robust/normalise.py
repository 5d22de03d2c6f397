"""`Normalise`: the first layer of a network that takes images in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalise"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Each channel less its mean, over its standard deviation: `(x - mean) / std`.

    Inputs are not clamped to [0, 1]: attacks stay in that box by themselves, outside the graph.

    Args:
        mean: One number a channel, or one for all, in units of inputs in [0, 1].
        std: The same, positive.

    Raises:
        ConfigError: They differ in length, are not finite, or belong to inputs in another range.

    Example:
        >>> Normalise([0.5], [0.25])(torch.ones(1, 1, 2, 2)).unique()
        tensor([2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float | int] = IMAGENET_MEAN, std: Sequence[float | int] = IMAGENET_STD) -> None:
        super().__init__()
        means, stds = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        sound = len(means) == len(stds) > 0 and bool(torch.isfinite(means).all() and torch.isfinite(stds).all())
        if not sound or not bool((stds > 0).all()) or float(means.abs().max()) > 1 or float(stds.max()) > 2:
            raise ConfigError(
                explain(
                    "a mean within [0, 1] and a positive standard deviation for every channel of inputs in [0, 1]",
                    f"mean {[round(m, 4) for m in means.tolist()]}, std {[round(s, 4) for s in stds.tolist()]}",
                    "Normalise",
                    "divide figures for inputs in 0..255 by 255",
                )
            )
        self.register_buffer("mean", means.view(-1, 1, 1))
        self.register_buffer("std", stds.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(batch, channels, height, width)`."""
        return (x - self.mean) / self.std
