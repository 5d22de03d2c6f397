"""`Narrowed`: a thin network that learned from a wide one."""

from typing import Any

from torch import Tensor, nn

from pluriform.axes import Inputs, Logits
from pluriform.data.signature import Signature
from pluriform.prediction import Prediction, Predictor

__all__ = ["Narrowed"]


class Narrowed(Predictor):
    """One network as a form; `form.module` is of the user's own class and has its widths.

    In regression the predictive distribution is Gaussian with a constant variance `noise`, the mean squared error of
    each output on the validation split (on the training split where that is empty).

    Args:
        module: The fitted network.
        signature: Facts of the data it was fitted on.
        noise: Noise variance of each regression output, shape `(outputs,)`; `None` in classification.
        cost: Figures of the fit as `FitCost` names them, those of the wide network under `wide_...`.
        history: Figures of every validated epoch, by name.
        facts: What the method tells beside, as plain JSON.
    """

    noise: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        noise: Tensor | None = None,
        cost: dict[str, float | int] | None = None,
        history: dict[str, list[float]] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(signature)
        self.module = module
        self.register_buffer("noise", noise)
        self.cost, self.history, self.facts = cost or {}, history or {}, facts or {}

    def forward(self, inputs: Inputs) -> Logits:
        """Outputs of the network."""
        return self.module(inputs)

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Class probabilities, or means with the noise variance."""
        mean = self.probabilities(self(inputs))
        return Prediction(mean, None if self.noise is None else self.noise.expand_as(mean))
