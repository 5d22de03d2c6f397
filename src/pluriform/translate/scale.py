"""Images in the bounds of their data, and in the [-1, 1] that translators compute in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.data.data import Data
from pluriform.data.label_maps import one_hot
from pluriform.errors import BoundsError, explain

__all__ = ["Scale"]


@dataclass(frozen=True)
class Scale:
    """Between a data set and a network.

    Attributes:
        low: Lowest legal pixel of the data.
        high: Highest.
        classes: Of the label maps that contents are; 0 where they are pictures.
        channels: Of contents as the network sees them.
        outputs: Channels of targets.
    """

    low: float
    high: float
    classes: int
    channels: int
    outputs: int

    @staticmethod
    def of(data: Data) -> "Scale":
        """The scale of a data set.

        Raises:
            BoundsError: Its bounds are unknown.
        """
        if data.bounds is None:
            remedy = "give bounds= to load, or scale the images to [0, 1]"
            raise BoundsError(explain("images with known bounds", "none", data.name, remedy))
        classes = len(data.classes)
        outputs = int(data.train.batch(torch.arange(1))[1].shape[1])
        return Scale(float(data.bounds[0]), float(data.bounds[1]), classes, classes or data.input_shape[0], outputs)

    def content(self, images: Tensor) -> Tensor:
        """What the network sees of contents: one channel a class, or pixels in [-1, 1]."""
        return one_hot(images, self.classes) if self.classes else self.picture(images)

    def picture(self, images: Tensor) -> Tensor:
        """Pixels in [-1, 1]."""
        return (images - self.low) * (2 / (self.high - self.low)) - 1

    def back(self, images: Tensor) -> Tensor:
        """Pixels within the bounds of the data, from [-1, 1]."""
        return (images + 1) * ((self.high - self.low) / 2) + self.low
