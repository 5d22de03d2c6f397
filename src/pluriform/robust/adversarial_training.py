"""`AdversarialTraining`: train the network on the worst inputs that an adversary finds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pluriform.attacks.perturb import check_finite
from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain, require
from pluriform.fused.network import fused_network
from pluriform.graph.parameters import modes_kept
from pluriform.method import FitContext, Method
from pluriform.robust.accuracy import RobustValidation, drawn
from pluriform.robust.adversary import Adversary
from pluriform.robust.attacked import Attacked
from pluriform.robust.free import Free, Replays
from pluriform.robust.grad_align import GradAlign
from pluriform.robust.mart import MART
from pluriform.robust.model import RobustModel
from pluriform.robust.n_fgsm import NoisyFGSM
from pluriform.robust.objective import Objective
from pluriform.robust.probe import Probe
from pluriform.robust.schemes import SCHEMES, Scheme, default_setting
from pluriform.robust.trades import TRADES
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident
from pluriform.training.guard import Guard
from pluriform.training.layout import to_channels_last
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import training_step
from pluriform.training.validation import assess

__all__ = ["AdversarialTraining"]

PROBED = 128
LEAST_EVERY, MOST_EVERY = 100, 250  # Updates between two looks of the probe; an epoch, within these.
NORMS = ("linf", "l2")
NORMALISED = 1e-5


@dataclass(frozen=True)
class AdversarialTraining(Method):
    """min_w E max_{||x' - x|| <= eps} loss(f_w(x'), y): robust against small changes of the inputs.

    The inner maximum is climbed in evaluation mode, without gradients of the weights (`free`: in the pass of the
    update). The radius grows linearly over the first part of the training; at once at its full size, it can leave a
    network that gives one class to everything. The result is the epoch with most samples of the validation split robust
    against PGD. Catastrophic overfitting, where one-step attacks lose their meaning within a few updates, is noticed by
    a probe, rolled back and met by half the learning rate and a gentler setting; the form's `events` tell.

    With eps = 0 this is plain training, bit for bit. Passes that attacks cost, F forward and as much for a gradient of
    the inputs, beside 3F of plain training: 2n for n steps; `free` none; `trades` and `mart` 3F more for the second
    term; `grad-align` 8F in all.

    Args:
        scheme: `pgd` (the reference), `fgsm-rs` (one step from a random start), `n-fgsm` (from wider noise), `free`
            (attack and update share a pass), `trades` (clean loss and a term of stability), `mart` (weight on what is
            misclassified), `grad-align` (FGSM with aligned input gradients).
        threat: Norm, `linf` or `l2`, and radius in input units; bounds are those of the data unless given.
        training: Of the network; a `Training` serves. `free` divides its epochs by `replays`. Its patience, in robust
            accuracy, begins after the ramp.
        steps: Of the attack; `None` for 10, or 1 of the schemes after FGSM. `free` has none but its `replays`.
        step_size: Of each, in input units at the full radius; `None` for 2.5 eps / steps, 1.25 eps of `fgsm-rs` and
            `grad-align`, eps of `n-fgsm` and `free`.
        weight: beta of `trades` (6; 1 is published for MNIST at 0.3) and `mart` (5), lambda of `grad-align` (0.2),
            width of the noise of `n-fgsm` in eps (2); `None` for these, and for schemes without.
        replays: Updates of `free` on each batch.
        ramp: Share of the training over which eps grows; 0 for the full radius at once.
        rollbacks: Most roll-backs; one more ends the training with the last good state.

    References:
        Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
        Wong, Rice, Kolter 2020, Fast is better than free, arXiv:2001.03994.
        Shafahi et al. 2019, Adversarial training for free!, arXiv:1904.12843.
        Zhang et al. 2019, TRADES, arXiv:1901.08573; Wang et al. 2020, MART, ICLR.
        Andriushchenko, Flammarion 2020, GradAlign, arXiv:2007.02617; de Jorge et al. 2022, N-FGSM, arXiv:2202.01181.
        Rice, Wong, Kolter 2020, Overfitting in adversarially robust deep learning, arXiv:2002.11569.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.AdversarialTraining("fgsm-rs", pf.Threat("linf", 0.1), pf.Training(epochs=3))
        >>> form = method.fit(pf.nets.build("mlp", data), data)
        >>> form.predict(data.test.inputs[:3]).mean.shape, "validation_robust_accuracy" in form.history
        (torch.Size([3, 10]), True)
    """

    scheme: Scheme = "pgd"
    threat: Threat = field(default_factory=lambda: Threat("linf", 0.1))
    training: Recipe = field(default_factory=Recipe)
    steps: int | None = None
    step_size: float | int | None = None
    weight: float | int | None = None
    replays: int = 8
    ramp: float | int = 0.5
    rollbacks: int = 8

    def __post_init__(self) -> None:
        require(self, self.scheme in get_args(Scheme), "scheme", f"one of {', '.join(get_args(Scheme))}")
        given = isinstance(self.threat, Threat) and self.threat.norm in NORMS
        require(self, given, "threat", "a Threat of norm 'linf' or 'l2'")
        require(self, self.steps is None or self.steps >= 0, "steps", "0 or more, or None")
        for name in ("step_size", "weight"):
            value = getattr(self, name)
            require(self, value is None or 0 <= value < math.inf, name, "0 or more, or None")
        stepped = self.steps is None or self.scheme != "free"
        require(self, stepped, "steps", "None with scheme 'free', which has replays")
        weighted = self.weight is None or SCHEMES[self.scheme].weight > 0
        require(self, weighted, "weight", f"None with scheme {self.scheme!r}, whose loss has one term")
        require(self, self.replays >= 1, "replays", "at least 1")
        require(self, 0 <= self.ramp <= 1, "ramp", "a share of the training")
        require(self, self.rollbacks >= 0, "rollbacks", "0 or more")

    def _fit(self, module: Any, data: Data, context: FitContext) -> RobustModel:
        network = module.to(context.device)
        threat = self._checked(network, data, context)
        if threat.eps == 0:
            loop = self._plain_loop(network, data, context)
            cost = loop.run()
            return RobustModel(network.eval(), data.signature, threat, cost.to_json(), loop.columns)
        feed, epochs = self._feed(data, context)
        attacked = self._attacked(network, threat, feed, epochs)
        adversary = self._adversary(network, attacked, threat, feed, epochs, data, context)
        guard = Guard(
            adversary.check,
            adversary.gentler,
            afterwards=adversary.afterwards,
            every=adversary.probe.every,
            most=self.rollbacks,
        )
        loop = self._loop(network, attacked, adversary, feed, epochs, data, context, guard)
        cost = self._counted(loop.run(), adversary)
        trips = [trip.to_json() for trip in guard.trips]
        figures = {**cost.to_json(), "roll_backs": len(trips), **_chosen(loop)}
        return RobustModel(network.eval(), data.signature, threat, figures, loop.columns, trips)

    def _checked(self, network: nn.Module, data: Data, context: FitContext) -> Threat:
        """The threat with bounds, held against the data and the network."""
        if data.task != "classification":
            remedy = "take a classification task; attacks climb the cross-entropy"
            raise ConfigError(explain("classification", data.task, "AdversarialTraining", remedy))
        threat = self.threat if self.threat.bounds else replace(self.threat, bounds=data.bounds)
        sample, _ = data.train.batch(torch.arange(min(64, len(data.train))))
        threat = resolve_threat(network, threat, sample)
        check_scale(threat, sample[0].numel())
        with torch.no_grad():
            outputs = network.eval()(sample.to(context.device))
        network.train()
        where = f"AdversarialTraining of {type(network).__name__}"
        check_finite(outputs, where)
        _check_logits(outputs, where)
        return threat

    def _feed(self, data: Data, context: FitContext) -> tuple[Feed, int]:
        recipe = self.training
        facts = (data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
        epochs = recipe.epochs_for(len(data.train))
        if self.scheme == "free":
            return Replays(self.replays, *facts), math.ceil(epochs / self.replays)
        return Feed(*facts), epochs

    def _attacked(self, network: nn.Module, threat: Threat, feed: Feed, epochs: int) -> nn.Module:
        """The network as its attacker computes it: by fused kernels where they pay."""
        if self.scheme in ("free", "grad-align"):  # They differentiate the weights as well.
            return network
        steps = default_setting(self.scheme, threat, self.steps, self.step_size, self.weight).steps
        with modes_kept(network):
            return fused_network(network.eval(), feed.sample(), 2 * steps * len(feed.split) * epochs)

    def _objective(
        self, network: nn.Module, attacked: nn.Module, feed: Feed, epochs: int, data: Data, context: FitContext
    ) -> Objective:
        loss = Loss.of(self.training, data, context.device)
        one_pass: dict[str, Callable[..., Objective]] = {
            "pgd": Attacked, "fgsm-rs": Attacked, "n-fgsm": NoisyFGSM, "grad-align": GradAlign
        }  # fmt: skip
        if self.scheme in one_pass:
            return one_pass[self.scheme](attacked, training_step(network, loss, feed, self.training, epochs))
        if to_channels_last(network, feed.sample()):
            feed.memory_format = torch.channels_last
        if self.scheme == "free":
            carried = torch.zeros(feed.batch_size, *data.input_shape, device=context.device)
            return Free(network, loss, carried)
        return (TRADES if self.scheme == "trades" else MART)(network, attacked, loss)

    def _adversary(
        self,
        network: nn.Module,
        attacked: nn.Module,
        threat: Threat,
        feed: Feed,
        epochs: int,
        data: Data,
        context: FitContext,
    ) -> Adversary:
        setting = default_setting(self.scheme, threat, self.steps, self.step_size, self.weight)
        samples = drawn(data.train, PROBED, derive_seed(context.seed, "probed"), context.device)
        probe = Probe(attacked, samples, min(max(feed.steps, LEAST_EVERY), MOST_EVERY))
        objective = self._objective(network, attacked, feed, epochs, data, context)
        return Adversary(objective, setting, probe, round(self.ramp * epochs * feed.steps), context.seed)

    def _loop(
        self,
        network: nn.Module,
        attacked: nn.Module,
        adversary: Adversary,
        feed: Feed,
        epochs: int,
        data: Data,
        context: FitContext,
        guard: Guard,
    ) -> Loop:
        checked, plain, threat = resident(data.validation, context.device), Loss(data.task), adversary.setting.threat
        objective, recipe = adversary.objective, self.training
        if recipe.patience:  # While the radius grows, no sample may be robust yet.
            recipe = replace(recipe, patience=recipe.patience + math.ceil(self.ramp * epochs))
        return Loop(
            network,
            adversary,
            feed,
            recipe,
            seed=context.seed,
            epochs=epochs,
            run=context.run,
            validate=RobustValidation(network, attacked, checked, plain, threat, context.seed, context.device)
            if len(checked)
            else None,
            extra=adversary.state | ({"perturbation": objective.perturbation} if isinstance(objective, Free) else {}),
            guard=guard,
            keep_best=True,
        )

    def _plain_loop(self, network: nn.Module, data: Data, context: FitContext) -> Loop:
        recipe, loss = self.training, Loss.of(self.training, data, context.device)
        checked, plain = resident(data.validation, context.device), Loss(data.task)
        feed = Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
        epochs = recipe.epochs_for(len(data.train))
        step: Callable[[Batch], Tensor] = training_step(network, loss, feed, recipe, epochs)
        return Loop(
            network,
            step,
            feed,
            recipe,
            seed=context.seed,
            epochs=epochs,
            run=context.run,
            validate=(lambda: assess(network, checked, plain, context.device)) if len(checked) else None,
        )

    @staticmethod
    def _counted(cost: FitCost, adversary: Adversary) -> FitCost:
        """A forward pass is a third of a pass with its gradients."""
        return replace(cost, sample_passes=int(adversary.forwards) // 3)


def _chosen(loop: Loop) -> dict[str, int]:
    """The epoch whose weights the form has, where there was a choice."""
    found = loop.columns.get("validation_robust_accuracy", [])
    return {"chosen_epoch": int(loop.columns["epoch"][found.index(max(found))])} if found else {}


def _check_logits(outputs: Tensor, where: str) -> None:
    """Raise where the outputs are probabilities, on which the attacks' gradients vanish."""
    normalised = bool(((outputs.sum(-1) - 1).abs() < NORMALISED).all())
    if normalised and bool((outputs >= 0).all()):
        remedy = "take the softmax out of the network"
        raise ConfigError(explain("a network that returns logits", "probabilities", where, remedy))
