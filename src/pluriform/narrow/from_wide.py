"""What the methods share that train a thin network with a wide one at hand."""

import math
import time
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import require
from pluriform.method import FitContext, Method
from pluriform.narrow.losses import distillation
from pluriform.narrow.narrowed import Narrowed
from pluriform.narrow.network_cost import network_costs
from pluriform.narrow.teacher import CACHE_BYTES, Teacher
from pluriform.narrow.wide import TrainedWide, macs_of, trained_wide
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident, take
from pluriform.training.initialisation import reinitialise
from pluriform.training.layout import to_channels_last
from pluriform.training.loop import Loop, Step
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.step import training_step
from pluriform.training.validation import assess, residual_variance

__all__ = ["FromWide"]


@dataclass(frozen=True)
class FromWide(Method, ABC):
    """Base of the methods with a wide network.

    Args:
        widen: Width of the wide network, in units of the thin one's.
        wide: Folder of a trained wide form to take instead.
        alpha: Share of the wide network's outputs in the loss, in [0, 1].
        temperature: Of the softmax in that share.
        training: How the thin network is trained.
        wide_training: How the wide network is trained.
        reinitialise: Draw new initial weights of the thin network from the seed.
        cache_bytes: Memory for outputs of the wide network.
    """

    widen: float | int = 2
    wide: str | None = None
    alpha: float | int = 0.9
    temperature: float | int = 4.0
    training: Recipe = field(default_factory=Recipe)
    wide_training: Recipe = field(default_factory=Recipe)
    reinitialise: bool = False
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        widen = 1 < self.widen < math.inf or self.wide is not None
        require(self, widen, "widen", "a factor above 1", "use 2, or name a trained form with wide=")
        require(self, 0 <= self.alpha <= 1, "alpha", "a share in [0, 1]", "use 0.9")
        require(self, 0 < self.temperature < math.inf, "temperature", "a number above 0", "use 4")
        require(self, self.cache_bytes >= 0, "cache_bytes", "0 or more", "use 0 to keep nothing")

    def _trained_wide(self, module: nn.Module, data: Data, context: FitContext) -> TrainedWide:
        return trained_wide(module, data, context, widen=self.widen, wide=self.wide, recipe=self.wide_training)

    def _started(self, module: Any, context: FitContext) -> nn.Module:
        """The thin network as it starts."""
        module = module.to(context.device)
        if self.reinitialise:
            reinitialise(module, context.seed)
        return module

    def _loop(
        self, module: nn.Module, wide: nn.Module, data: Data, context: FitContext, label: str = "training"
    ) -> Loop:
        """The training of the thin network on labels and the outputs of the wide one."""
        recipe, checked = self.training, resident(data.validation, context.device)
        feed = Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
        epochs, plain = recipe.epochs_for(len(data.train)), Loss(data.task)
        return Loop(
            module,
            self._step(module, wide, feed, epochs, data),
            feed,
            recipe,
            seed=context.seed,
            epochs=epochs,
            run=context.run,
            validate=(lambda: assess(module, checked, plain, context.device)) if len(checked) else None,
            label=label,
        )

    def _step(self, module: nn.Module, wide: nn.Module, feed: Feed, epochs: int, data: Data) -> Step:
        loss = Loss.of(self.training, data, feed.device)
        if self.alpha == 0:
            return training_step(module, loss, feed, self.training, epochs)
        teacher = Teacher(wide, feed, cache_bytes=self.cache_bytes)
        if to_channels_last(module, feed.sample()):
            feed.memory_format = torch.channels_last
        classification = data.task == "classification"

        def step(batch: Batch) -> Tensor:
            outputs = module(batch.inputs)
            labels = loss(outputs, batch.targets)
            return distillation(
                outputs,
                teacher(batch),
                labels,
                alpha=self.alpha,
                temperature=self.temperature,
                classification=classification,
            )

        return step

    def _form(
        self,
        module: nn.Module,
        data: Data,
        context: FitContext,
        wide: TrainedWide,
        stages: Sequence[Callable[[], Loop]],
        facts: dict[str, Any] | None = None,
    ) -> Narrowed:
        """Make and run the loops, each from the weights that the one before leaves, and make the form."""
        history: dict[str, list[float]] = {}
        costs: list[FitCost] = []
        labels: list[str] = []
        for stage in stages:
            begin = time.perf_counter()
            loop = stage()
            setup = time.perf_counter() - begin  # A cache is filled.
            cost = loop.run()
            costs.append(replace(cost, training_seconds=cost.training_seconds + setup))
            labels.append(loop.label)
            prefix = "" if stage is stages[-1] else f"{loop.label}_"
            history |= {f"{prefix}{name}": values for name, values in loop.columns.items()}
        noise = None
        if data.task == "regression":
            known = data.validation if len(data.validation) else data.train
            noise = residual_variance(module, known, context.device)
        sample, _ = take(data.train, torch.arange(1))
        figures = reduce(add, costs).to_json() | wide.cost
        for label, cost in zip(labels, costs, strict=True) if len(stages) > 1 else ():
            figures |= {f"{label}_seconds": cost.training_seconds, f"{label}_sample_passes": cost.sample_passes}
        figures["training_seconds"] += wide.cost["wide_seconds"]
        figures["thin_macs"] = macs_of(module, sample.to(context.device))
        told = network_costs({"thin": module.eval(), "wide": wide.network}, data, context.device)
        networks = {name: cost.to_json() for name, cost in told.items()}
        return Narrowed(module, data.signature, noise, figures, history, {**(facts or {}), "networks": networks})
