"""`Subject`: the form under evaluation together with its answers, which several protocols read."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.evaluation.bootstrap import Bootstrap
from pluriform.evaluation.check import check_answers
from pluriform.prediction import Prediction, Predictor

__all__ = ["Answers", "Subject", "answer", "stratified_index"]

READ_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions for the samples of a split, on the CPU.

    Attributes:
        prediction: What the form says.
        targets: What is true.
    """

    prediction: Prediction
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Subject:
    """A form, its data and the seed of the evaluation.

    Attributes:
        form: What is judged.
        data: Its data set; figures come from the test split, temperatures and noise from validation.
        seed: Source of every draw of the evaluation.
    """

    form: Predictor
    data: Data
    seed: int = 0

    @cached_property
    def test(self) -> Answers:
        """Answers on the test split."""
        return answer(self.form, self.data.test)

    @cached_property
    def validation(self) -> Answers | None:
        """Answers on the validation split; `None` where it is empty."""
        return answer(self.form, self.data.validation) if len(self.data.validation) else None

    @property
    def bootstrap(self) -> Bootstrap:
        """The resamples behind the intervals."""
        return Bootstrap(self.seed)


def answer(form: Predictor, split: Split | StreamSplit, index: Tensor | None = None) -> Answers:
    """Predict the samples at `index` (all of them by default), reading the split piece by piece.

    Raises:
        NonFiniteError: NaN or infinity in inputs or targets.
        DivergenceError: NaN or infinity in the predictions.
        LabelError: A label outside the form's classes.
    """
    index = torch.arange(len(split)) if index is None else index
    predictions, targets = [], []
    for part in index.split(READ_AT_ONCE):
        inputs, truth = split.batch(part)
        predictions.append(_on_cpu(form.predict(inputs)))
        targets.append(truth.cpu())
        check_answers(form, inputs, predictions[-1], targets[-1])
    return Answers(Prediction.concatenate(predictions), torch.cat(targets))


def _on_cpu(prediction: Prediction) -> Prediction:
    fields = (prediction.mean, prediction.variance, prediction.members, prediction.score)
    return Prediction(*(None if value is None else value.detach().cpu() for value in fields))  # type: ignore[arg-type]


def stratified_index(targets: Tensor, count: int, seed: int) -> Tensor:
    """At most `count` sample indices with every class in its share, seeded, in ascending order.

    Test files are often sorted by class or by difficulty, so that their first samples are no fair sample.

    Args:
        targets: Labels of the split; targets that are not integers are sampled without strata.
        count: Samples wanted.
        seed: Source of the draw.
    """
    size = len(targets)
    if size <= count:
        return torch.arange(size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    if targets.dtype.is_floating_point or targets.ndim > 1:
        return order[:count].sort().values
    by_class = order[targets[order].sort(stable=True).indices]
    spread = (torch.arange(count, dtype=torch.float64) + 0.5) * size / count
    return by_class[spread.long()].sort().values
