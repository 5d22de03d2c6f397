"""`APD`: posterior samples by Langevin dynamics, distilled into a generator."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.ensemble.apd.sgld import SGLD, Langevin
from pluriform.ensemble.apd.vectors import Distilled, Stored
from pluriform.ensemble.apd.wgan import WGAN, Coordinates
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.ensemble.fitting import fitted_noise, training_loop
from pluriform.ensemble.statistics import calibration_inputs
from pluriform.errors import ConfigError, explain, require
from pluriform.method import FitContext, Method
from pluriform.training.augmentation import Augmentation
from pluriform.training.cost import FitCost, peak_resident
from pluriform.training.feed import Batch, Feed
from pluriform.training.iterations import Iterations
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import training_step
from pluriform.training.validation import residual_variance

__all__ = ["APD"]

MOST_BYTES = 2**32  # Of all kept samples.


@dataclass(frozen=True)
class APD(Method):
    """Sample the posterior by Langevin dynamics, then train a generator of such samples as a Wasserstein GAN.

    First stage (SGLD), e the step size, n the training samples, d the decay:

    w <- w - (e / 2) (grad mean NLL(w) + d w) + N(0, e / n),

    whose stationary distribution is the posterior under the prior N(0, 1 / (n d)). Second stage: a generator G of flat
    weight vectors and a critic D, max_G min_D E D(G(z)) - E D(w) + 10 E (|grad D| - 1)^2.

    All trainable parameters are drawn, whatever the layers. The kept samples take `samples` times the weights times
    4 bytes, at most 4 GiB. The game is played in an orthonormal basis of the span of the samples, which changes nothing
    but the cost (see `Coordinates`), scaled so that the widest direction has a standard deviation of 10.

    In regression the likelihood is Gaussian with the residual variance of the network after `training`; e is multiplied
    by the smallest of these variances (if below 1), so that the drift is that of the squared error; and the noise of
    the form is fitted to its members.

    The paper ran 200,000 steps from random weights (e = 0.05, d = 0.001, batches of 100, 500 steps of burn-in, every
    20th kept: 10,000 samples) and 100,000 to 200,000 of the game at 1e-4. The defaults are for minutes on a CPU, hence
    start from a trained network, and the learning rate of the game falls from 3e-4 to 0.

    Args:
        members: Draws of the form.
        distil: Whether to train the generator; otherwise the members are the samples themselves, distinct ones in the
            fitted form, and `form.draw` takes any of them with replacement.
        samples: States of the chain to keep.
        thin: Steps between two of them.
        burn_in: Steps before the first.
        step_size: e.
        decay: d.
        batch_size: Samples a step of the chain.
        training: How the network is trained before the chain; `None` starts it from the given weights.
        iterations: Steps of the game.
        noise: Length of z.
        hidden: Width of the three hidden layers of generator and critic.

    References:
        Wang, Vicol, Lucas, Gu, Grosse, Zemel 2018, Adversarial Distillation of Bayesian Neural Network Posteriors,
        arXiv:1806.10317.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.APD(members=5, samples=20, training=pf.Training(epochs=1), iterations=20)
        >>> method.fit(pf.nets.build("mlp", data), data).predict(data.test.inputs[:3]).members.shape
        torch.Size([5, 3, 10])
    """

    members: int = 30
    distil: bool = True
    samples: int = 500
    thin: int = 20
    burn_in: int = 500
    step_size: float | int = 0.05
    decay: float | int = 1e-3
    batch_size: int = 100
    training: Recipe | None = field(default_factory=Recipe)
    iterations: int = 3000
    noise: int = 32
    hidden: int = 100

    def __post_init__(self) -> None:
        for name in ("members", "samples", "thin", "batch_size", "iterations", "noise", "hidden"):
            require(self, getattr(self, name) >= 1, name, "at least 1")
        require(self, self.burn_in >= 0, "burn_in", "0 or more")
        require(self, 0 < self.step_size < math.inf, "step_size", "a number above 0")
        require(self, 0 <= self.decay < math.inf, "decay", "0 or more")
        require(self, not self.distil or self.samples >= 2, "samples", "at least 2 to distil")
        require(self, self.distil or self.members <= self.samples, "members", "at most as many as samples")

    def _fit(self, module: Any, data: Data, context: FitContext) -> Drawn:
        network = module.to(context.device)
        self._check(network, data)
        cost, history = FitCost(0.0, 0, 0, 0, 0.0), {}
        if self.training is not None:
            epochs = self.training.epochs_for(len(data.train))
            cost = training_loop(network, data, self.training, context, epochs=epochs, label="warm-start").run()
        chain, spent = self._sample(network, data, context)
        source = Stored(network, chain.samples.to(context.device))
        seeds = _distinct(source, self.members, context.seed)
        cost += spent
        if self.distil:
            source, game = self._distil(network, source.samples, context)
            seeds, history = draw_seeds(self.members, context.seed), game.history
            cost += FitCost(game.seconds, 0, 0, 0, peak_resident(context.device))
        form = Drawn(
            network.eval(),
            source,
            seeds,
            data.signature,
            calibration=calibration_inputs(network, data, context.seed),
            cost=cost.to_json(),
            history=history,
        ).eval()
        form.noise = fitted_noise(form, data)
        return form

    def _check(self, network: nn.Module, data: Data) -> None:
        count = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        if not count:
            remedy = "set requires_grad on the parameters to be drawn"
            raise ConfigError(explain("a network with trainable parameters", "none", type(network).__name__, remedy))
        if 4 * count * self.samples > MOST_BYTES:
            got = f"{self.samples} of {count} weights, {4 * count * self.samples / 2**30:.1f} GiB"
            remedy = f"set samples to at most {MOST_BYTES // (4 * count)}"
            raise ConfigError(explain("kept samples of at most 4 GiB", got, "APD", remedy))
        if data.task == "regression" and self.training is None:
            remedy = "give a training, whose residuals are the noise of the likelihood"
            raise ConfigError(explain("a trained network in regression", "training=None", "APD", remedy))

    def _sample(self, network: nn.Module, data: Data, context: FitContext) -> tuple[SGLD, FitCost]:
        feed = Feed(data, self.batch_size, derive_seed(context.seed, "sgld"), Augmentation(), context.device)
        epochs = (self.burn_in + self.thin * self.samples) // feed.steps
        loss, scale = _likelihood(network, data, context, feed, epochs)
        langevin = Langevin(self.step_size * scale, float(self.decay), len(data.train))
        chain = SGLD(network, loss, feed, langevin, burn_in=self.burn_in, thin=self.thin, kept=self.samples)
        work = Iterations(
            chain.step,
            chain.steps,
            chain.state,
            seed=context.seed,
            device=context.device,
            run=context.run,
            label="sgld",
            remedy=f"lower step_size (now {self.step_size})",
        )
        work.run()
        passes = chain.steps * self.batch_size
        peak = peak_resident(context.device)
        return chain, FitCost(work.seconds, chain.steps // feed.steps, chain.steps, passes, peak)

    def _distil(self, network: nn.Module, samples: Tensor, context: FitContext) -> tuple[Distilled, Iterations]:
        coordinates = Coordinates.of(samples)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(context.seed, "generator"))
            game = WGAN(coordinates.vectors, self.noise, self.hidden, self.iterations)
        work = Iterations(
            game.step,
            self.iterations,
            game.state,
            optimizers=game.optimizers,
            seed=context.seed,
            device=context.device,
            run=context.run,
            label="wgan",
            remedy="lower step_size, so that the samples lie closer together",
        )
        work.run()
        return Distilled(network, coordinates.unfold(game.generator), self.noise), work


def _likelihood(
    network: nn.Module, data: Data, context: FitContext, feed: Feed, epochs: int
) -> tuple[Callable[[Batch], Tensor], float]:
    """Mean negative log-likelihood of a batch up to a constant, and a factor for the step size."""
    if data.task != "regression":
        return training_step(network, Loss(data.task), feed, Recipe(), epochs), 1.0
    split = data.validation if len(data.validation) else data.train
    variance = residual_variance(network, split, context.device).clamp(min=1e-12)

    def loss(batch: Batch) -> Tensor:
        return ((network(batch.inputs) - batch.targets).square() / variance).sum(-1).mean() / 2

    return loss, min(1.0, float(variance.min()))


def _distinct(source: Stored, count: int, seed: int) -> tuple[int, ...]:
    """The first seeds that take different samples."""
    chosen: dict[int, int] = {}
    asked = 2 * count
    while len(chosen) < min(count, len(source.samples)):
        for candidate in draw_seeds(asked, seed):
            chosen.setdefault(source.index(candidate), candidate)
        asked *= 2
    return tuple(chosen.values())[:count]
