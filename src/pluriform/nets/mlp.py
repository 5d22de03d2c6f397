"""Multi-layer perceptron."""

import itertools
import math

from torch import Tensor, nn

from pluriform.nets.initialisation import he_initialise

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear and ReLU layers on flattened inputs.

    Args:
        input_shape: Shape of one input.
        outputs: Output width.
        hidden: Widths of the hidden layers.
        norm: BatchNorm before every ReLU.
    """

    def __init__(
        self, input_shape: tuple[int, ...], outputs: int, *, hidden: tuple[int, ...] = (256, 256), norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        widths = (math.prod(input_shape), *hidden)
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, *input_shape)` to `(batch, outputs)`."""
        return self.layers(x)
