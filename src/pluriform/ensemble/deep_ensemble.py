"""`DeepEnsemble`: independently trained networks whose probabilities are averaged."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs, Logits, Members
from pluriform.data.data import Data
from pluriform.data.signature import Signature
from pluriform.ensemble.fitting import fitted_noise
from pluriform.ensemble.together import Choice, choose
from pluriform.errors import ConfigError, explain
from pluriform.method import FitContext, Method
from pluriform.prediction import Prediction, Predictor
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident
from pluriform.training.initialisation import reinitialise
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.members import Members as Stack
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import member_seed
from pluriform.training.step import training_step
from pluriform.training.validation import assess

__all__ = ["DeepEnsemble", "Ensemble"]

RECORD = "together.json"


class Ensemble(Predictor):
    """Several networks of the user's class as one form.

    Classification: p(y | x) = (1 / M) sum_m p_m(y | x), and `forward` is its logarithm. Regression: the mean of the
    means; `prediction.variance` is the variance of the members' means plus a constant noise variance, of largest
    likelihood on the validation split (the training split where that is empty).

    Args:
        members: The fitted networks.
        signature: Facts of the data they were fitted on.
        noise: Noise variance of each regression output, shape `(outputs,)`; `None` in classification.
        cost: Figures of the fit, as `FitCost` names them.
    """

    noise: Tensor | None

    def __init__(
        self,
        members: Sequence[nn.Module],
        signature: Signature,
        noise: Tensor | None = None,
        cost: dict[str, float | int] | None = None,
    ) -> None:
        super().__init__(signature)
        self.members = nn.ModuleList(members)
        self.register_buffer("noise", noise)
        self.cost = cost or {}

    def outputs(self, inputs: Inputs) -> Members:
        """Logits or means of every member."""
        return torch.stack([member(inputs) for member in self.members])

    def forward(self, inputs: Inputs) -> Logits:
        """Logarithm of the mean probability, or the mean of the means."""
        outputs = self.outputs(inputs)
        if self.signature.task != "classification":
            return outputs.mean(0)
        return outputs.log_softmax(-1).logsumexp(0) - math.log(len(self.members))

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Mean, variance in regression, and members."""
        outputs = self.outputs(inputs)
        if self.signature.task == "classification":
            members = outputs.softmax(-1)
            return Prediction(members.mean(0), members=members)
        variance = outputs.var(0, correction=0)
        return Prediction(outputs.mean(0), variance if self.noise is None else variance + self.noise, outputs)


@dataclass(frozen=True)
class DeepEnsemble(Method):
    """Train `members` networks from independent initial weights, each on its own order of the data.

    Every member is initialised anew by `reset_parameters` of its submodules (see `reinitialise`), so the ensemble
    depends on the architecture and the seed, not on the given weights. One member is what `Training` with
    `reinitialise=True` gives for the same seed. Trained together or one by one, the result is the same up to rounding;
    layers that draw random numbers (dropout) draw others when stacked, so `auto` trains such networks one by one.

    Args:
        members: Number of networks.
        training: How each is trained; a `Training` serves.
        together: Members as one stack of weights (`yes`), one by one (`no`), or as a count of their multiplications
            says is faster (`auto`; the run records the choice).

    References:
        Lakshminarayanan, Pritzel, Blundell 2017, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, arXiv:1612.01474.
    """

    members: int = 5
    training: Recipe = field(default_factory=Recipe)
    together: Literal["auto", "yes", "no"] = "auto"

    def __post_init__(self) -> None:
        if self.members < 1 or self.together not in ("auto", "yes", "no"):
            got = f"members={self.members}, together={self.together!r}"
            expected = "at least one member, and together 'auto', 'yes' or 'no'"
            raise ConfigError(explain(expected, got, "DeepEnsemble", "use members=5 as a start"))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Ensemble:
        job = _Job(self, module, data, context)
        cost = job.train_together() if self._choice(job, context).together else job.train_one_by_one()
        ensemble = Ensemble(job.members, data.signature, None, cost.to_json()).eval()
        ensemble.noise = fitted_noise(ensemble, data)
        return ensemble

    def _choice(self, job: "_Job", context: FitContext) -> Choice:
        if self.together != "auto" or self.members == 1:
            return Choice(self.together == "yes", "as asked")
        if context.run is not None and context.run.has(RECORD):
            return Choice(**context.run.read_json(RECORD))
        choice = choose(job.members, next(job.feed(job.seeds).batches(0)))
        if context.run is not None:
            context.run.write_json(RECORD, choice.to_json())
        return choice


class _Job:
    """One fit: the members, freshly initialised, and the two ways to train them."""

    def __init__(self, method: DeepEnsemble, module: nn.Module, data: Data, context: FitContext) -> None:
        self.recipe, self.data, self.context = method.training, data, context
        self.seeds = [member_seed(context.seed, member) for member in range(method.members)]
        self.members = [copy.deepcopy(module).to(context.device) for _ in self.seeds]
        for member, seed in zip(self.members, self.seeds, strict=True):
            reinitialise(member, seed)
        self.loss = Loss.of(self.recipe, data, context.device)
        self.checked = resident(data.validation, context.device)

    def feed(self, seeds: int | list[int]) -> Feed:
        return Feed(self.data, self.recipe.batch_size, seeds, self.recipe.augmentation, self.context.device)

    def train_together(self) -> FitCost:
        stack = Stack(self.members)
        cost = self._loop(stack, self.seeds, len(self.members), "members").run()
        stack.unstack()
        return cost

    def train_one_by_one(self) -> FitCost:
        pairs = zip(self.members, self.seeds, strict=True)
        costs = [self._loop(net, seed, None, f"member-{i}").run() for i, (net, seed) in enumerate(pairs)]
        return reduce(add, costs)

    def _loop(self, network: nn.Module, seeds: int | list[int], members: int | None, label: str) -> Loop:
        plain, device = Loss(self.data.task), self.context.device
        feed, epochs = self.feed(seeds), self.recipe.epochs_for(len(self.data.train))

        def stacked_step(batch: Batch) -> Tensor:
            return self.loss(network(batch.inputs), batch.targets)

        return Loop(
            network,
            stacked_step if members else training_step(network, self.loss, feed, self.recipe, epochs),
            feed,
            self.recipe,
            seed=seeds if isinstance(seeds, int) else seeds[0],
            epochs=epochs,
            run=self.context.run,
            validate=(lambda: assess(network, self.checked, plain, device, members)) if len(self.checked) else None,
            members=members,
            label=label,
        )
