"""`evaluate`: every protocol that applies to a form and its data, in one `Result`."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pluriform.data.data import Data
from pluriform.data.signature import Signature
from pluriform.evaluation.accuracy import measure_accuracy
from pluriform.evaluation.calibration import measure_calibration
from pluriform.evaluation.environment import environment
from pluriform.evaluation.subject import Subject, check_subject
from pluriform.prediction import Predictor
from pluriform.result import Result

__all__ = ["evaluate"]


def evaluate(
    form: nn.Module,
    data: Data,
    *,
    outliers: Sequence[Data] = (),
    seed: int = 0,
    label: str | None = None,
    network: str = "",
    method: Mapping[str, Any] | None = None,
) -> Result:
    """Judge a form."""
    predictor = form if isinstance(form, Predictor) else _Plain(form, data.signature)
    subject = Subject(predictor, data, seed)
    check_subject(subject)
    parts = [measure_accuracy(subject), measure_calibration(subject)]
    return Result(
        form=label or type(form).__name__,
        method=method or {},
        network=network,
        data=describe(data),
        seed=seed,
        measures=tuple(found for part in parts for found in part.measures),
        curves=tuple(curve for part in parts for curve in part.curves),
        protocol={name: value for part in parts for name, value in part.protocol.items()},
        environment=environment(predictor.device),
    )


def describe(data: Data) -> dict[str, Any]:
    """The facts of a data set as plain JSON."""
    return {
        "name": data.name,
        "task": data.task,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "classes": list(data.classes),
        "input_shape": list(data.input_shape),
        "outputs": data.outputs,
        "bounds": None if data.bounds is None else list(data.bounds),
    }


class _Plain(Predictor):
    """A module that is no form yet, seen as one."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__(signature)
        self.module = module

    def forward(self, inputs: Any) -> Any:
        return self.module(inputs)
