"""LeNet-5."""

import torch
from torch import Tensor, nn

from pluriform.nets.initialisation import he_initialise

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """Two 5x5 convolutions with 2x2 average pooling, three linear layers; ReLU for the original tanh.

    61,706 parameters on 1x28x28 with 10 classes. Maps too small for an unpadded 5x5 filter keep their size instead.

    Args:
        input_shape: `(channels, height, width)`, at least 8x8.
        outputs: Output width.
        norm: BatchNorm after both convolutions.

    References:
        LeCun, Bottou, Bengio, Haffner 1998, Gradient-Based Learning Applied to Document Recognition.
    """

    def __init__(self, input_shape: tuple[int, ...], outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        channels, height, width = input_shape
        small = min(height, width) < 12
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            *([nn.BatchNorm2d(6)] if norm else []),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5, padding=2 if small else 0),
            *([nn.BatchNorm2d(16)] if norm else []),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.features.eval()(torch.zeros(1, *input_shape)).shape[1]
        self.train()
        self.classifier = nn.Sequential(
            nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, outputs)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, outputs)`."""
        return self.classifier(self.features(x))
