"""`ImageFeed`: batches of contents, targets and styles in an order that only seed and update decide."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import ConfigError, explain
from pluriform.training.feed import resident
from pluriform.training.seeds import derive_seed
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.scale import Scale

__all__ = ["ImageBatch", "ImageFeed"]


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """What one update sees, as networks take it.

    Attributes:
        content: `(batch, channels, height, width)` in [-1, 1], or one-hot label maps.
        target: In [-1, 1]: the truth of each content where they are pairs, otherwise images of the other side.
        seed: Of whatever is drawn for this batch.
    """

    content: Tensor
    target: Tensor
    seed: int

    def generator(self, *place: int | str) -> torch.Generator:
        """A generator for one draw, on the CPU."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *place))


class ImageFeed:
    """Batches of the training split on `device`.

    Every epoch has an order of its own; where sides are unpaired each has one, so that every content meets another
    target each time, and the shorter side is gone round more often. Batches are always full. Mirroring and cropping are
    the same for a content and its target; where they are no pairs pieces are cut out independently.

    Args:
        data: Data set for translation.
        recipe: Its batch size, flip and crop count.
        scale: Of the data.
        seed: Of orders and draws.
        device: Where the batches go.
        paired: Whether to keep pairs together; by default where they are such.

    Raises:
        ConfigError: A crop larger than the images, or sides of different sizes without one.
    """

    def __init__(
        self,
        data: Data,
        recipe: GameRecipe,
        scale: Scale,
        seed: int,
        device: torch.device,
        paired: bool | None = None,
    ) -> None:
        self.split = resident(data.train, device)
        self.recipe, self.scale, self.seed, self.device = recipe, scale, seed, device
        self.paired = data.paired if paired is None else paired
        self._orders: dict[tuple[str, int], Tensor] = {}
        self._check_sizes(data.name)

    def at(self, update: int) -> ImageBatch:
        """The batch of an update."""
        size = self.recipe.batch_size
        places = torch.arange(update * size, (update + 1) * size)
        first, second = self._counts
        content = self._index("content", places, first)
        other = content if self.paired else self._index("target", places, second)
        inputs, targets = (side.to(self.device) for side in self._take(content, other))
        seed = derive_seed(self.seed, "update", update)
        generator = torch.Generator().manual_seed(derive_seed(seed, "augmentation"))
        inputs, targets = self._mirrored(inputs, targets, generator)
        if self.recipe.crop is not None:
            inputs, targets = self._cropped(inputs, targets, generator)
        return ImageBatch(self.scale.content(inputs), self.scale.picture(targets), seed)

    def _check_sizes(self, name: str) -> None:
        first = torch.zeros(1).long()
        heights_widths = [tuple(int(side) for side in images.shape[2:]) for images in self._take(first, first)]
        words = " and ".join(dict.fromkeys(f"{height}x{width}" for height, width in heights_widths))
        crop, least = self.recipe.crop, min(min(sides) for sides in heights_widths)
        if crop is not None and crop > least:
            expected, remedy = f"a crop of at most {least} pixels", "make it smaller, or load with a larger size="
            raise ConfigError(explain(expected, f"crop={crop} for images of {words}", name, remedy))
        if crop is None and len(set(heights_widths)) > 1:
            expected, remedy = "both sides of one size", "load with size=, or train on pieces with crop="
            raise ConfigError(explain(expected, f"images of {words}", name, remedy))

    @property
    def _counts(self) -> tuple[int, int]:
        split = self.split
        return (len(split), len(split)) if isinstance(split, StreamSplit) else (len(split.inputs), len(split.targets))

    def _index(self, side: str, places: Tensor, count: int) -> Tensor:
        """Which images stand at places of an endless row of epochs."""
        epochs = places // count
        found = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            key = (side, epoch)
            if key not in self._orders:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", side, epoch))
                self._orders = {k: order for k, order in self._orders.items() if k[1] >= epoch - 1 or k[0] != side}
                self._orders[key] = torch.randperm(count, generator=generator)
            chosen = epochs == epoch
            found[chosen] = self._orders[key][places[chosen] % count]
        return found

    def _take(self, content: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        split = self.split
        if isinstance(split, Split):
            inputs, targets = split.inputs, split.targets
            return inputs[content.to(inputs.device)], targets[other.to(targets.device)]
        return split.batch(content)[0], split.batch(other)[1]

    def _mirrored(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(len(inputs), generator=generator) < self.recipe.flip
        where = chosen.to(inputs.device)[:, None, None, None]
        return torch.where(where, inputs.flip(-1), inputs), torch.where(where, targets.flip(-1), targets)

    def _cropped(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shares = torch.rand(2, len(inputs), 2, generator=generator)
        first = self._pieces(inputs, shares[0])
        return first, self._pieces(targets, shares[0 if self.paired else 1])

    def _pieces(self, images: Tensor, shares: Tensor) -> Tensor:
        side = int(self.recipe.crop or 0)
        room = torch.tensor([images.shape[2] - side + 1, images.shape[3] - side + 1])
        corners = (shares * room).long().minimum(room - 1).tolist()
        pieces = [
            image[:, top : top + side, left : left + side] for image, (top, left) in zip(images, corners, strict=True)
        ]
        return torch.stack(pieces)
