"""Streams: data sets too large for memory, read on demand through a torch `Dataset`."""

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from pluriform.data.data import StreamSplit
from pluriform.data.parts import Parts
from pluriform.data.signature import Bounds, Task
from pluriform.data.sources.arrays import array_parts, class_names, encode, guess_bounds
from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["stream_parts"]

SPREAD = 64


def stream_parts(
    dataset: Dataset,
    name: str,
    test: Dataset | None = None,
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    bounds: Bounds | None = None,
) -> Parts:
    """Splits that read a map-style `Dataset` on demand; a `TensorDataset`, in memory anyway, is taken as arrays.

    Items are pairs of an input (floating-point tensor) and a target (label, or tensor for regression). Labels for a
    stratified draw are taken from the attribute `targets` or `labels`, class names from `classes`, where these exist.

    Raises:
        ConfigError: Not map-style, or the number of classes is not known.
        ShapeError: Items that are not such pairs.
    """
    if isinstance(dataset, TensorDataset) and (test is None or isinstance(test, TensorDataset)):
        pairs = {"train": _two(dataset, name)} | ({"test": _two(test, name)} if test is not None else {})
        return array_parts(pairs, name, task=task, classes=classes, bounds=bounds)
    number = _length(dataset, name)
    inputs, target = _look(dataset, number, name)
    task = task or ("regression" if target.is_floating_point() else "classification")
    labels, names = (None, ())
    if task == "classification":
        labels, names = _labels(dataset, classes, name)
    rest = None if test is None else StreamSplit(test, torch.arange(_length(test, name)))
    bounds = bounds or guess_bounds(inputs, name)
    return Parts(name, task, StreamSplit(dataset, torch.arange(number)), rest, None, names, bounds, labels)


def _two(dataset: TensorDataset, name: str) -> tuple[Tensor, Tensor]:
    if len(dataset.tensors) != 2:
        raise ShapeError(explain("inputs and targets", f"{len(dataset.tensors)} tensors", name, "give two tensors"))
    return dataset.tensors[0], dataset.tensors[1]


def _length(dataset: Dataset, name: str) -> int:
    if not isinstance(dataset, Sized) or len(dataset) == 0:
        got = "one of length 0" if isinstance(dataset, Sized) else f"{type(dataset).__name__} without a length"
        raise ConfigError(
            explain(
                "a map-style Dataset with samples", got, name, "write __len__ and __getitem__, as torch describes them"
            )
        )
    return len(dataset)


def _look(dataset: Dataset, number: int, name: str) -> tuple[Tensor, Tensor]:
    """Inputs of a spread of samples, and the target of the last one."""
    inputs, target = [], torch.zeros(())
    for at in torch.linspace(0, number - 1, min(SPREAD, number)).long().tolist():
        item: Any = dataset[at]
        pair = isinstance(item, (tuple, list)) and len(item) == 2
        if not pair or not isinstance(item[0], Tensor) or not item[0].is_floating_point():
            kind = type(item[0] if pair else item).__name__
            raise ShapeError(
                explain(
                    "pairs of a floating-point tensor and a target",
                    f"{kind} {item[0].dtype}" if kind == "Tensor" else kind,
                    f"{name}, item {at}",
                    "convert in the dataset's transform, for instance to a float tensor in [0, 1]",
                )
            )
        inputs.append(item[0])
        target = torch.as_tensor(item[1])
    if any(item.shape != inputs[0].shape for item in inputs):
        shapes = ", ".join(sorted({str(tuple(item.shape)) for item in inputs}))
        raise ShapeError(explain("items of one shape", shapes, name, "resize or crop in the dataset's transform"))
    return torch.stack(inputs), target


def _labels(dataset: Dataset, classes: Sequence[str] | None, name: str) -> tuple[Tensor | None, tuple[str, ...]]:
    stored = next((getattr(dataset, key) for key in ("targets", "labels") if hasattr(dataset, key)), None)
    named = classes if classes is not None else getattr(dataset, "classes", None)
    if stored is None and named is None:
        raise ConfigError(
            explain(
                "the classes of the stream",
                "neither an attribute targets nor classes",
                name,
                "give classes=, or task='regression'",
            )
        )
    values = None if stored is None else np.asarray(stored)
    names = tuple(str(text) for text in named) if named is not None else class_names(np.asarray(values))
    if values is None:
        return None, names
    return encode(values, names, name), names
