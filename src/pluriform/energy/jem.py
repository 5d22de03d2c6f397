"""`JEM`: train a classifier and the density of its inputs at once."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.joint import Joint, Terms, noisy
from pluriform.energy.langevin import Langevin
from pluriform.energy.model import EnergyModel
from pluriform.energy.normalisation import Policy, prepared
from pluriform.energy.score import check_logits
from pluriform.energy.space import Space
from pluriform.energy.start import Start, UniformStart, fitted_start
from pluriform.energy.streams import Cycle, density_data
from pluriform.errors import ConfigError, explain, require
from pluriform.fused.network import fusing_pays
from pluriform.method import FitContext, Method
from pluriform.training.augmentation import Augmentation
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident
from pluriform.training.guard import Guard
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import training_step
from pluriform.training.validation import assess

__all__ = ["JEM"]


def _recipe() -> Recipe:
    return Recipe(learning_rate=1e-3, weight_decay=0.0)


@dataclass(frozen=True)
class JEM(Method):
    """Maximise log p(y|x) + log p(x) of one network: cross-entropy, and data against chains of a replay buffer.

    Chains are those of stochastic gradient Langevin dynamics. Step sizes, noise and clamps are in units where inputs
    span [-1, 1] (tables: where each feature has unit variance). Runaways are noticed, rolled back and met by half the
    learning rate and a stronger penalty; the form's `events` tell.

    The defaults are for small networks that should stay classifiers: the density has a tenth of the weight, chains
    begin near the data and take half the published steps (`published` gives the recipe of 2020). More weight gives
    better samples and costs accuracy. Strided convolutions and a head that knows positions carry a density better than
    pooling does.

    Args:
        training: How the network is trained; a `Training` serves.
        terms: Weights of the loss. With weights of zero for all but the classification this is plain training, bit for
            bit, if `input_noise` is zero too.
        sampler: Of the chains.
        start: Where chains begin: `uniform` within the bounds, or a `gaussian` of each class, fitted to the data.
        buffer_size: Chains that live on; one or a few less where it is no multiple of the number of classes.
        renewed: Probability that a chain starts anew in a step.
        conditional: Chains of log p(x, y), a block of the buffer for each class: better samples, a bit less accuracy.
        input_noise: Standard deviation of noise on the inputs, in units of [-1, 1].
        augment_density: Whether augmentation and noise also change the stream of p(x).
        normalisation: What becomes of BatchNorm: `refuse`, `freeze`, `group` or `train`.
        smooth: Put SiLU in the place of ReLU modules.
        sharpness: Radius of sharpness-aware minimisation; 0 for none.
        rollbacks: Most roll-backs; one more runaway ends the training with the last good state.

    References:
        Grathwohl et al. 2020, Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One,
        arXiv:1912.03263.
        Yang, Ji 2021, JEM++, arXiv:2109.09032 (gradient clamps, Gaussian start, batch statistics).
        Yang, Su, Ji 2023, SADA-JEM, arXiv:2209.07959 (sharpness, no augmentation of p(x)).

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.JEM(training=pf.Training(epochs=2, learning_rate=1e-3), buffer_size=1000)
        >>> form = method.fit(pf.nets.build("mlp", data), data)
        >>> form.predict(data.test.inputs[:3]).score.shape, form.sample(2).shape
        (torch.Size([3]), torch.Size([2, 1, 8, 8]))
    """

    training: Recipe = field(default_factory=_recipe)
    terms: Terms = field(default_factory=lambda: Terms(density=0.1))
    sampler: Langevin = field(default_factory=lambda: Langevin(steps=10))
    start: Literal["uniform", "gaussian"] = "gaussian"
    buffer_size: int = 10_000
    renewed: float | int = 0.05
    conditional: bool = False
    input_noise: float | int = 0.03
    augment_density: bool = True
    normalisation: Policy = "refuse"
    smooth: bool = False
    sharpness: float | int = 0.0
    rollbacks: int = 8

    def __post_init__(self) -> None:
        require(self, self.start in ("uniform", "gaussian"), "start", "'uniform' or 'gaussian'")
        require(self, self.buffer_size >= 1, "buffer_size", "at least 1")
        require(self, 0 <= self.renewed <= 1, "renewed", "a probability")
        require(self, 0 <= self.input_noise < math.inf, "input_noise", "0 or more")
        require(self, 0 <= self.sharpness < math.inf, "sharpness", "0 or more")
        require(self, self.rollbacks >= 0, "rollbacks", "0 or more")
        policies = ("refuse", "freeze", "group", "train")
        require(self, self.normalisation in policies, "normalisation", f"one of {', '.join(policies)}")
        expected = "True where terms.joint is above 0, as chains of p(x) belong to no class"
        require(self, self.conditional or not self.terms.joint, "conditional", expected)

    @staticmethod
    def published(training: Recipe, **changed: Any) -> "JEM":
        """The recipe of 2020 without any cure; a runaway ends the training with the last good state."""
        facts = {"sampler": Langevin(clamp_inputs=False), "terms": Terms(), "start": "uniform", "rollbacks": 0}
        return JEM(training, **(facts | changed))

    def _fit(self, module: Any, data: Data, context: FitContext) -> EnergyModel:
        if data.task != "classification":
            remedy = "take a classification task; a regression network has no logits"
            raise ConfigError(explain("classification", data.task, "JEM", remedy))
        network = prepared(module, self.normalisation, self.smooth).to(context.device)
        with torch.no_grad():
            network.eval()
            sample, _ = data.train.batch(torch.arange(min(64, len(data.train))))
            check_logits(network(sample.to(context.device)), f"JEM of {type(module).__name__}")
        buffer = self._buffer(data, context)
        if self.terms.plain:
            loop = self._plain_loop(network, buffer.space, data, context)
        else:
            loop = self._joint_loop(network, buffer, data, context)
        cost = loop.run()
        trips = [trip.to_json() for trip in loop.guard.trips] if loop.guard else []
        return EnergyModel(
            network,
            data.signature,
            buffer,
            self.sampler,
            self.conditional,
            {**self._counted(cost).to_json(), "roll_backs": len(trips)},
            loop.columns,
            trips,
        )

    def _counted(self, cost: FitCost) -> FitCost:
        """A forward pass is a third of a pass with its gradients: 2 K + 9 of them a step, 2 K + 18 with sharpness."""
        if self.terms.plain:
            return cost
        thirds = 2 * self.sampler.steps + (18 if self.sharpness else 9)
        return replace(cost, sample_passes=cost.sample_passes * thirds // 3)

    def _buffer(self, data: Data, context: FitContext) -> ReplayBuffer:
        space = Space.of(data)
        start: Start = UniformStart(space, data.input_shape)
        if self.start == "gaussian" or space.bounds is None:
            start = fitted_start(data, space)
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "chains"))
        size = max(1, self.buffer_size // data.outputs) * data.outputs
        return ReplayBuffer(start, size, data.outputs, generator).to(context.device)

    def _plain_loop(self, network: nn.Module, space: Space, data: Data, context: FitContext) -> Loop:
        recipe, loss = self.training, Loss.of(self.training, data, context.device)
        feed = Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
        epochs = recipe.epochs_for(len(data.train))
        plain, weight = training_step(network, loss, feed, recipe, epochs), float(self.terms.classification)

        def step(batch: Batch) -> Tensor:
            if self.input_noise:
                batch = Batch(noisy(batch.inputs, float(self.input_noise), space), batch.targets)
            return plain(batch) if weight == 1 else weight * plain(batch)

        return self._loop(network, step, feed, epochs, data, context)

    def _joint_loop(self, network: nn.Module, buffer: ReplayBuffer, data: Data, context: FitContext) -> Loop:
        recipe, samples = self.training, density_data(data)
        augmentation = recipe.augmentation if self.augment_density else Augmentation()
        labelled = Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
        seed = derive_seed(context.seed, "density")
        density = Feed(samples, recipe.batch_size, seed, augmentation, context.device)
        first, other = (labelled, density) if data.unlabelled is None else (density, labelled)
        epochs = recipe.epochs_for(len(first.split))
        joint = Joint(
            network,
            self.terms,
            self.sampler,
            buffer,
            Cycle(other),
            Loss.of(recipe, data, context.device),
            labelled_first=data.unlabelled is None,
            renewed=float(self.renewed),
            input_noise=float(self.input_noise),
            density_noise=self.augment_density,
            conditional=self.conditional,
            policy=self.normalisation,
            rho=float(self.sharpness),
            fused=fusing_pays(network, buffer.samples[:1], 2 * self.sampler.steps * len(first.split) * epochs),
        )
        guard = Guard(joint.watch.check, joint.gentler, afterwards=joint.afterwards, most=self.rollbacks)
        return self._loop(network, joint, first, epochs, data, context, extra=joint.state, guard=guard)

    def _loop(
        self, network: nn.Module, step: Any, feed: Feed, epochs: int, data: Data, context: FitContext, **more: Any
    ) -> Loop:
        checked, plain = resident(data.validation, context.device), Loss(data.task)
        return Loop(
            network,
            step,
            feed,
            self.training,
            seed=context.seed,
            epochs=epochs,
            run=context.run,
            validate=(lambda: assess(network, checked, plain, context.device)) if len(checked) else None,
            **more,
        )
