"""Checks that come before a figure: form and data match, inputs and answers are finite, labels are classes."""

from torch import Tensor

from pluriform.data.data import Data
from pluriform.errors import (
    ConfigError,
    DivergenceError,
    EmptySplitError,
    LabelError,
    NonFiniteError,
    ShapeError,
    explain,
)
from pluriform.prediction import Prediction, Predictor

__all__ = ["check_answers", "check_match"]


def check_match(form: Predictor, data: Data) -> None:
    """Compare what the form was fitted on with the data it is judged on.

    Raises:
        ConfigError: Neither classification nor regression.
        ShapeError: Another input shape, number of outputs or task.
        EmptySplitError: No test samples.
    """
    signature = form.signature
    if data.task == "translation":
        raise ConfigError(
            explain("classification or regression", "translation", data.name, "judge images with the image metrics")
        )
    if len(data.test) == 0:
        raise EmptySplitError(
            explain(
                "a test split with samples", "0 samples", f"{data.name}.test", "load the set with a test share above 0"
            )
        )
    wanted = (signature.task, signature.input_shape, signature.outputs)
    got = (data.task, data.input_shape, data.outputs)
    if wanted != got:
        raise ShapeError(
            explain(
                f"data for {wanted[0]} with inputs of shape {wanted[1]} and {wanted[2]} outputs",
                f"{got[0]} with inputs of shape {got[1]} and {got[2]} outputs",
                f"{type(form).__name__} fitted on {signature.name}, evaluated on {data.name}",
                "evaluate the form on data like those it was fitted on",
            )
        )


def check_answers(form: Predictor, inputs: Tensor, prediction: Prediction, targets: Tensor) -> None:
    """What metrics need of a batch.

    Raises:
        NonFiniteError: NaN or infinity in the targets; `predict` has looked at the inputs.
        DivergenceError: NaN or infinity in the predictions.
        LabelError: A label outside the form's classes.
    """
    name, where = type(form).__name__, f"{type(form).__name__} on {form.signature.name}"
    if targets.is_floating_point() and not targets.isfinite().all():
        raise NonFiniteError(explain("finite targets", "NaN or infinity", where, "remove or repair these samples"))
    if not prediction.mean.isfinite().all():
        count = int((~prediction.mean.isfinite()).any(-1).sum())
        raise DivergenceError(
            explain("finite predictions", f"NaN or infinity in {count} of {len(inputs)}", where, f"fit {name} again")
        )
    if (
        form.signature.task == "classification"
        and not 0 <= int(targets.min()) <= int(targets.max()) < prediction.mean.shape[1]
    ):
        raise LabelError(
            explain(
                f"labels in 0..{prediction.mean.shape[1] - 1}",
                f"labels in {int(targets.min())}..{int(targets.max())}",
                where,
                "check the target column, or fit the form with all classes",
            )
        )
