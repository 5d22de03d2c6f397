"""What a form has to remember of the data set it was fitted on."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Bounds", "Signature", "Task"]

Task = Literal["classification", "regression", "translation"]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Signature:
    """Facts of a data set, without its tensors.

    Attributes:
        name: Name of the data set.
        task: What is predicted.
        input_shape: Shape of one input, without the batch axis.
        outputs: Number of classes, or of regression targets.
        classes: Class names in label order; empty unless the task is classification.
        bounds: Lowest and highest legal input value; `None` where inputs are unbounded (tables).
    """

    name: str
    task: Task
    input_shape: tuple[int, ...]
    outputs: int
    classes: tuple[str, ...] = ()
    bounds: Bounds | None = None
