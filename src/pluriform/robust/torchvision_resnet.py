"""A ResNet built from the names and shapes of its weights, in the layout of torchvision and of the robustness package.

    stem     conv1 (7x7, stride 2, then max-pooling; or 3x3 for small images), bn1
    stages   layer1, layer2, ...: blocks with conv1, bn1, conv2, bn2 (conv3, bn3) and downsample (or shortcut)
    head     fc (or linear)

Depth, widths, groups and classes are read off the shapes; strides, which are not weights, are the published ones: 2 at
the first block of every stage but the first, on its 3x3 convolution.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["ResNet", "resnet_of"]

Shapes = Mapping[str, tuple[int, ...]]


class _Block(nn.Module):
    """Two or three convolutions, each with batch normalisation, plus a shortcut."""

    def __init__(self, shapes: Shapes, at: str, stride: int) -> None:
        super().__init__()
        count = 3 if f"{at}conv3.weight" in shapes else 2
        for number in range(1, count + 1):
            after, within, size, _ = shapes[f"{at}conv{number}.weight"]
            before = shapes[f"{at}conv{number - 1}.weight"][0] if number > 1 else within
            strided = stride if number == count - 1 else 1
            conv = nn.Conv2d(before, after, size, strided, size // 2, groups=before // within, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
        self.relu = nn.ReLU()
        self._count = count
        self._shortcut = next((name for name in ("downsample", "shortcut") if f"{at}{name}.0.weight" in shapes), None)
        if self._shortcut:
            after, before = shapes[f"{at}{self._shortcut}.0.weight"][:2]
            projection = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            self.add_module(self._shortcut, projection)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self._count + 1):
            y = y if number == 1 else self.relu(y)
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
        return self.relu(y + (getattr(self, self._shortcut)(x) if self._shortcut else x))


class ResNet(nn.Module):
    """The ResNet whose weights have these shapes: ResNet-18 to 152, wide ones, ResNeXt, and kin for small images.

    Args:
        shapes: Name of each weight to its shape.

    References:
        He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385.
        Xie et al. 2017, Aggregated Residual Transformations for Deep Neural Networks, arXiv:1611.05431.
        Zagoruyko, Komodakis 2016, Wide Residual Networks, arXiv:1605.07146.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        width, channels, size, _ = shapes["conv1.weight"]
        self.conv1 = nn.Conv2d(channels, width, size, 2 if size > 3 else 1, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if size > 3 else nn.Identity()
        stages, stage = [], 1
        while f"layer{stage}.0.conv1.weight" in shapes:
            name, blocks = f"layer{stage}", []
            while f"{name}.{len(blocks)}.conv1.weight" in shapes:
                stride = 2 if stage > 1 and not blocks else 1
                blocks.append(_Block(shapes, f"{name}.{len(blocks)}.", stride))
            self.add_module(name, nn.Sequential(*blocks))
            stages.append(name)
            stage += 1
        self._stages = tuple(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self._head = "fc" if "fc.weight" in shapes else "linear"
        classes, features = shapes[f"{self._head}.weight"]
        self.add_module(self._head, nn.Linear(features, classes, bias=f"{self._head}.bias" in shapes))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, classes)`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self._stages:
            x = getattr(self, name)(x)
        return getattr(self, self._head)(self.avgpool(x).flatten(1))


def resnet_of(shapes: Shapes) -> ResNet | None:
    """The ResNet of these shapes, without memory for its weights; nothing where they are of another kind.

    Example:
        >>> resnet_of({"conv1.weight": (8, 3, 3, 3)}) is None
        True
    """
    try:
        with torch.device("meta"):
            return ResNet(shapes)
    except (KeyError, ValueError, ZeroDivisionError, RuntimeError, OverflowError, TypeError):
        return None
