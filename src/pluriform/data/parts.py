"""`Parts`: what a source gives, and how it becomes a `Data` of three splits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.signature import Bounds, Task
from pluriform.data.split import TEST_FRACTION, TEST_SEED, holdout

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Samples as their source has them, before the splits are complete.

    Attributes:
        name: Name of the data set.
        task: What is predicted.
        train: Training samples. Inputs of type uint8 are pictures in 0..255, scaled to [0, 1] by `assemble`.
        test: Test samples; `None` where the source has none, then a fixed fifth of `train` is taken.
        validation: Validation samples; `None` where the source has none, then a seeded part of `train` is taken.
        classes: Class names in label order; empty unless the task is classification.
        bounds: Lowest and highest legal input value, after scaling.
        labels: Classes of the samples of `train`, where that is a stream and they are known.
        paired: Whether rows of a translation are pairs; if not, each side is split by itself.
        styles: Names of the styles of a translation.
        standardise: Shift and scale each input feature to mean 0 and deviation 1 over `train`, validation included.
    """

    name: str
    task: Task
    train: Split | StreamSplit
    test: Split | StreamSplit | None = None
    validation: Split | StreamSplit | None = None
    classes: tuple[str, ...] = ()
    bounds: Bounds | None = None
    labels: Tensor | None = None
    standardise: bool = False
    paired: bool = True
    styles: tuple[str, ...] = ()


def assemble(parts: Parts, validation: float | int, seed: int) -> Data:
    """Complete the splits: a fixed fifth for test where there is none, then a seeded part for validation.

    Both draws are stratified by class. The test part does not depend on `seed`, so that figures of runs with different
    seeds are figures on the same samples.

    Args:
        parts: What a source gave.
        validation: Fraction of the training samples (after the test part is taken) or, from 1 on, number of them.
        seed: Of the validation draw.

    Raises:
        ConfigError: `validation` is negative or leaves no training samples.
    """
    rest, labels, test, held = parts.train, _labels(parts), parts.test, parts.validation
    if not parts.paired and isinstance(rest, Split):
        return _unpaired(parts, rest, validation, seed)
    if test is None:
        stay, out = holdout(len(rest), labels, TEST_FRACTION, TEST_SEED)
        test, rest, labels = _take(rest, out), _take(rest, stay), None if labels is None else labels[stay]
    shift, scale = _standard(rest) if parts.standardise and isinstance(rest, Split) else (None, None)
    if held is None:
        stay, out = holdout(len(rest), labels, validation, seed)
        held, rest = _take(rest, out), _take(rest, stay)
    train, held, test = (_finish(part, shift, scale) for part in (rest, held, test))
    return Data(parts.name, parts.task, train, held, test, parts.classes, parts.bounds, styles=parts.styles)


def _unpaired(parts: Parts, rest: Split, validation: float | int, seed: int) -> Data:
    """Splits of two sides that have nothing to do with each other; targets are drawn by style.

    Nothing is held out where the share of a side is less than half an image.
    """
    test, held = parts.test, parts.validation
    if test is None:
        rest, test = _two_sides(rest, TEST_FRACTION, TEST_SEED)
    if held is None:
        rest, held = _two_sides(rest, validation, seed)
    train, held, test = (_finish(part, None, None) for part in (rest, held, test))
    return Data(
        parts.name, parts.task, train, held, test, parts.classes, parts.bounds, paired=False, styles=parts.styles
    )


def _two_sides(split: Split, amount: float | int, seed: int) -> tuple[Split, Split]:
    first = holdout(len(split.inputs), None, amount, seed)
    second = holdout(len(split.targets), split.styles, amount, seed)
    if not (len(first[1]) and len(second[1])):  # One side alone is no sample.
        first, second = (holdout(len(side), None, 0, seed) for side in (split.inputs, split.targets))
    stay, out = (
        Split(split.inputs[mine], split.targets[other], None if split.styles is None else split.styles[other])
        for mine, other in zip(first, second, strict=True)
    )
    return stay, out


def _labels(parts: Parts) -> Tensor | None:
    if parts.task != "classification":
        return None
    return parts.train.targets if isinstance(parts.train, Split) else parts.labels


def _take(split: Split | StreamSplit, index: Tensor) -> Split | StreamSplit:
    if isinstance(split, StreamSplit):
        return StreamSplit(split.dataset, split.order[index])
    styles = None if split.styles is None else split.styles[index]
    return split if len(index) == len(split) else Split(split.inputs[index], split.targets[index], styles)


def _standard(split: Split) -> tuple[Tensor, Tensor]:
    inputs = split.inputs.double()
    deviation = inputs.std(0, unbiased=False)
    return inputs.mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _finish(split: Split | StreamSplit, shift: Tensor | None, scale: Tensor | None) -> Split | StreamSplit:
    """Give pictures their floating-point values, tables their standard scale."""
    if isinstance(split, StreamSplit):
        return split
    inputs, targets = _unit(split.inputs), _unit(split.targets)
    if shift is not None and scale is not None:
        inputs = ((inputs - shift) / scale).float()
    return Split(inputs, targets, split.styles)


def _unit(values: Tensor) -> Tensor:
    return values.float().div_(255) if values.dtype == torch.uint8 else values
