"""He initialisation of a whole network."""

from torch import nn

__all__ = ["he_initialise"]

WEIGHTED = (nn.Linear, nn.Conv2d)


def he_initialise(network: nn.Module) -> None:
    """Weights from N(0, 2 / fan-in), those of the last weighted layer from N(0, 1 / fan-in), biases zero.

    Draws from torch's default generator, as `reset_parameters` does everywhere.

    References:
        He, Zhang, Ren, Sun 2015, Delving Deep into Rectifiers, arXiv:1502.01852.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, WEIGHTED)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is layers[-1] else "relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.reset_parameters()
