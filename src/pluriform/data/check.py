"""Checks that a data set must pass before anything is fitted on it."""

import torch
from torch import Tensor

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.label_maps import check_ids
from pluriform.errors import BoundsError, EmptySplitError, LabelError, NonFiniteError, ShapeError, explain

__all__ = ["check_fit_data", "check_images"]

SPREAD = 64  # Samples of a stream that are looked at.
ROUNDING = 1e-5  # Inputs may leave their bounds by this share of the range, as float arithmetic does.


def check_fit_data(data: Data) -> None:
    """Raise the error that fits the first fault of `data`, or return.

    Each split is passed over once, without copies; of a stream, a spread of 64 samples is looked at.

    Raises:
        EmptySplitError: No training samples.
        ShapeError: Inputs are not floating point, targets have the wrong type, or they differ in number.
        NonFiniteError: NaN or infinity in inputs or targets; names the first sample.
        LabelError: Labels outside the classes, or only one class in the training split.
        BoundsError: Inputs outside `data.bounds`.
    """
    if len(data.train) == 0:
        raise EmptySplitError(
            explain(
                "a training split with samples",
                "0 samples",
                f"{data.name}.train",
                "use it as outliers, or load another set",
            )
        )
    for part, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if len(split):
            _check_split(data, f"{data.name}.{part}", split)
    if data.unlabelled is not None:
        nothing = torch.zeros(len(data.unlabelled), *(() if data.task == "classification" else (data.outputs,)))
        targets = nothing.long() if data.task == "classification" else nothing
        _check_split(data, f"{data.name}.unlabelled", Split(data.unlabelled, targets))
        _check_unlabelled_type(data, data.unlabelled)
    if data.task == "classification":
        _check_variety(data)


def _check_split(data: Data, where: str, split: Split | StreamSplit) -> None:
    positions = torch.arange(len(split))
    if isinstance(split, StreamSplit):
        positions = torch.linspace(0, len(split) - 1, min(SPREAD, len(split))).long()
        inputs, targets = split.batch(positions)
    else:
        inputs, targets = split.inputs, split.targets
    _check_types(data, where, inputs, targets)
    _check_finite(f"inputs of {where}", inputs, positions)
    if data.task == "classification":
        _check_labels(data, where, targets, positions)
    else:
        _check_finite(f"targets of {where}", targets, positions)
    if data.task == "translation":
        check_images(data, where, inputs, targets)
        _check_bounds(data, f"targets of {where}", targets, torch.arange(len(targets)))
    if data.task != "translation" or not data.classes:
        _check_bounds(data, where, inputs, positions)


def _check_types(data: Data, where: str, inputs: Tensor, targets: Tensor) -> None:
    def fault(expected: str, got: str, remedy: str) -> ShapeError:
        return ShapeError(explain(expected, got, where, remedy))

    if not inputs.is_floating_point():
        raise fault("floating-point inputs", f"{inputs.dtype}", "convert them, for instance inputs.float() / 255")
    if inputs.dim() < 2:
        raise fault("inputs (samples, features...)", f"shape {tuple(inputs.shape)}", "add a feature axis")
    if len(inputs) != len(targets) and (data.paired or not len(inputs) or not len(targets)):
        raise fault("as many targets as inputs", f"{len(targets)} for {len(inputs)}", "give one target a sample")
    if tuple(inputs.shape[1:]) != data.input_shape:
        raise fault(f"inputs of shape {data.input_shape}", f"{tuple(inputs.shape[1:])}", "give all splits one shape")
    if data.task == "classification" and targets.dim() != 1:
        raise fault(
            "labels of shape (samples,)", f"{tuple(targets.shape)}", "use targets.argmax(1) if they are one-hot"
        )
    if data.task == "classification" and targets.dtype != torch.int64:
        raise fault("int64 labels", f"{targets.dtype}", "use targets.long(), or load with task='regression'")
    if data.task != "classification" and not targets.is_floating_point():
        raise fault("floating-point targets", f"{targets.dtype}", "use targets.float(), or task='classification'")
    if data.task == "regression" and targets.dim() != 2:
        raise fault("targets of shape (samples, outputs)", f"{tuple(targets.shape)}", "use targets[:, None]")


def check_images(data: Data, where: str, inputs: Tensor, targets: Tensor) -> None:
    """What a translation needs of its two sides.

    Raises:
        ShapeError: They are no images, or pairs of different sizes.
        LabelError: An id of a label map is none of the classes; names value and counts.
    """
    if inputs.dim() != 4 or targets.dim() != 4:
        got = f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
        raise ShapeError(explain("images (samples, channels, height, width)", got, where, "add the missing axes"))
    if data.paired and inputs.shape[2:] != targets.shape[2:]:
        first, second = ("x".join(map(str, side.shape[2:])) for side in (inputs, targets))
        remedy = "resize one side, or load with size="
        raise ShapeError(explain("pairs of one size", f"{first} and {second} pixels", where, remedy))
    if data.classes:
        if inputs.shape[1] != 1:
            expected = "label maps of one channel, with ids"
            raise ShapeError(explain(expected, f"{inputs.shape[1]} channels", where, "give ids, or drop the classes"))
        for row, ids in enumerate(inputs):
            check_ids(ids, data.classes, f"{where}, sample {row}")


def _check_unlabelled_type(data: Data, unlabelled: Tensor) -> None:
    like, _ = data.train.batch(torch.arange(1))
    if unlabelled.dtype != like.dtype:
        expected, remedy = f"{like.dtype}, as of the training inputs", "convert them: data.unlabelled.to(...)"
        raise ShapeError(explain(expected, f"{unlabelled.dtype}", f"{data.name}.unlabelled", remedy))


def _check_finite(what: str, values: Tensor, positions: Tensor) -> None:
    # The extremes are NaN or infinite where any value is: one pass, no mask as large as the data.
    if values.numel() == 0 or all(torch.isfinite(extreme) for extreme in torch.aminmax(values)):
        return
    row = _first(~torch.isfinite(values.flatten(1) if values.dim() > 1 else values[:, None]))
    bad = values[row][~torch.isfinite(values[row])].flatten()[0].item()
    raise NonFiniteError(
        explain("finite numbers", f"{bad}", f"{what}, sample {int(positions[row])}", "drop or repair that sample")
    )


def _check_labels(data: Data, where: str, labels: Tensor, positions: Tensor) -> None:
    outside = (labels < 0) | (labels >= len(data.classes))
    if outside.any():
        row = _first(outside[:, None])
        remedy = "check the target column, or name all classes"
        if int(labels[row]) == -1:
            remedy = "give inputs without labels as Data.unlabelled, or check the target column"
        raise LabelError(
            explain(
                f"labels in 0..{len(data.classes) - 1} for {len(data.classes)} classes",
                f"label {int(labels[row])}",
                f"{where}, sample {int(positions[row])}",
                remedy,
            )
        )


def _check_bounds(data: Data, where: str, inputs: Tensor, positions: Tensor) -> None:
    if data.bounds is None or inputs.numel() == 0:
        return
    low, high = data.bounds
    slack = ROUNDING * (high - low)
    least, most = (float(extreme) for extreme in torch.aminmax(inputs))
    if least >= low - slack and most <= high + slack:
        return
    row = _first(((inputs < low - slack) | (inputs > high + slack)).flatten(1))
    remedy = "give the true bounds, or scale the inputs into them"
    if (low, high) == (0.0, 1.0) and least >= 0 and 1 < most <= 255:
        remedy = "divide by 255: these look like pixels in 0..255"
    raise BoundsError(
        explain(
            f"inputs in [{low:g}, {high:g}]",
            f"values from {least:g} to {most:g}",
            f"{where}, first in sample {int(positions[row])}",
            remedy,
        )
    )


def _check_variety(data: Data) -> None:
    if len(data.classes) > 1 and isinstance(data.train, StreamSplit):
        return  # A spread of a stream that is sorted by class may well show one class only.
    labels = data.train.targets if isinstance(data.train, Split) else torch.zeros(1)
    if len(data.classes) < 2 or bool((labels == labels[0]).all()):
        name = f"only class {int(labels[0])}" if data.classes else "none"
        raise LabelError(
            explain(
                "at least two classes", name, f"{data.name}.train", "add samples of other classes, or use regression"
            )
        )


def _first(marks: Tensor) -> int:
    """First row of a boolean matrix that holds a True."""
    return int(marks.any(1).byte().argmax())
