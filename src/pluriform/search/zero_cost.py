"""What is told of a network without training it: numbers in which the prior mean of a search can be linear.

    synflow = log sum |theta * dR/dtheta|,  R = the sum of the outputs on ones, every weight being |theta|

The number of parameters is always one of them. On tables of benchmarks hardly any other is better (Spearman with
accuracy on NAS-Bench-201: parameters .74, synflow .74, multiply-accumulates .71), so they are shown side by side.
"""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.graph.graph import Graph
from pluriform.search.morph_space import Grown
from pluriform.search.morphism import Morph
from pluriform.search.moves import replay
from pluriform.search.size import size_of
from pluriform.search.trial import reset

__all__ = ["PRIORS", "ZeroCost", "synflow"]

PRIORS = ("parameters", "macs", "synflow")
SAMPLES = 32
OFFERED = 6
"""Networks that are offered for each parent where each has to be built to be judged: that takes some 50 ms."""


class ZeroCost:
    """Numbers of candidates, remembered.

    Args:
        prior: Of `PRIORS`, or a function `(network, inputs) -> number` of a network with fresh weights in evaluation
            mode and some training inputs, in a unit in which 1 makes a difference (a logarithm). Where it fails, the
            number of the start stands in, for which it must not fail.
        start: The network that all others grow from.
        data: Its first training inputs are those that a function sees.
        seed: Of fresh weights.
    """

    def __init__(self, prior: str | Callable[..., Any], start: Graph, data: Data, seed: int) -> None:
        self.prior, self.start, self.seed = prior, start, seed
        self.inputs, _ = data.train.batch(torch.arange(min(SAMPLES, len(data.train))))
        self.name = prior if isinstance(prior, str) else getattr(prior, "__name__", type(prior).__name__)
        self._known: dict[str, list[float]] = {}
        self._own: float | None = None

    def __call__(self, one: Grown) -> list[float]:
        """The logarithm of the number of parameters, and the prior's own number where that is another."""
        if one.key not in self._known:
            own = [] if self.prior == "parameters" else [self._number(one)]
            self._known[one.key] = [math.log(max(1, one.parameters)), *own]
        return self._known[one.key]

    @property
    def offered(self) -> float | int:
        """Most networks that are offered for each parent."""
        return math.inf if self.prior in ("parameters", "macs") else OFFERED

    def told(self, one: Grown) -> dict[str, float]:
        """The same by name."""
        return dict(zip(("parameters", self.name), self(one), strict=False))

    def _number(self, one: Grown) -> float:
        if self.prior == "macs":
            return math.log(max(1, size_of(one.outline).macs))
        try:
            return self._judged(one.moves)
        except Exception:
            if not one.moves:
                raise
            if self._own is None:
                self._own = self._judged(())
            logging.getLogger("pluriform").warning(
                "prior %s of %r failed: that of the start", self.name, one, exc_info=True
            )
            return self._own

    def _judged(self, moves: Sequence[Morph]) -> float:
        """The prior's number of a network."""
        network = replay(self.start, moves).module
        reset(network, self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            value = (synflow if self.prior == "synflow" else self.prior)(network.eval(), self.inputs)  # type: ignore[operator]
        if not isinstance(value, int | float | Tensor) or not math.isfinite(float(value)):
            remedy = "let it return one finite number for (network, inputs)"
            raise ConfigError(explain("a finite number", f"{value!r}"[:80], f"prior {self.name} of the start", remedy))
        return float(value)


def synflow(network: nn.Module, inputs: Tensor) -> float:
    """The synaptic flow through a network, as a logarithm; the network stays as it is.

    Args:
        network: With any weights.
        inputs: Examples of shape and type; their values do not count.

    References:
        Tanaka, Kunin, Yamins, Ganguli 2020, Pruning neural networks without any data by iteratively conserving synaptic
        flow, arXiv:2006.05467. Abdelfattah, Mehrotra, Dudziak, Lane 2021, Zero-Cost Proxies for Lightweight NAS,
        arXiv:2101.08134 (as a score of architectures).

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[-1.0, 3.0]]))
        >>> round(math.exp(synflow(layer, torch.zeros(5, 2))), 4)
        4.0
    """
    copied = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for part in copied.parameters():
            part.abs_()
    weights = [part for part in copied.parameters() if part.requires_grad]
    ones = torch.ones_like(inputs[:1].double()) if inputs.is_floating_point() else inputs[:1]
    slopes = torch.autograd.grad(copied(ones).sum(), weights, allow_unused=True)
    pairs = ((part.detach(), slope) for part, slope in zip(weights, slopes, strict=True) if slope is not None)
    return math.log(sum(float((part * slope).abs().sum()) for part, slope in pairs) + 1e-300)
