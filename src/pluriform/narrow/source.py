"""Where a unit's inputs and targets come from: held in memory, or computed anew for every batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.training.feed import take

__all__ = ["Held", "Source", "Streamed"]

BATCH = 250
CPU = torch.device("cpu")

Network = Callable[[Tensor], Tensor]
Pairs = tuple[Tensor, Tensor]


class Source(ABC):
    """Pairs of a unit's inputs and of what the wide network makes of the same samples at its end.

    Attributes:
        data: What a feed draws its batches from.
    """

    data: Data

    @abstractmethod
    def pair(self, inputs: Tensor, targets: Tensor) -> Pairs:
        """The pair of a batch of `data`."""

    @abstractmethod
    def advanced(self, thin: Network, wide: Network) -> "Source":
        """The source of the next unit.

        Args:
            thin: From this unit's inputs to the next one's.
            wide: From this unit's targets to the next one's.
        """

    @abstractmethod
    def forced(self, wide: Network) -> "Source":
        """The source of the next unit whose inputs are this unit's targets."""

    def batches(self, split: Split | StreamSplit) -> Iterator[Pairs]:
        """All pairs of a split of `data`, in order."""
        for index in torch.arange(len(split)).split(BATCH):
            yield self.pair(*take(split, index))

    def drawn(self, most: int) -> Pairs:
        """Pairs of at most so many training samples, evenly spaced: files are often sorted by class."""
        split = self.data.train
        return self.pair(*take(split, torch.linspace(0, len(split) - 1, min(most, len(split))).long()))


@dataclass(frozen=True, eq=False)
class Held(Source):
    """All pairs in memory: they are the inputs and targets of the splits of `data`.

    Args:
        data: Of which the test split is empty.
    """

    data: Data

    @staticmethod
    def of(data: Data, wide: Network, device: torch.device = CPU) -> "Held":
        """The source of the first unit: inputs as they are, and the wide network's first stretch of them.

        Args:
            data: The data set, anywhere.
            wide: The first stretch.
            device: Of the networks; all pairs are held there.
        """

        def first(inputs: Tensor, targets: Tensor) -> Pairs:
            del targets
            inputs = inputs.to(device)
            return inputs, wide(inputs)

        return Held(_changed(data, first))

    def pair(self, inputs: Tensor, targets: Tensor) -> Pairs:
        """The batch itself."""
        return inputs, targets

    def advanced(self, thin: Network, wide: Network) -> "Held":
        """Every stretch is computed once for every sample."""
        return Held(_changed(self.data, lambda inputs, targets: (thin(inputs), wide(targets))))

    def forced(self, wide: Network) -> "Held":
        """The wide network's outputs, and what its next stretch makes of them."""
        return Held(_changed(self.data, lambda _, targets: (targets, wide(targets))))


@dataclass(frozen=True, eq=False)
class Streamed(Source):
    """Nothing is held: both networks compute every batch from its start, as augmented images need it.

    Args:
        data: The data set.
        thin: From its inputs to those of the unit.
        wide: From its inputs to the targets of the unit.
        device: Of the networks.
    """

    data: Data
    thin: Network
    wide: Network
    device: torch.device = CPU

    @torch.no_grad()
    def pair(self, inputs: Tensor, targets: Tensor) -> Pairs:
        """Both networks, up to the unit and to its end."""
        del targets
        inputs = inputs.to(self.device)
        return self.thin(inputs), self.wide(inputs)

    def advanced(self, thin: Network, wide: Network) -> "Streamed":
        """One stretch more for both."""
        return Streamed(self.data, lambda x: thin(self.thin(x)), lambda x: wide(self.wide(x)), self.device)

    def forced(self, wide: Network) -> "Streamed":
        """The wide network up to this unit's end, and to the next one's."""
        return Streamed(self.data, self.wide, lambda x: wide(self.wide(x)), self.device)


@torch.no_grad()
def _changed(data: Data, change: Callable[[Tensor, Tensor], Pairs]) -> Data:
    """The data with training and validation split changed batch by batch, and no test split."""
    train = _joined(data.train, change)
    empty = Split(train.inputs[:0], train.targets[:0])
    validation = _joined(data.validation, change) if len(data.validation) else empty
    return replace(data, train=train, validation=validation, test=empty, bounds=None, unlabelled=None)


def _joined(split: Split | StreamSplit, change: Callable[[Tensor, Tensor], Pairs]) -> Split:
    """All pairs, each batch written where it stays: there is no room for them twice."""
    whole: list[Tensor] = []
    for index in torch.arange(len(split)).split(BATCH):
        parts = change(*take(split, index))
        whole = whole or [_room(part, len(split)) for part in parts]
        for tensor, part in zip(whole, parts, strict=True):
            tensor[index[0] : index[-1] + 1] = part
    return Split(whole[0], whole[1])


def _room(part: Tensor, samples: int) -> Tensor:
    """An empty tensor for so many samples, in the memory format of some of them."""
    layout = torch.contiguous_format
    if part.dim() == 4 and not part.is_contiguous() and part.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return torch.empty((samples, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout)
