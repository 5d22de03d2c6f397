"""Xavier initialisation of translators and discriminators."""

from torch import nn

from pluriform.translate.fade import FADE
from pluriform.translate.spectral_norm import SpectralConv2d

__all__ = ["xavier_initialise"]

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def xavier_initialise(network: nn.Module, gain: float | int = 0.02) -> None:
    """Weights from N(0, gain^2 * 2 / (fan-in + fan-out)), biases zero, directions of spectral norms anew.

    Gamma and beta of a FADE count as two convolutions. Draws from torch's default generator, as `reset_parameters` does
    everywhere; `training.initialisation.reinitialise` gives it a seed.

    Args:
        network: Changed in place.
        gain: Factor of the deviation.

    References:
        Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
    """
    halved = {part.modulation for part in network.modules() if isinstance(part, FADE)}
    for layer in network.modules():
        if not isinstance(layer, WEIGHTED):
            continue
        for part in layer.weight.chunk(2) if layer in halved else (layer.weight,):
            nn.init.xavier_normal_(part, gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if isinstance(layer, SpectralConv2d):
            layer.draw_directions()
