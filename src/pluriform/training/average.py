"""Exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pluriform.graph.parameters import weights_of
from pluriform.training.checkpoint import load_weights

__all__ = ["MovingAverage"]


class MovingAverage:
    """theta_bar <- d theta_bar + (1 - d) theta after every step, d = min(decay, (1 + t) / (10 + t)) at step t.

    Floating-point buffers (batch statistics) are averaged too. Others are taken as they are, and so are the directions
    of PyTorch's spectral norm, whose average would be shorter than 1.

    Args:
        network: Gives the weights.
        decay: Upper limit of d.

    References:
        Polyak, Juditsky 1992, Acceleration of Stochastic Approximation by Averaging.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.weights = {name: tensor.detach().clone() for name, tensor in weights_of(network).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        current = weights_of(self.network)
        floating = [name for name, tensor in current.items() if tensor.is_floating_point() and not _direction(name)]
        averages, values = [self.weights[name] for name in floating], [current[name].detach() for name in floating]
        torch._foreach_lerp_(averages, values, share)  # type: ignore[attr-defined]
        for name in current.keys() - set(floating):
            self.weights[name].copy_(current[name])

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put back averages from a checkpoint."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])

    @contextmanager
    def applied(self) -> Iterator[dict[str, Tensor]]:
        """The network holds the averages inside."""
        kept = {name: tensor.detach().clone() for name, tensor in weights_of(self.network).items()}
        load_weights(self.network, self.weights)
        try:
            yield self.weights
        finally:
            load_weights(self.network, kept)


def _direction(name: str) -> bool:
    """Whether that is a singular vector in `torch.nn.utils.parametrizations.spectral_norm`, or in the older hook."""
    path, _, last = name.rpartition(".")
    return (".parametrizations." in f".{path}." and last in ("_u", "_v")) or last in ("weight_u", "weight_v")
