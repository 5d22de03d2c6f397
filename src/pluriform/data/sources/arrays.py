"""Arrays of NumPy or torch that the caller already has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.signature import Bounds, Task
from pluriform.errors import BoundsError, LabelError, ShapeError, explain

__all__ = ["array_parts", "class_names", "encode", "guess_bounds"]

CHANNELS = (1, 3, 4)
LAYOUT_REMEDY = "give inputs (samples, features...) of numbers"


def array_parts(
    pairs: Mapping[str, tuple[Any, Any]],
    name: str,
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    standardise: bool = False,
) -> Parts:
    """Splits from pairs of inputs and targets.

    Inputs of type uint8 are pixels in 0..255, laid out as channels first and scaled to [0, 1]; all other numbers become
    float32 as they are. Without `task`, floating-point targets mean regression, all others classification. Without
    `classes`, the classes are the distinct training labels in ascending order, named by their text.

    Args:
        pairs: Inputs and targets by split name; `train` must be there.
        name: Name of the data set.
        task: What is predicted; `None` to go by the type of the targets.
        classes: Class names; integer labels then count from 0 in their order.
        bounds: Lowest and highest legal input; `None` gives [0, 1] to pictures that lie in it, none to all else.
        standardise: Shift and scale each feature to mean 0, deviation 1 over the training rows.

    Raises:
        ShapeError: Not numbers, no sample axis, or inputs and targets that differ in number.
        LabelError: A label that is none of the classes.
        BoundsError: Pictures of floating point that look like 0..255.
    """
    inputs = {part: _inputs(pair[0], f"{name}.{part}") for part, pair in pairs.items()}
    targets = {part: _array(pair[1]) for part, pair in pairs.items()}
    for part in pairs:
        _check_number(inputs[part], targets[part], f"{name}.{part}")
    task = task or ("regression" if targets["train"].dtype.kind == "f" else "classification")
    names: tuple[str, ...] = ()
    if task == "classification":
        labels = {part: _flat(values, f"{name}.{part}") for part, values in targets.items()}
        names = tuple(classes) if classes is not None else class_names(labels["train"])
        found = {part: encode(values, names, f"{name}.{part}") for part, values in labels.items()}
    elif task == "regression":
        found = {part: _regression(values, f"{name}.{part}") for part, values in targets.items()}
    else:
        found = {part: _inputs(values, f"targets of {name}.{part}") for part, values in targets.items()}
    splits = {part: Split(inputs[part], found[part]) for part in pairs}
    train = splits["train"]
    bounds = bounds if bounds is not None or standardise else guess_bounds(train.inputs, name)
    return Parts(
        name, task, train, splits.get("test"), splits.get("validation"), names, bounds, standardise=standardise
    )


def class_names(labels: np.ndarray) -> tuple[str, ...]:
    """Distinct labels in ascending order, as text."""
    return tuple(str(label) for label in np.unique(labels).tolist())


def encode(labels: np.ndarray, classes: Sequence[str], where: str) -> Tensor:
    """Labels as positions in `classes`.

    Labels whose texts are class names are looked up; integers that are not count from 0.

    Args:
        labels: Texts, booleans or whole numbers, shape `(N,)`.
        classes: Class names in label order.
        where: For the message.

    Raises:
        LabelError: A label that is neither.
    """
    values, inverse = np.unique(labels, return_inverse=True)
    texts = [str(value) for value in values.tolist()]
    known = {text: at for at, text in enumerate(classes)}
    if any(text in known for text in texts) or values.dtype.kind not in "iub":
        strange = next((text for text in texts if text not in known), None)
        if strange is not None:
            at = int(np.flatnonzero(inverse == texts.index(strange))[0])
            raise LabelError(
                explain(
                    f"one of {len(classes)} classes ({', '.join(list(classes)[:12])})",
                    f"label {strange}",
                    f"{where}, sample {at}",
                    "check the target column, or name all classes",
                )
            )
        values = np.array([known[text] for text in texts])
    return torch.from_numpy(values.astype(np.int64)[inverse])


def guess_bounds(inputs: Tensor, name: str) -> Bounds | None:
    """[0, 1] for pictures within it, none for tables and for pictures on another scale.

    Raises:
        BoundsError: Pictures of floating point that look like 0..255.
    """
    if inputs.dtype == torch.uint8:
        return (0.0, 1.0)
    if inputs.dim() < 4 or inputs.numel() == 0:
        return None
    low, high = (float(extreme) for extreme in torch.aminmax(inputs))
    if low >= 0 and 2 < high <= 255:
        raise BoundsError(
            explain(
                "pictures in [0, 1]",
                f"values from {low:g} to {high:g}",
                name,
                "divide by 255, give them as uint8, or give bounds= if this scale is meant",
            )
        )
    return (0.0, 1.0) if low >= 0 and high <= 1 else None


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _inputs(values: Any, where: str) -> Tensor:
    array = _array(values)
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ShapeError(explain("an array of numbers", f"{array.dtype}, {array.ndim} axes", where, LAYOUT_REMEDY))
    if array.dtype == np.uint8:
        return torch.from_numpy(np.array(_channels_first(array)))
    array = array.astype(np.float32)  # A copy, so that later changes of the caller's array change nothing here.
    return torch.from_numpy(array[:, None] if array.ndim == 1 else array)


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[-1] in CHANNELS and pixels.shape[1] not in CHANNELS:
        return pixels.transpose(0, 3, 1, 2)
    return pixels[:, None] if pixels.ndim == 1 else pixels


def _check_number(inputs: Tensor, targets: np.ndarray, where: str) -> None:
    if targets.ndim == 0 or len(inputs) != len(targets):
        count = len(targets) if targets.ndim else "one number"
        raise ShapeError(explain("as many targets as inputs", f"{count} for {len(inputs)}", where, "give one a sample"))


def _flat(labels: np.ndarray, where: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ShapeError(
            explain("labels of shape (samples,)", f"{labels.shape}", where, "use targets.argmax(1) if they are one-hot")
        )
    if labels.dtype.kind == "f":
        if not np.all(labels == np.round(labels)):  # Also where NaN.
            raise LabelError(explain("whole labels", "fractions or NaN", where, "load with task='regression'"))
        labels = labels.astype(np.int64)
    return labels


def _regression(targets: np.ndarray, where: str) -> Tensor:
    if targets.dtype.kind not in "fiub" or targets.ndim > 2:
        raise ShapeError(
            explain(
                "numbers of shape (samples, outputs)",
                f"{targets.dtype} of shape {targets.shape}",
                f"targets of {where}",
                "convert them, or load with task='classification'",
            )
        )
    return torch.from_numpy(targets.astype(np.float32).reshape(len(targets), -1))
