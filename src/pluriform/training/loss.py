"""The loss of ordinary training, for one network or for stacked members."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pluriform.data.data import Data, StreamSplit
from pluriform.errors import ConfigError, explain
from pluriform.training.recipe import Recipe

__all__ = ["Loss", "class_weights"]


@dataclass(frozen=True, eq=False)
class Loss:
    """Cross-entropy in classification, mean squared error in regression, averaged over batch (and outputs).

    Attributes:
        task: What is predicted.
        smoothing: Share of the target probability spread over all classes.
        weights: One a class, shape `(outputs,)`; the mean over the batch is then the weighted one.
    """

    task: Literal["classification", "regression", "translation"]
    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Scalar for outputs `(batch, outputs)`, shape `(member,)` for `(member, batch, outputs)`."""
        if self.task != "classification":
            return (outputs - targets).square().mean((-2, -1))
        if outputs.dim() == 2:
            return F.cross_entropy(outputs, targets, weight=self.weights, label_smoothing=self.smoothing)
        terms = F.cross_entropy(
            outputs.flatten(0, 1),
            targets.flatten(),
            weight=self.weights,
            label_smoothing=self.smoothing,
            reduction="none",
        ).view_as(targets)
        return terms.mean(-1) if self.weights is None else terms.sum(-1) / self.weights[targets].sum(-1)

    @staticmethod
    def of(recipe: Recipe, data: Data, device: torch.device) -> "Loss":
        """The loss that `recipe` asks for on `data`."""
        weights = class_weights(recipe, data)
        return Loss(data.task, float(recipe.label_smoothing), None if weights is None else weights.to(device))


def class_weights(recipe: Recipe, data: Data) -> Tensor | None:
    """Weights of mean 1 over the training samples (`balanced`), the given ones, or `None`.

    Raises:
        ConfigError: A wrong number of weights, weights in regression, or balanced ones of a stream.
    """
    asked = recipe.class_weights
    if asked == "none":
        return None
    if data.task != "classification" or (asked == "balanced" and isinstance(data.train, StreamSplit)):
        got = f"{data.task} on {'a stream' if isinstance(data.train, StreamSplit) else 'arrays'}"
        raise ConfigError(
            explain("classification in memory for class weights", got, data.name, "use class_weights='none'")
        )
    if isinstance(asked, tuple):
        if len(asked) != data.outputs:
            raise ConfigError(
                explain(f"{data.outputs} class weights", f"{len(asked)}", data.name, "give one a class, in label order")
            )
        return torch.tensor(asked, dtype=torch.float32)
    counts = torch.bincount(data.train.targets, minlength=data.outputs).float()  # type: ignore[union-attr]
    return counts.sum() / (counts.clamp(min=1) * (counts > 0).sum())
