"""The validation split of a search, sized by the standard error of the scores that it gives.

A proportion p measured on n samples has the standard error sqrt(p (1 - p) / n), at most 1 / (2 sqrt(n)). The best of
many children is chosen by it, so 500 samples (1.3 points at 90 %) mostly choose luck.
"""

import math
from dataclasses import replace

import torch

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.split import holdout
from pluriform.errors import EmptySplitError, explain
from pluriform.training.seeds import derive_seed

__all__ = ["with_validation"]

STANDARD_ERROR = 0.005
MOST = 0.2


def with_validation(data: Data, seed: int) -> Data:
    """The data with a validation split large enough for a standard error of half a point, where they allow it.

    That takes 10,000 samples, whatever the accuracy; at most a fifth of all training samples is taken. What the data
    hold out already stays held out, further samples are drawn from the training split, stratified by class.

    Args:
        data: Its test split is not touched.
        seed: Of the draw.

    Raises:
        EmptySplitError: There are so few samples that none would be held out.
    """
    present, everything = len(data.validation), len(data.train) + len(data.validation)
    wanted = min(math.ceil(0.25 / STANDARD_ERROR**2), math.floor(MOST * everything))
    if max(wanted, present) < 1:
        remedy = "bring more samples, or a validation split"
        raise EmptySplitError(
            explain("5 samples or more, a fifth of them held out", str(everything), data.name, remedy)
        )
    more = wanted - present
    if more <= 0 or more >= len(data.train):
        return data
    memory = isinstance(data.train, Split) and data.task == "classification"
    labels = data.train.targets if memory else None  # type: ignore[union-attr]
    stay, out = holdout(len(data.train), labels, more, derive_seed(seed, "validation") % 2**32)
    return replace(data, train=_rows(data.train, stay), validation=_joined(data, out))


def _rows(split: Split | StreamSplit, index: torch.Tensor) -> Split | StreamSplit:
    if isinstance(split, StreamSplit):
        return StreamSplit(split.dataset, split.order[index])
    return Split(split.inputs[index], split.targets[index])


def _joined(data: Data, index: torch.Tensor) -> Split | StreamSplit:
    drawn, held = _rows(data.train, index), data.validation
    if not len(held):
        return drawn
    if isinstance(drawn, Split) and isinstance(held, Split):
        return Split(torch.cat([held.inputs, drawn.inputs]), torch.cat([held.targets, drawn.targets]))
    if isinstance(drawn, StreamSplit) and isinstance(held, StreamSplit):
        both = torch.utils.data.ConcatDataset([held.dataset, drawn.dataset])
        order = torch.cat([held.order, drawn.order + len(held.dataset)])  # type: ignore[arg-type]
        return StreamSplit(both, order)
    return drawn if len(drawn) > len(held) else held
