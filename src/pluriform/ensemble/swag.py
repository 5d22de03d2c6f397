"""`SWAG`: a Gaussian around the path of stochastic gradient descent."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.ensemble.fitting import fitted_noise, training_loop
from pluriform.ensemble.iterates import Collector
from pluriform.ensemble.statistics import calibration_inputs
from pluriform.errors import ConfigError, explain, require
from pluriform.method import FitContext, Method
from pluriform.training.cost import FitCost
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed

__all__ = ["SWAG"]

SPARE = 5  # Iterates beyond the rank, which have left the columns and count in mean and variance.


@dataclass(frozen=True)
class SWAG(Method):
    """Train, go on with SGD at a constant rate, and draw from a Gaussian fitted to the weights on the way.

    theta = mean + sqrt(s) (sqrt(variance) e1 + D e2 / sqrt(R - 1)), s = 1/2, e1 and e2 standard normal: mean and
    variance of the iterates, and as D the last R deviations from the mean up to then (R the stored ones). The share
    `collect_from` of the epochs is ordinary training by the recipe with its schedule; the rest runs at
    `swag_learning_rate` without warm-up. An iterate is taken after each of these epochs, or more often where that would
    be fewer than `rank` + 5: then evenly, up to once a step. Each draw has its own running statistics of BatchNorm.

    Args:
        members: Number of draws.
        rank: Deviations kept, R; 0 for a diagonal Gaussian.
        collect_from: Share of the epochs before iterates are taken.
        swag_learning_rate: Constant rate while they are; higher ones spread the draws further.
        scale: s; 1/2 halves the covariance between diagonal and low rank, 1 suits rank 0, 0 gives the mean alone.
        training: How the network is trained; plain SGD with momentum is what the Gaussian is meant for. Early stopping
            and moving averages act before iterates are taken only.

    References:
        Maddox, Garipov, Izmailov, Vetrov, Wilson 2019, A Simple Baseline for Bayesian Uncertainty in Deep Learning,
        arXiv:1902.02476.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.SWAG(members=10, training=pf.Training(epochs=4, optimizer="sgd", learning_rate=0.05))
        >>> method.fit(pf.nets.build("mlp", data), data).predict(data.test.inputs[:3]).members.shape
        torch.Size([10, 3, 10])
    """

    members: int = 30
    rank: int = 20
    collect_from: float | int = 0.75
    swag_learning_rate: float | int = 0.03
    scale: float | int = 0.5
    training: Recipe = field(
        default_factory=lambda: Recipe(optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, clip_norm=1.0)
    )

    def __post_init__(self) -> None:
        require(self, self.members >= 1, "members", "at least 1")
        require(self, self.rank == 0 or self.rank >= 2, "rank", "at least 2, or 0 for a diagonal Gaussian")
        require(self, 0 <= self.collect_from < 1, "collect_from", "a share in [0, 1)")
        require(self, 0 < self.swag_learning_rate < math.inf, "swag_learning_rate", "a number above 0")
        require(self, 0 <= self.scale < math.inf, "scale", "0 or more")

    def _fit(self, module: Any, data: Data, context: FitContext) -> Drawn:
        network = module.to(context.device)
        _check(network)
        epochs = self.training.epochs_for(len(data.train))
        first = min(epochs - 1, round(epochs * self.collect_from))
        costs = [training_loop(network, data, self.training, context, epochs=first).run()] if first else []
        collector, cost = self._collect(network, data, context, epochs - first)
        source = collector.source(float(self.scale))
        _fill(network, source.mean)
        form = Drawn(
            network.eval(),
            source,
            draw_seeds(self.members, context.seed),
            data.signature,
            calibration=calibration_inputs(network, data, derive_seed(context.seed, "calibration")),
            cost=sum(costs, cost).to_json(),
        ).to(context.device)
        form.noise = fitted_noise(form.eval(), data)
        return form

    def _collect(self, network: nn.Module, data: Data, context: FitContext, epochs: int) -> tuple[Collector, FitCost]:
        """Train on at a constant rate; the moments of the weights on the way."""
        recipe = replace(
            self.training,
            learning_rate=self.swag_learning_rate,
            schedule="constant",
            warmup=0.0,
            patience=None,
            ema=None,
        )
        seed = derive_seed(context.seed, "iterates")
        collector = Collector(network, self.rank, 1).to(context.device)
        loop = training_loop(
            collector, data, recipe, context, epochs=epochs, seed=seed, before=collector.before_step, label="iterates"
        )
        per_epoch = math.ceil((self.rank + SPARE) / epochs)
        collector.every = max(1, loop.feed.steps // per_epoch)
        cost = loop.run()
        collector.collect()
        return collector, cost


def _check(network: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in network.parameters()):
        got, remedy = "none", "unfreeze some: requires_grad_(True)"
        raise ConfigError(explain("a network with trainable parameters", got, type(network).__name__, remedy))


@torch.no_grad()
def _fill(network: nn.Module, weights: torch.Tensor) -> None:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter, part in zip(trained, weights.split([own.numel() for own in trained]), strict=True):
        parameter.copy_(part.view_as(parameter))
