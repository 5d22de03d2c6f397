"""`Judge`: the score of a network on held-out samples, and by which of two equal ones is kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.training.feed import resident, take
from pluriform.training.loss import Loss
from pluriform.training.validation import Assessment, assess, looked_at_once

__all__ = ["Judge", "Objective", "objective_name"]

Objective = Callable[[Tensor, Tensor], Any]
"""`(outputs, targets) -> number`, higher is better: outputs `(N, outputs)` of the network (logits in classification)
and targets of all validation samples, on the CPU."""


class Judge:
    """Scores networks on the validation split, higher is better.

    Accuracy, where it is tied, is decided by the loss: a few hundred samples have few different accuracies.

    Args:
        data: With the validation split.
        device: Of the networks.
        objective: In place of accuracy, or of the negative root mean squared error.
    """

    def __init__(self, data: Data, device: torch.device, objective: Objective | None = None) -> None:
        self.split, self.loss, self.device, self.objective = (
            resident(data.validation, device),
            Loss(data.task),
            device,
            objective,
        )

    def __call__(self, network: nn.Module) -> Assessment:
        """Figures, with what the best weights are chosen by; the network is left in evaluation mode."""
        found = assess(network, self.split, self.loss, self.device)
        if self.objective is not None:
            value = self._measured(network)
            return replace(found, criterion=torch.tensor([-value], dtype=torch.float64), more={"objective": value})
        if found.accuracy is None:
            return found
        tie = found.loss.double().clamp(0.0, 1.0) / (2 * len(self.split))
        return replace(found, criterion=tie - found.accuracy.double())

    def score(self, figures: Mapping[str, Any]) -> float:
        """The score in the log of an epoch."""
        if self.objective is not None:
            return float(figures["objective"])
        if self.loss.task == "classification":
            return float(figures["validation_accuracy"])
        return -math.sqrt(figures["validation_loss"])

    def merit(self, criterion: float | int) -> float | None:
        """What networks are ranked by, from the best criterion of a training; `None` for the score itself."""
        decided = self.objective is None and self.loss.task == "classification"
        return -float(criterion) if decided else None

    @torch.no_grad()
    def _measured(self, network: nn.Module) -> float:
        rows = torch.arange(len(self.split)).split(looked_at_once(self.device))
        parts = [take(self.split, index) for index in rows]
        outputs = torch.cat([network(inputs.to(self.device)).cpu() for inputs, _ in parts])
        value = self.objective(outputs, torch.cat([targets.cpu() for _, targets in parts]))  # type: ignore[misc]
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not math.isfinite(number):
            got, name = f"{value!r}"[:80], objective_name(self.objective)
            remedy = "let it return one finite number, higher being better, for (outputs, targets)"
            raise ConfigError(explain("a finite number", got, f"objective {name}", remedy))
        return number


def objective_name(objective: Objective | str | None, default: str = "accuracy") -> str:
    """Its name in words: that of the function."""
    if objective is None or isinstance(objective, str):
        return objective or default
    return str(getattr(objective, "__name__", type(objective).__name__))
