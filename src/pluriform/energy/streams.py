"""The two streams of the joint training: labelled samples, and samples of p(x)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.training.feed import Batch, Feed

__all__ = ["Cycle", "density_data"]


class Cycle:
    """Batches of a feed without an end, by the number of the step, so that a resumed training goes on with the same.

    Args:
        feed: Its epochs follow one another.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._next = -1
        self._batches: Iterator[Batch] = iter(())

    def at(self, step: int) -> Batch:
        """The batch of step number `step`, from 0."""
        epoch, position = divmod(step, self.feed.steps)
        if step != self._next or position == 0:
            self._batches = self.feed.batches(epoch, position)
        self._next = step + 1
        return next(self._batches)


def density_data(data: Data) -> Data:
    """The samples of p(x): training inputs and, where there are any, unlabelled ones; labels mean nothing."""
    if data.unlabelled is None:
        return data
    if isinstance(data.train, StreamSplit):
        both = _Both(data.train, data.unlabelled)
        return replace(data, train=StreamSplit(both, torch.arange(len(both))), unlabelled=None)
    inputs = torch.cat([data.train.inputs, data.unlabelled])
    return replace(data, train=Split(inputs, _no_labels(inputs)), unlabelled=None)


class _Both(Dataset):
    """Samples of a stream, which is not read before it is asked for, and then unlabelled ones."""

    def __init__(self, stream: StreamSplit, unlabelled: Tensor) -> None:
        self.stream, self.unlabelled = stream, unlabelled

    def __len__(self) -> int:
        return len(self.stream) + len(self.unlabelled)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        own = place < len(self.stream)
        found = self.stream.batch(torch.tensor([place]))[0][0] if own else self.unlabelled[place - len(self.stream)]
        return found, 0


def _no_labels(inputs: Tensor) -> Tensor:
    return torch.zeros(len(inputs), dtype=torch.int64)
