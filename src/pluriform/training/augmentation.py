"""Random shifts, flips and crops of image batches, seeded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images `(batch, channels, height, width)`; all zero, the default, changes nothing.

    Args:
        shift: Move by up to this many pixels along both axes; what comes in is black (the lowest input).
        flip: Mirror left and right with this probability; 0.5 for objects, 0 for digits and letters.
        crop: Cut out this many pixels less in height and width at a random place, scaled back to size (bilinear).
    """

    shift: int = 0
    flip: float | int = 0.0
    crop: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0 or self.crop < 0 or not 0 <= self.flip <= 1:
            raise ConfigError(
                explain(
                    "shift and crop of 0 or more pixels and flip in [0, 1]",
                    f"shift={self.shift}, flip={self.flip}, crop={self.crop}",
                    "Augmentation",
                    "use flip=0.5, shift=2 as a start",
                )
            )

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return bool(self.shift or self.flip or self.crop)

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Raise `ShapeError` where there is something to do and the inputs are not images larger than it."""
        if self.active and (len(input_shape) != 3 or min(input_shape[1:]) <= max(self.shift, self.crop)):
            raise ShapeError(
                explain(
                    f"images (channels, height, width) larger than {max(self.shift, self.crop)} pixels",
                    f"inputs of shape {input_shape}",
                    "augmentation",
                    "leave augmentation off for tables, or make it smaller",
                )
            )

    def apply(self, images: Tensor, low: float, generator: torch.Generator) -> Tensor:
        """Changed copies of `images`, each sample by draws of its own.

        Args:
            images: `(batch, channels, height, width)`.
            low: Lowest legal input, which fills what a shift leaves empty.
            generator: On the CPU; the same state gives the same images.
        """
        if self.crop:
            images = self._cropped(images, generator)
        if self.shift:
            images = self._shifted(images, low, generator)
        if self.flip:
            mirrored = (torch.rand(len(images), generator=generator) < self.flip).to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return images

    def _shifted(self, images: Tensor, low: float, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        moves = torch.randint(0, 2 * self.shift + 1, (2, count, 1), generator=generator).to(images.device)
        padded = torch.nn.functional.pad(images, (self.shift,) * 4, value=low)
        rows = (moves[0] + torch.arange(height, device=images.device))[:, None, :, None]
        columns = (moves[1] + torch.arange(width, device=images.device))[:, None, None, :]
        samples = torch.arange(count, device=images.device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        return padded[samples, channels, rows, columns]

    def _cropped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        corners = torch.rand(2, count, generator=generator).to(images)
        scale_y, scale_x = (height - self.crop) / height, (width - self.crop) / width
        affine = images.new_zeros(count, 2, 3)
        affine[:, 0, 0], affine[:, 1, 1] = scale_x, scale_y
        affine[:, 0, 2] = (2 * corners[0] - 1) * (1 - scale_x)
        affine[:, 1, 2] = (2 * corners[1] - 1) * (1 - scale_y)
        grid = torch.nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
        return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
