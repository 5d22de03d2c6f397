"""Checks that a data set must pass before anything is fitted on it."""

import torch

from pluriform.data.data import Data, Split
from pluriform.errors import BoundsError, EmptySplitError, LabelError, NonFiniteError, ShapeError, explain

__all__ = ["check_fit_data"]


def check_fit_data(data: Data) -> None:
    """Raise the error that fits the first fault of `data`, or return.

    Raises:
        EmptySplitError: No training samples.
        ShapeError: Inputs are not floating point, or inputs and targets differ in number.
        NonFiniteError: NaN or infinity in inputs or targets.
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
