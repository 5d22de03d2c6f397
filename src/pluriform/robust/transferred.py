"""`Transferred`: a network that was brought to another data set."""

from collections.abc import Sequence

from torch import nn

from pluriform.axes import Inputs, Logits
from pluriform.data.signature import Signature
from pluriform.prediction import Predictor
from pluriform.robust.pyramid import Pyramid

__all__ = ["Transferred"]


class Transferred(Predictor):
    """One network as a form; `form.module` is of the user's own class.

    Args:
        module: The fitted network.
        signature: Facts of the target.
        head: Dotted path of the layer that was replaced.
        trained: Names of the parameters that were trained, the head's included.
        cost: Figures of the fit.
        history: Figures of every validated epoch, by name.
    """

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        head: str,
        trained: list[str],
        cost: dict[str, float | int] | None = None,
        history: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(signature)
        self.module, self.head, self.trained = module, head, trained
        self.cost, self.history = cost or {}, history or {}

    def forward(self, inputs: Inputs) -> Logits:
        """Logits of the network."""
        return self.module(inputs)

    def features(self, strides: Sequence[int] | None = None) -> Pyramid:
        """A module that gives the last feature map at each resolution, by stride; it shares the weights."""
        return Pyramid(self, strides)
