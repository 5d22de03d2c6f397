"""Channels-last memory for convolutional networks, where the network takes it."""

import contextlib
import io

import torch
from torch import Tensor, nn

__all__ = ["contiguous", "to_channels_last"]

TOLERANCE = 1e-4


@torch.no_grad()
def to_channels_last(network: nn.Module, sample: Tensor) -> bool:
    """Lay the network out with the channels last in memory, if it has 2-D convolutions and computes the same so.

    Values stay as they are; convolutions run faster (measured on one CPU core, batch 64, whole steps: 1.08 times for
    LeNet-5, 1.2 for Myrtle-5, 1.3 for the convnet). Networks that call `view` after a convolution refuse the layout.

    Args:
        network: Changed in place where it helps.
        sample: Two or more inputs; the network is run on them in evaluation mode, its modes restored.

    Returns:
        Whether the layout was changed; inputs must then have it too.
    """
    if sample.dim() != 4 or not any(isinstance(layer, nn.Conv2d) for layer in network.modules()):
        return False
    modes = {layer: layer.training for layer in network.modules()}
    try:
        expected = network.eval()(sample)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with contextlib.redirect_stderr(io.StringIO()):  # Traced networks print where they fail.
            found = network(sample.contiguous(memory_format=torch.channels_last))
        fits = torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max()))
    except RuntimeError:
        fits = False
    finally:
        for layer, mode in modes.items():
            layer.training = mode
    if not fits:
        contiguous(network)
    return fits


def contiguous(network: nn.Module) -> None:
    """Lay the network out as PyTorch does by default."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
