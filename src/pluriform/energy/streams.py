"""The two streams of the joint training: labelled samples, and samples of p(x)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pluriform.data.data import Data, Split
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
    inputs = torch.cat([data.train.batch(torch.arange(len(data.train)))[0], data.unlabelled])
    return replace(data, train=Split(inputs, _no_labels(inputs)), unlabelled=None)


def _no_labels(inputs: Tensor) -> Tensor:
    return torch.zeros(len(inputs), dtype=torch.int64)
