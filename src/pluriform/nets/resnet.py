"""ResNets for small images: ResNet-20 and its deeper kin, and wide residual networks."""

from torch import Tensor, nn

from pluriform.nets.initialisation import he_initialise

__all__ = ["ResNet", "WideResNet"]


def _norm(channels: int, norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm else nn.Identity()


class _Block(nn.Module):
    """conv - norm - ReLU - conv - norm, plus a shortcut, then ReLU."""

    def __init__(self, before: int, after: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=not norm)
        self.norm1 = _norm(after, norm)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=not norm)
        self.norm2 = _norm(after, norm)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=not norm), _norm(after, norm))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of residual blocks with 16, 32 and 64 channels, global average pooling, one linear layer.

    Args:
        input_shape: `(channels, height, width)`.
        outputs: Output width.
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110.
        width: Channels of the first stage.
        norm: BatchNorm, as published; without it the layers carry biases.

    References:
        He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385, section 4.2, with
        projection shortcuts (option B).
    """

    def __init__(
        self, input_shape: tuple[int, ...], outputs: int, *, depth: int = 20, width: int = 16, norm: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, 1, 1, bias=not norm), _norm(width, norm), nn.ReLU()
        )
        before, blocks = width, []
        for stage in range(3):
            for position in range((depth - 2) // 6):
                after = width * 2**stage
                blocks.append(_Block(before, after, 2 if stage and not position else 1, norm))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, outputs)`."""
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))


class _WideBlock(nn.Module):
    """Pre-activation block: norm - ReLU - conv - norm - ReLU - conv, plus a shortcut."""

    def __init__(self, before: int, after: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = _norm(before, norm)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=not norm)
        self.norm2 = _norm(after, norm)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=not norm)
        self.relu = nn.ReLU()
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=not norm) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(self.relu(self.norm2(self.conv1(y)))) + skip


class WideResNet(nn.Module):
    """WRN-d-k: three stages of pre-activation blocks with 16k, 32k and 64k channels.

    Args:
        input_shape: `(channels, height, width)`.
        outputs: Output width.
        depth: 6n + 4: 10, 16, 22, 28, 40.
        widen: The factor k.
        norm: BatchNorm, as published; without it the layers carry biases.

    References:
        Zagoruyko, Komodakis 2016, Wide Residual Networks, arXiv:1605.07146.
    """

    def __init__(
        self, input_shape: tuple[int, ...], outputs: int, *, depth: int = 16, widen: int = 4, norm: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_shape[0], 16, 3, 1, 1, bias=not norm)
        before, blocks = 16, []
        for stage in range(3):
            for position in range((depth - 4) // 6):
                after = 16 * widen * 2**stage
                blocks.append(_WideBlock(before, after, 2 if stage and not position else 1, norm))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(before, norm)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, outputs)`."""
        return self.classifier(self.pool(self.relu(self.norm(self.blocks(self.stem(x))))).flatten(1))
