"""Myrtle-5, -7 and -10."""

from torch import Tensor, nn

from pluriform.nets.initialisation import he_initialise

__all__ = ["Myrtle"]

BLOCKS = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}


class Myrtle(nn.Module):
    """Stages of 3x3 convolution and ReLU, with 2x2 average pooling between them and a global average at the end.

    Args:
        input_shape: `(channels, height, width)`, at least 8x8.
        outputs: Output width.
        depth: 5, 7 or 10 convolutions and linear layers.
        width: Channels of the first stage; doubled at each further one.
        norm: BatchNorm after every convolution.

    References:
        Shankar, Fang, Guo, Fridovich-Keil, Schmidt, Ragan-Kelley, Recht 2020, Neural Kernels Without Tangents,
        arXiv:2003.02237.
    """

    def __init__(
        self, input_shape: tuple[int, ...], outputs: int, *, depth: int = 5, width: int = 64, norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = input_shape[0]
        for stage, count in enumerate(BLOCKS[depth]):
            after = width * 2**stage
            layers += [nn.AvgPool2d(2)] if stage else []
            for _ in range(count):
                layers += [
                    nn.Conv2d(before, after, 3, padding=1),
                    *([nn.BatchNorm2d(after)] if norm else []),
                    nn.ReLU(),
                ]
                before = after
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(before, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, outputs)`."""
        return self.classifier(self.features(x))
