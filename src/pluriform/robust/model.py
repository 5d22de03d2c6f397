"""`RobustModel`: a classifier trained against an adversary."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Logits
from pluriform.data.signature import Signature
from pluriform.prediction import Predictor
from pluriform.robust.pyramid import Pyramid

__all__ = ["RobustModel"]


class RobustModel(Predictor):
    """One network as a form; `form.module` is of the user's own class.

    Args:
        module: The fitted network.
        signature: Facts of the data it was fitted on.
        threat: What it was trained against, with bounds.
        cost: Figures of the fit.
        history: Figures of every validated epoch, by name.
        events: Roll-backs of the training, as plain JSON.
    """

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        threat: Threat,
        cost: dict[str, float | int] | None = None,
        history: dict[str, list[float]] | None = None,
        events: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(signature)
        self.module, self.threat = module, threat
        self.cost, self.history, self.events = cost or {}, history or {}, events or []

    def forward(self, inputs: Inputs) -> Logits:
        """Logits of the network."""
        return self.module(inputs)

    def features(self, strides: Sequence[int] | None = None) -> Pyramid:
        """A module that gives the last feature map at each resolution, by stride; it shares the weights."""
        return Pyramid(self, strides)
