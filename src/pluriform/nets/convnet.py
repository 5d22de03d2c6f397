"""ConvNet: the small convolutional network of the few-shot and distillation literature."""

from torch import Tensor, nn

from pluriform.nets.initialisation import he_initialise

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Three blocks of 3x3 convolution, ReLU and 2x2 average pooling, then one linear layer.

    Args:
        input_shape: `(channels, height, width)`, at least 8x8.
        outputs: Output width.
        width: Channels of every block.
        norm: BatchNorm after every convolution.

    References:
        Gidaris, Komodakis 2018, Dynamic Few-Shot Visual Learning without Forgetting, arXiv:1804.09458.
    """

    def __init__(self, input_shape: tuple[int, ...], outputs: int, *, width: int = 64, norm: bool = False) -> None:
        super().__init__()
        channels, height, rows = input_shape
        layers: list[nn.Module] = []
        for before in (channels, width, width):
            layers += [nn.Conv2d(before, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else [])]
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(width * (height // 8) * (rows // 8), outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, outputs)`."""
        return self.classifier(self.features(x))
