"""`Searched`: the network that a search found, with how it was found."""

from typing import Any

from torch import Tensor, fx, nn

from pluriform.axes import Inputs, Logits
from pluriform.data.signature import Signature
from pluriform.prediction import Prediction, Predictor
from pluriform.search.python_source import python_source

__all__ = ["Searched"]


class Searched(Predictor):
    """The best network of a search; `form.module` is a plain module with the weights that were scored.

    Args:
        module: The network, with readable names.
        signature: Facts of the data.
        facts: How it was found, as plain JSON: every trial with its parent, moves, prediction, score and cost; the
            best, the Pareto front over score, parameters and latency, and the size of the validation split.
        noise: Noise variance of each regression output; `None` in classification.
        cost: Figures of the search.
    """

    noise: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        facts: dict[str, Any],
        noise: Tensor | None = None,
        cost: dict[str, float | int] | None = None,
    ) -> None:
        super().__init__(signature)
        self.module = module
        self.register_buffer("noise", noise)
        self.facts, self.cost = facts, cost or {}

    def forward(self, inputs: Inputs) -> Logits:
        """Outputs of the network."""
        return self.module(inputs)

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Class probabilities, or means with the noise variance."""
        mean = self.probabilities(self(inputs))
        return Prediction(mean, None if self.noise is None else self.noise.expand_as(mean))

    def to_python(self, name: str = "Network") -> str:
        """The source of a file with the class of the network, which needs only torch.

        Its `load_state_dict` takes `form.module.state_dict()`.

        Args:
            name: Of the class.

        Raises:
            UnsupportedOpError: A part that cannot be written down; names it.
        """
        module: Any = self.module
        best, trials = self.facts.get("best"), self.facts.get("trials", [])
        score = next((trial["score"] for trial in trials if trial["number"] == best), None)
        words = "" if score is None else f" Validation score {score:.4f}, trial {best} of {len(trials)}."
        if not isinstance(module, fx.GraphModule):
            return ""
        return python_source(module, f"Found by architecture search on {self.signature.name}.{words}", name)
