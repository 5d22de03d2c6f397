"""`Imitation`: a thin network learns the inner outputs of a wide one, unit after unit from the inputs on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from pluriform.data.data import Data
from pluriform.graph.graph import Graph
from pluriform.method import FitContext
from pluriform.narrow.losses import imitation, softened_divergence, target_variance
from pluriform.narrow.plan import NarrowPlan, Unit
from pluriform.narrow.source import Held, Source, Streamed
from pluriform.narrow.stretches import stretches
from pluriform.narrow.unit import UnitNetwork, principal, refitted
from pluriform.training.augmentation import Augmentation
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed
from pluriform.training.loop import Loop
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import Assessment

__all__ = ["Imitated", "Imitation", "bytes_held"]

DRAWN = 2000  # Samples that maps are fitted to.


@dataclass(eq=False)
class Imitated:
    """What imitation leaves.

    Attributes:
        weights: Of the thin network, by name; buffers included.
        maps: What is left between units, `V U`, `(channels, channels)`, by the node it belongs behind.
        explained: Of every unit, the share of the variance of the wide network's output that it gives, on validation
            samples (on training samples where there are none); of the last unit 1 less its divergence in nats.
        cost: Of all units together.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    explained: list[float] = field(default_factory=list)
    cost: list[FitCost] = field(default_factory=list)

    def figures(self, plan: NarrowPlan) -> dict[str, float | int]:
        """Seconds, and passes of samples through units counted as shares of the whole thin network."""
        return {
            "imitation_seconds": sum(part.training_seconds for part in self.cost),
            "imitation_unit_passes": sum(part.sample_passes for part in self.cost),
            "units": len(plan.units),
        }


class Imitation:
    """Units are trained one after the other by a fresh optimiser, those before stay as they are.

    Args:
        thin: The user's network, on its device.
        wide: Its wide partner, in evaluation mode.
        plan: Where both are cut.
        recipe: Of every unit; without weight decay, which would pull the product of two maps to zero.
        inputs: What a unit reads while it learns: `own`, the thin units before it; `forced`, the wide network.
        cache_bytes: Room for inputs and targets of a unit; above it, or with augmentation, they are computed anew for
            every batch.
    """

    def __init__(
        self,
        thin: Graph,
        wide: Graph,
        plan: NarrowPlan,
        recipe: Recipe,
        inputs: Literal["own", "forced"] = "own",
        cache_bytes: int = 2**30,
    ) -> None:
        self.plan, self.recipe, self.inputs = plan, replace(recipe, weight_decay=0.0), inputs
        self.thin = stretches(thin, plan.ends)
        self.wide = [part.eval().requires_grad_(False) for part in stretches(wide, plan.ends)]
        self.cache_bytes = cache_bytes

    def run(self, data: Data, context: FitContext) -> Imitated:
        """Train all units on `data`."""
        found, source = Imitated(), self._source(data)
        before: UnitNetwork | None = None
        for place, unit in enumerate(self.plan.units):
            network = self._network(place, before, source).to(context.device)
            self._train(place, network, source, found, context)
            if place < len(self.plan.units) - 1:
                _refit(network, unit, source)
                source = self._passed_on(place, network, source)
            self._note(place, network, before, found)
            before = network
        return found

    def _source(self, data: Data) -> Source:
        if self.recipe.augmentation.active or bytes_held(self.plan, data) > self.cache_bytes:
            return Streamed(data, lambda x: x, self.wide[0])
        return Held.of(data, self.wide[0])

    def _passed_on(self, place: int, network: UnitNetwork, source: Source) -> Source:
        following, lift = self.wide[place + 1], self.plan.units[place].lift
        if self.inputs == "forced" and lift != "side":
            return source.forced(following)
        network.eval().requires_grad_(False)
        return source.advanced(network.thin, following)

    def _network(self, place: int, before: UnitNetwork | None, source: Source) -> UnitNetwork:
        """The unit, its lift at the principal directions, its reduction at what undoes the lift before."""
        unit, part = self.plan.units[place], self.thin[place]
        reduce, lifted, axis = None, None, 1
        if before is not None:
            earlier = self.plan.units[place - 1]
            axis = earlier.axis
            if earlier.lift == "pair" and before.lift is not None:
                reduce = torch.linalg.pinv(before.lift.detach())
                lifted = None if self.inputs == "forced" else before.lift.detach()
        lift = None
        if unit.lift != "none":
            lift = principal(source.drawn(DRAWN)[1], unit.thin[unit.axis - 1], unit.axis)
        return UnitNetwork(part, lifted, reduce, lift, (axis, unit.axis))

    def _train(self, place: int, network: UnitNetwork, source: Source, found: Imitated, context: FitContext) -> None:
        measure = self._measure(place, source)
        recipe, seed = self.recipe, derive_seed(context.seed, "unit", place)
        augmentation = Augmentation() if isinstance(source, Held) else recipe.augmentation
        feed = Feed(source.data, recipe.batch_size, seed, augmentation, context.device)

        def step(batch: Batch) -> Tensor:
            inputs, targets = source.pair(batch.inputs, batch.targets)
            return measure(network(inputs), targets)

        @torch.no_grad()
        def judged() -> Assessment:
            network.eval()
            split = source.data.validation if len(source.data.validation) else source.data.train
            total = sum(float(measure(network(x), t)) * len(x) for x, t in source.batches(split))
            return Assessment(torch.tensor([total / len(split)]), None)

        epochs = recipe.epochs_for(len(source.data.train))
        loop = Loop(
            network, step, feed, recipe, seed=seed, epochs=epochs, run=context.run, validate=judged,
            label=f"unit-{place + 1}",
        )  # fmt: skip
        found.cost.append(loop.run())
        found.explained.append(1 - float(judged().loss))

    def _measure(self, place: int, source: Source) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of a unit: unexplained variance, or of the last one the divergence of its class probabilities."""
        if place == len(self.plan.units) - 1 and source.data.task == "classification":
            return softened_divergence
        axis = self.plan.units[place].axis
        variance = target_variance(source.drawn(DRAWN)[1], axis)
        return lambda own, wide: imitation(own, wide, axis=axis, variance=variance)

    def _note(self, place: int, network: UnitNetwork, before: UnitNetwork | None, found: Imitated) -> None:
        found.weights.update({name: value.detach().clone() for name, value in network.part.state_dict().items()})
        if network.reduce is not None and before is not None and before.lift is not None:
            found.maps[self.plan.units[place - 1].end] = (network.reduce @ before.lift).detach()


def bytes_held(plan: NarrowPlan, data: Data) -> int:
    """Room for the pairs of two units, while those of the next take the place of those before."""
    starts = [torch.Size(data.input_shape).numel(), *(torch.Size(unit.thin).numel() for unit in plan.units[:-1])]
    pairs = [start + torch.Size(unit.wide).numel() for start, unit in zip(starts, plan.units, strict=True)]
    most = max(a + b for a, b in zip(pairs, [*pairs[1:], 0], strict=True))
    return 4 * (len(data.train) + len(data.validation)) * most


@torch.no_grad()
def _refit(network: UnitNetwork, unit: Unit, source: Source) -> None:
    """The lift of least squares for the trained stretch."""
    if network.lift is not None:
        inputs, targets = source.drawn(DRAWN)
        network.lift.copy_(refitted(network.eval().thin(inputs), targets, unit.axis))
