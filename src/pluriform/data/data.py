"""`Data`: train, validation and test splits with the facts that every form needs."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pluriform.data.signature import Bounds, Signature, Task
from pluriform.errors import ConfigError, EmptySplitError, explain

__all__ = ["Data", "Split", "StreamSplit"]

STREAM_BATCH = 256


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of one split, in memory or read on demand.

    In translation both sides are images. Where they are no pairs their numbers may differ; a pass over the split then
    goes round the shorter side again.

    Attributes:
        inputs: Shape `(N, *input_shape)`, floating point; label maps hold ids, `(N, 1, height, width)`.
        targets: Shape `(N,)` int64 labels, `(N, outputs)` floating point for regression, or images.
        styles: Which of the styles of the data each target shows, int64, `(targets,)`; `None` where there is one.
    """

    inputs: Tensor
    targets: Tensor
    styles: Tensor | None = None

    def __len__(self) -> int:
        return max(len(self.inputs), len(self.targets)) if len(self.inputs) else 0

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the samples at `index` (int64, shape `(batch,)`)."""
        if 0 < len(self.inputs) != len(self.targets) > 0:
            return self.inputs[index % len(self.inputs)], self.targets[index % len(self.targets)]
        return self.inputs[index], self.targets[index]


@dataclass(frozen=True, eq=False)
class StreamSplit:
    """Samples read on demand from a torch `Dataset` with a length, for data too large for memory.

    Attributes:
        dataset: Gives `(input, target)` pairs by integer index.
        order: Which items of the dataset belong to this split, int64, shape `(N,)`.
    """

    dataset: Dataset
    order: Tensor

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of inputs and targets in order, `STREAM_BATCH` samples each."""
        return (self.batch(index) for index in torch.arange(len(self)).split(STREAM_BATCH))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the samples at `index` (int64, shape `(batch,)`)."""
        pairs = [self.dataset[int(position)] for position in self.order[index]]
        return (
            torch.stack([torch.as_tensor(pair[0]) for pair in pairs]),
            torch.stack([torch.as_tensor(pair[1]) for pair in pairs]),
        )


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: three splits and the facts about them.

    Attributes:
        name: Name of the data set.
        task: What is predicted.
        train: Training split.
        validation: For choosing and early stopping.
        test: For the final figures; never used while fitting.
        classes: Class names in label order, in classification; in translation of the label maps that the inputs are,
            where they are; otherwise empty.
        bounds: Lowest and highest legal input value, `None` where unbounded; in translation of all pictures.
        unlabelled: Further training inputs, `(N, *input_shape)`, for methods that learn from them; `None` for none.
        paired: Whether, in translation, a target is the image of its input; otherwise rows mean nothing.
        styles: Names of the styles that the targets show, in translation, where there are several.
    """

    name: str
    task: Task
    train: Split | StreamSplit
    validation: Split | StreamSplit
    test: Split | StreamSplit
    classes: tuple[str, ...] = ()
    bounds: Bounds | None = None
    unlabelled: Tensor | None = None
    paired: bool = True
    styles: tuple[str, ...] = ()

    def with_labels(self, count: int, seed: int = 0) -> "Data":
        """Keep the labels of `count` training samples, as many of each class as can be; the others become unlabelled.

        Args:
            count: At most the size of the training split, at least one a class.
            seed: Of the choice.

        Raises:
            ConfigError: No such count, or a task or split that this is not defined for.
        """
        train = self.train
        if not (
            isinstance(train, Split) and self.task == "classification" and len(self.classes) <= count <= len(train)
        ):
            expected = f"{len(self.classes)} to {len(train)} labels, in classification, in memory"
            raise ConfigError(explain(expected, f"{count} labels of {self.task}", self.name, "choose another count"))
        inputs, targets = train.inputs, train.targets
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
        rank = torch.empty_like(targets)
        for label in range(len(self.classes)):
            own = order[targets[order] == label]
            rank[own] = torch.arange(len(own))
        chosen = order[rank[order].argsort(stable=True)]
        kept, rest = chosen[:count].sort().values, chosen[count:].sort().values
        further = [] if self.unlabelled is None else [self.unlabelled]
        unlabelled = torch.cat([inputs[rest], *further]) if len(rest) else self.unlabelled
        return replace(self, train=Split(inputs[kept], targets[kept]), unlabelled=unlabelled)

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return tuple(self._example[0].shape[1:])

    @cached_property
    def outputs(self) -> int:
        """Number of classes, or of regression targets."""
        return len(self.classes) if self.task == "classification" else int(self._example[1][0].numel())

    @cached_property
    def signature(self) -> Signature:
        """The facts that a fitted form remembers."""
        return Signature(self.name, self.task, self.input_shape, self.outputs, self.classes, self.bounds)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the signature and of all samples (of a spread of 64 samples a split, where they are streamed)."""
        digest = hashlib.sha256(repr(self.signature).encode())
        if self.unlabelled is not None:
            digest.update(f"unlabelled {tuple(self.unlabelled.shape)} {self.unlabelled.dtype}".encode())
            digest.update(self.unlabelled.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        if not self.paired or self.styles:
            digest.update(f"paired {self.paired}, styles {self.styles}".encode())
        for split in (self.train, self.validation, self.test):
            index = torch.arange(len(split))
            if isinstance(split, StreamSplit) and len(split) > 64:
                index = torch.linspace(0, len(split) - 1, 64).long()
            for tensor in split.batch(index) if len(split) else ():
                digest.update(f"{len(split)} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _example(self) -> tuple[Tensor, Tensor]:
        split = next((part for part in (self.train, self.validation, self.test) if len(part)), None)
        if split is None:
            raise EmptySplitError(
                explain(
                    "at least one sample", "three empty splits", self.name, "check the file or folder it was read from"
                )
            )
        return split.batch(torch.arange(1))
