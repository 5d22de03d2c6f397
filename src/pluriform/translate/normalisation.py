"""Norms of a translator's trunk, all without affine parameters: batch, instance, and one over all channels jointly."""

import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["InstanceNorm", "JointNorm", "NORMS", "recommended_norm", "trunk_norm"]

NORMS = ("batch", "instance", "joint")
SMALLEST_BATCH = 4


class JointNorm(nn.Module):
    """`(x - mean) / sqrt(var + eps)` with mean and variance of each sample over all channels and positions.

    Ratios between channels pass through, so what FAdaIN gave the channels is kept, also at batch 1; and training and
    evaluation compute the same.

    Example:
        >>> import torch
        >>> y = JointNorm()(torch.arange(8.0).view(1, 2, 2, 2))
        >>> bool(y.mean().abs() < 1e-6), bool(y[0, 1].mean() > y[0, 0].mean())
        (True, True)
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(batch, channels, height, width)`."""
        return F.group_norm(x, 1, eps=self.eps)


class InstanceNorm(nn.Module):
    """`(x - mean) / sqrt(var + eps)` of each sample and channel over its positions.

    Raises:
        ShapeError: There is one position only, which would always become zero.

    References:
        Ulyanov, Vedaldi, Lempitsky 2016, Instance Normalization, arXiv:1607.08022.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(batch, channels, height, width)`."""
        if x.shape[2] * x.shape[3] < 2:
            raise ShapeError(
                explain(
                    "at least 2 positions a channel for instance norm",
                    f"{x.shape[2]}x{x.shape[3]}",
                    "InstanceNorm",
                    "use fewer levels or larger images",
                )
            )
        return F.instance_norm(x, eps=self.eps)


def trunk_norm(kind: str, channels: int) -> nn.Module:
    """The norm N of FADE.

    Args:
        kind: `batch` as published (statistics of the batch in training, running ones in evaluation;
            `nn.SyncBatchNorm.convert_sync_batchnorm` makes it span devices), `instance`, or `joint`.
        channels: Of its input.

    Raises:
        ConfigError: Another kind.

    Example:
        >>> sum(p.numel() for p in trunk_norm("batch", 8).parameters())
        0
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=False)
    if kind == "instance":
        return InstanceNorm()
    if kind == "joint":
        return JointNorm()
    raise ConfigError(explain(f"a norm of {', '.join(NORMS)}", repr(kind), "trunk norm", "name one of them"))


def recommended_norm(batch_per_device: int) -> str:
    """`batch` from 4 images a device on, else `joint`.

    BatchNorm over one image is instance norm, which takes away what FAdaIN gave the channels: swapping the style then
    changes almost nothing where the shortcut is not the identity.
    """
    return "batch" if batch_per_device >= SMALLEST_BATCH else "joint"
