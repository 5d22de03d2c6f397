"""`DAT`: adversarial training of both halves of a classifier, p(y|x) and the support of p(x)."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.attacks.threat import Threat
from pluriform.data.data import Data
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.contrast import Adversary, Contrast
from pluriform.energy.curriculum import Curriculum
from pluriform.energy.langevin import Langevin
from pluriform.energy.score import check_logits
from pluriform.energy.space import Space
from pluriform.energy.start import Start, UniformStart, fitted_start
from pluriform.energy.streams import Cycle
from pluriform.energy.support import SupportModel
from pluriform.errors import BoundsError, ConfigError, explain, require
from pluriform.fused.network import fusing_pays
from pluriform.method import FitContext, Method
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident
from pluriform.training.guard import Guard
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import assess

__all__ = ["DAT"]

LEAST_EPS = 1 / 255  # A grey level: smaller radii are scaled once too often.


def _recipe() -> Recipe:
    return Recipe(learning_rate=1e-3, weight_decay=5e-4, schedule="constant", warmup=0.0, ema=0.999)


@dataclass(frozen=True)
class DAT(Method):
    """Dual adversarial training: robust like adversarial training, and a sampler of its inputs.

    Ordinary adversarial training comes first. Then each update adds up two losses, with BatchNorm frozen: cross-entropy
    on L2 attacks of labelled samples, and -log sigma(s(x)) - log(1 - sigma(s(x~))) with s = logsumexp f, where x~
    starts as noise and takes T steps x <- clip(x + step g / ||g||), g = grad f_y(x), y the classes of a batch of data.
    T begins at 0 and grows by one when the logits f_y tell data from samples well enough.

    The pull of a sample on the loss is bounded, so that no energy can run away as in JEM. In return, it learns
    the support of the data: the score of the form is not log p(x) up to a constant. Unlabelled samples are not used.

    Lengths are L2 norms in units where inputs span [0, 1], as published, whatever the bounds of the data.

    Args:
        training: Of the second stage; a `Training` serves.
        pretraining: Epochs of the first stage; `None` for as many as plain training takes by itself, 0 for none, where
            the network is already trained.
        pretraining_rate: Peak of the learning rate of the first stage, which is cosine; the rest is as in `training`.
        eps: Radius of the attacks.
        attack_steps: Of projected gradient descent, without a random start.
        attack_step: Length of each.
        steps: Most steps of a contrastive sample.
        step: Length of each, before the bounds are kept.
        threshold: AUROC, over 1,000 images of either kind, from which on T grows.
        seeds: Where contrastive samples begin: a `gaussian` of each class, fitted to the data, in the place of the
            images of other sources that were published; or `uniform` noise, which is so far from most data that
            samples stay noise.
        penalty: Weight of half the squared gradient of s at the data (R1).
        rollbacks: Most roll-backs; one more fault ends the training with the last good state.

    References:
        Yin et al. 2026, Joint discriminative-generative modeling via dual adversarial training, arXiv:2510.13872.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.DAT(training=pf.Training(epochs=2, learning_rate=1e-3), pretraining=2)
        >>> form = method.fit(pf.nets.build("mlp", data), data)
        >>> form.predict(data.test.inputs[:3]).score.shape, form.sample(2, label=3).shape
        (torch.Size([3]), torch.Size([2, 1, 8, 8]))
    """

    training: Recipe = field(default_factory=_recipe)
    pretraining: int | None = None
    pretraining_rate: float | int = 3e-3
    eps: float | int = 0.5
    attack_steps: int = 10
    attack_step: float | int = 0.1
    steps: int = 40
    step: float | int = 0.1
    threshold: float | int = 0.8
    seeds: Literal["uniform", "gaussian"] = "gaussian"
    penalty: float | int = 0.0
    rollbacks: int = 8

    def __post_init__(self) -> None:
        require(self, self.pretraining is None or self.pretraining >= 0, "pretraining", "epochs, 0 or more, or None")
        require(self, 0 <= self.eps < math.inf, "eps", "0 or more")
        for name in ("pretraining_rate", "attack_step", "step"):
            require(self, 0 < getattr(self, name) < math.inf, name, "a number above 0")
        for name in ("attack_steps", "steps", "rollbacks"):
            require(self, getattr(self, name) >= 0, name, "0 or more")
        require(self, 0 < self.threshold <= 1, "threshold", "an AUROC above 0, at most 1")
        require(self, self.seeds in ("uniform", "gaussian"), "seeds", "'uniform' or 'gaussian'")
        require(self, 0 <= self.penalty < math.inf, "penalty", "0 or more")

    def _fit(self, module: Any, data: Data, context: FitContext) -> SupportModel:
        self._check(data)
        network = module.to(context.device)
        sample, _ = data.train.batch(torch.arange(min(64, len(data.train))))
        with torch.no_grad():
            check_logits(network.eval()(sample.to(context.device)), f"DAT of {type(module).__name__}")
        cost = self._pretrained(network, data, context)
        buffer = self._buffer(data, context)
        contrast = self._contrast(network, buffer, data, context)
        guard = Guard(
            contrast.check, lambda: "", afterwards=lambda _: contrast.curriculum.forget(), most=self.rollbacks
        )
        loop = self._loop(network, self.training, contrast, data, context, "joint", extra=contrast.state, guard=guard)
        own = self._counted(loop.run(), contrast)
        cost = own if cost is None else _after(cost, own)
        trips = [trip.to_json() for trip in guard.trips]
        reached = int(contrast.curriculum)
        return SupportModel(
            network,
            data.signature,
            buffer,
            replace(contrast.sampler, steps=reached),
            True,
            {**cost.to_json(), "roll_backs": len(trips), "climbing_steps": reached},
            loop.columns,
            trips,
        )

    def _check(self, data: Data) -> None:
        if data.task != "classification":
            remedy = "take a classification task; a regression network has no logits"
            raise ConfigError(explain("classification", data.task, "DAT", remedy))
        if data.bounds is None:
            remedy = "name the lowest and highest legal value: dataclasses.replace(data, bounds=(0.0, 1.0))"
            raise BoundsError(explain("bounds, which attacks and samples must not leave", "None", data.name, remedy))
        most = math.sqrt(math.prod(data.input_shape)) / 2
        if self.eps > most:
            got = f"eps={self.eps:g}, with which every input can become the same grey"
            expected = f"a radius for inputs that span [0, 1], below {most:g} for the shape {data.input_shape}"
            remedy = f"divide by the scale of the inputs ({self.eps:g}/255 = {self.eps / 255:.3g}), or take 0.5"
            raise ConfigError(explain(expected, got, "DAT", remedy))
        if 0 < self.eps < LEAST_EPS:
            got, remedy = f"eps={self.eps:g}, less than one grey level", f"take {self.eps * 255:.3g}, or 0 for none"
            raise ConfigError(explain("a radius for inputs that span [0, 1]", got, "DAT", remedy))

    def _adversary(self, data: Data) -> Adversary:
        low, high = data.bounds or (0.0, 1.0)
        threat = Threat("l2", float(self.eps) * (high - low), (low, high))
        return Adversary(threat, self.attack_steps, float(self.attack_step) * (high - low))

    def _pretrained(self, network: nn.Module, data: Data, context: FitContext) -> FitCost | None:
        """The first stage."""
        if self.pretraining == 0:
            return None
        recipe = replace(
            self.training,
            epochs=self.pretraining,
            learning_rate=self.pretraining_rate,
            schedule="cosine",
            warmup=0.05,
            ema=None,
            patience=None,
        )
        adversary, loss = self._adversary(data), Loss.of(recipe, data, context.device)

        def step(batch: Batch) -> Tensor:
            attacked = adversary(network, batch)
            return loss(network(attacked.inputs), attacked.targets)

        cost = self._loop(network, recipe, step, data, context, "adversarial").run()
        return replace(cost, sample_passes=cost.sample_passes * (3 + adversary.passes) // 3)

    def _buffer(self, data: Data, context: FitContext) -> ReplayBuffer:
        """One seed of each class, and where they come from."""
        space = Space.of(data)
        start: Start = UniformStart(space, data.input_shape)
        if self.seeds == "gaussian":
            start = fitted_start(data, space)
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "chains"))
        return ReplayBuffer(start, data.outputs, data.outputs, generator).to(context.device)

    def _contrast(self, network: nn.Module, buffer: ReplayBuffer, data: Data, context: FitContext) -> Contrast:
        recipe = self.training
        seed = derive_seed(context.seed, "density")
        return Contrast(
            network,
            self._adversary(data),
            Langevin(self.steps, 2 * float(self.step), 0.0, normalise=True),  # Its unit is half the range.
            Curriculum(float(self.threshold), self.steps),
            buffer.start,
            Cycle(Feed(data, recipe.batch_size, seed, recipe.augmentation, context.device)),
            Loss.of(recipe, data, context.device),
            float(self.penalty),
            fusing_pays(
                network, buffer.samples[:1], 2 * self.steps * len(data.train) * recipe.epochs_for(len(data.train))
            ),
        )

    def _counted(self, cost: FitCost, contrast: Contrast) -> FitCost:
        """A forward pass is a third of a pass with its gradients: 2 T + 9 of them a step, and the attack's."""
        climbs = 2 * int(contrast.climbed) * self.training.batch_size
        thirds = cost.sample_passes * (9 + contrast.adversary.passes) + climbs
        return replace(cost, sample_passes=thirds // 3)

    @staticmethod
    def _loop(
        network: nn.Module, recipe: Recipe, step: Any, data: Data, context: FitContext, label: str, **more: Any
    ) -> Loop:
        checked, plain = resident(data.validation, context.device), Loss(data.task)
        return Loop(
            network,
            step,
            Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device),
            recipe,
            seed=derive_seed(context.seed, label),
            epochs=recipe.epochs_for(len(data.train)),
            run=context.run,
            validate=(lambda: assess(network, checked, plain, context.device)) if len(checked) else None,
            label=label,
            **more,
        )


def _after(first: FitCost, second: FitCost) -> FitCost:
    """Cost of two stages, one after the other."""
    return replace(first + second, epochs=first.epochs + second.epochs, steps=first.steps + second.steps)
