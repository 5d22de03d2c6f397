"""Stochastic gradient Langevin dynamics over the weights of a network."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.ensemble.apd.vectors import flat_weights
from pluriform.graph.parameters import weights_of
from pluriform.training.feed import Batch, Feed

__all__ = ["Langevin", "SGLD"]


@dataclass(frozen=True)
class Langevin:
    """One step: w <- w - (e / 2) (grad mean NLL + d w) + N(0, e / n).

    Its stationary distribution, for small e, is the posterior under the prior N(0, 1 / (n d)).

    Attributes:
        step_size: e.
        decay: d.
        samples: n, the size of the training split.

    References:
        Welling, Teh 2011, Bayesian Learning via Stochastic Gradient Langevin Dynamics.
    """

    step_size: float
    decay: float
    samples: int

    @torch.no_grad()
    def move(self, parameters: Sequence[Tensor]) -> None:
        """One step of parameters that hold the gradient of the mean NLL; noise from torch's default generator."""
        for parameter in parameters:
            force = (
                self.decay * parameter if parameter.grad is None else parameter.grad.add(parameter, alpha=self.decay)
            )
            parameter.add_(force, alpha=-self.step_size / 2)
            parameter.add_(torch.randn_like(parameter), alpha=math.sqrt(self.step_size / self.samples))


class SGLD:
    """A chain over the trainable parameters of `network`, of which every `thin`-th state after `burn_in` is kept.

    Args:
        network: Moved in place. Normalisation layers use the statistics of the batch; dropout is off, as the posterior
            is that of the network without it.
        loss: Mean negative log-likelihood of a batch, in nats a sample.
        feed: The batches.
        langevin: How the weights move.
        burn_in: Steps before the first kept one.
        thin: Steps from one kept state to the next.
        kept: States to keep.

    Attributes:
        samples: Kept states as flat vectors, `(kept, weights)`, on the CPU.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Batch], Tensor],
        feed: Feed,
        langevin: Langevin,
        *,
        burn_in: int,
        thin: int,
        kept: int,
    ) -> None:
        self.network, self.loss, self.feed, self.langevin = network, loss, feed, langevin
        self.burn_in, self.thin, self.steps = burn_in, thin, burn_in + thin * kept
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.samples = torch.zeros(kept, sum(parameter.numel() for parameter in self.parameters))
        self._batches: Iterator[Batch] = iter(())

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that a step changes."""
        return {f"weights/{name}": tensor for name, tensor in weights_of(self.network).items()} | {
            "samples": self.samples
        }

    def step(self, number: int) -> Mapping[str, float]:
        """Step `number`, from 0; the loss of its batch."""
        self.network.train()
        for layer in self.network.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss(self._batch(number))
        loss.backward()
        self.langevin.move(self.parameters)
        kept, rest = divmod(number + 1 - self.burn_in, self.thin)
        if kept > 0 and rest == 0:
            self.samples[kept - 1] = flat_weights(self.parameters).cpu()
        return {"loss": loss.item()}

    def _batch(self, number: int) -> Batch:
        """The batch of a step, which only the number decides."""
        batch = next(self._batches, None)
        if batch is None:
            self._batches = self.feed.batches(*divmod(number, self.feed.steps))
            batch = next(self._batches)
        return batch
