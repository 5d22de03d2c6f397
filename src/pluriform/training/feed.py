"""`Feed`: the batches of a training split, in an order that only seed and epoch decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.training.augmentation import Augmentation
from pluriform.training.seeds import derive_seed

__all__ = ["Batch", "Feed", "resident"]

ROOM = 0.5  # Share of the free device memory that a split may take.


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs and targets of one step; with a leading member axis where members are trained together.

    Attributes:
        inputs: Augmented.
        targets: Labels or values.
        index: Which samples of the training split they are, on the CPU; `None` where nobody says.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor | None = None


class Feed:
    """Batches of the training split of `data` on `device`.

    The permutation of an epoch and the augmentation of a batch depend on seed, epoch and position alone, so a resumed
    training sees the same batches. A last batch of a single sample is left out, since batch statistics need two.

    Args:
        data: Data set.
        batch_size: Samples a step (and member).
        seeds: One seed; or one a member, and each batch gets a leading member axis.
        augmentation: Random changes of the inputs.
        device: Where the batches go. A split in memory is moved there at once if it takes at most half the free room.

    Attributes:
        memory_format: Of the inputs of one network; `training_step` sets channels last where the network takes it.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        seeds: int | Sequence[int],
        augmentation: Augmentation,
        device: torch.device,
    ) -> None:
        augmentation.check(data.input_shape)
        self.split = resident(data.train, device)
        self.batch_size = batch_size
        self.seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        self.stacked = not isinstance(seeds, int)
        self.memory_format = torch.contiguous_format
        self.augmentation = augmentation
        self.device = device
        self.low = data.bounds[0] if data.bounds else 0.0
        samples = len(self.split)
        self.steps = max(1, samples // batch_size + (samples % batch_size > 1))

    def sample(self) -> Tensor:
        """The first two inputs, for a trial."""
        inputs, _ = take(self.split, torch.arange(min(2, len(self.split))))
        return inputs.to(self.device)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from step `start` on."""
        orders = [_permutation(len(self.split), derive_seed(seed, "order", epoch)) for seed in self.seeds]
        order = torch.stack(orders)
        for step in range(start, self.steps):
            index = order[:, step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(index, epoch, step)

    def _batch(self, index: Tensor, epoch: int, step: int) -> Batch:
        inputs, targets = take(self.split, index.flatten())
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        if self.augmentation.active:
            inputs = self._augmented(inputs, epoch, step)
        if not self.stacked:
            return Batch(inputs.contiguous(memory_format=self.memory_format), targets, index[0])
        return Batch(inputs.unflatten(0, index.shape), targets.unflatten(0, index.shape), index)

    def _augmented(self, inputs: Tensor, epoch: int, step: int) -> Tensor:
        parts = inputs.chunk(len(self.seeds))
        return torch.cat(
            [
                self.augmentation.apply(part, self.low, _generator(derive_seed(seed, "augmentation", epoch, step)))
                for part, seed in zip(parts, self.seeds, strict=True)
            ]
        )


def take(split: Split | StreamSplit, index: Tensor) -> tuple[Tensor, Tensor]:
    """Samples at `index`; rows are copied as blocks where the split is in memory."""
    if isinstance(split, StreamSplit):
        return split.batch(index)
    index = index.to(split.inputs.device)
    return split.inputs.index_select(0, index), split.targets.index_select(0, index)


def resident(split: Split | StreamSplit, device: torch.device) -> Split | StreamSplit:
    """The split on `device` where it fits there, else as it is."""
    if isinstance(split, StreamSplit) or device.type == "cpu":
        return split
    size = sum(tensor.numel() * tensor.element_size() for tensor in (split.inputs, split.targets))
    if device.type == "cuda" and size > ROOM * torch.cuda.mem_get_info(device)[0]:
        return split
    return Split(split.inputs.to(device), split.targets.to(device))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _permutation(samples: int, seed: int) -> Tensor:
    return torch.randperm(samples, generator=_generator(seed))
