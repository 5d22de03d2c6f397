"""`Imitation`: a thin network learns the inner outputs of a wide one, unit after unit from the inputs on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import MemoryBudgetError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.parameters import modes_kept
from pluriform.method import FitContext
from pluriform.narrow.fused_unit import fused_unit
from pluriform.narrow.losses import imitation, softened_divergence, target_variance
from pluriform.narrow.plan import NarrowPlan, Unit
from pluriform.narrow.source import Held, Source, Streamed
from pluriform.narrow.stretches import stretches
from pluriform.narrow.unit import UnitNetwork, mix, principal, refitted
from pluriform.narrow.wide import macs_of
from pluriform.training.augmentation import Augmentation
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed
from pluriform.training.fused_chain import FusedChain
from pluriform.training.layout import to_channels_last
from pluriform.training.loop import Loop, Step
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import LEAST_MULTIPLICATIONS
from pluriform.training.validation import Assessment

__all__ = ["CACHE_BYTES", "DRAWN", "Imitated", "Imitation", "Measure", "bytes_held", "first_names", "is_held"]

CACHE_BYTES = 2**30
DRAWN = 2000  # Samples that maps are fitted to.
LITTLE = 0.7  # Of the variance: a unit that explains less hardly imitates.
CARRIED = 0.8  # Of the variance: where so many directions hold less, the thin network is too thin.


@dataclass(eq=False)
class Imitated:
    """What imitation leaves.

    Attributes:
        weights: Of the thin network, by name; buffers included.
        maps: What is left between units, `V U`, `(channels, channels)`, by the node it belongs behind.
        explained: Of every unit, the share of the variance of the wide network's output that it gives, on validation
            samples (on training samples where there are none); of the last unit 1 less its divergence in nats.
        cost: Of every unit; one where all were trained at once.
        passes: Likewise, passes of samples forward and backward, as shares of passes through the thin network.
        forward: Passes of samples forward alone, through what lies before the units: shares of the `thin` and of the
            `wide` network.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    explained: list[float] = field(default_factory=list)
    cost: list[FitCost] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    forward: dict[str, float] = field(default_factory=lambda: {"thin": 0.0, "wide": 0.0})

    def figures(self, plan: NarrowPlan) -> dict[str, float | int]:
        """Seconds, passes of samples through units, and what these are in passes through the whole thin network."""
        return {
            "imitation_seconds": sum(part.training_seconds for part in self.cost),
            "imitation_unit_passes": sum(part.sample_passes for part in self.cost),
            "imitation_passes": sum(self.passes),
            "units": len(plan.units),
        }


@dataclass(frozen=True, eq=False)
class Measure:
    """The loss of a unit: unexplained variance, or of the last one the divergence of its class probabilities.

    Attributes:
        axis: Of the channels.
        variance: Of the target; `None` for the divergence.
    """

    axis: int
    variance: Tensor | None

    @staticmethod
    def of(axis: int, wide: Tensor, probabilities: bool) -> "Measure":
        """For outputs of the wide network like these."""
        return Measure(axis, None if probabilities else target_variance(wide, axis))

    def __call__(self, own: Tensor, wide: Tensor) -> Tensor:
        """Of outputs of a unit and of the wide network."""
        if self.variance is None:
            return softened_divergence(own, wide)
        return imitation(own, wide, axis=self.axis, variance=self.variance)

    def trained(self, unit: UnitNetwork, inputs: Tensor, wide: Tensor) -> Tensor:
        """The same, from the inputs of a unit, without its lifted outputs.

        |U h - H|^2 = |H|^2 - 2 h.(U^T H) + h.(U^T U h): nothing but H is as wide as the wide network.
        """
        if self.variance is None or unit.lift is None:
            return self(unit(inputs), wide)
        own, lift = unit.thin(inputs), unit.lift
        near, size = mix(wide, lift.T, self.axis), mix(own, lift.T @ lift, self.axis)
        squares = torch.linalg.vector_norm(wide).square() + (own * (size - 2 * near)).sum()
        least = torch.finfo(wide.dtype).tiny
        return squares / wide.numel() / self.variance.clamp(min=least)

    @torch.no_grad()
    def over(self, network: nn.Module, source: Source) -> float:
        """Mean over the validation samples, or the training samples where there are none."""
        network.eval()
        split = source.data.validation if len(source.data.validation) else source.data.train
        return sum(float(self(network(x), wide)) * len(x) for x, wide in source.batches(split)) / len(split)

    def fused(self, unit: FusedChain, inputs: Tensor, wide: Tensor) -> Tensor:
        """The same, from the inputs of a unit by fused kernels."""
        if self.variance is None:
            return softened_divergence(unit.outputs(inputs), wide)
        least = torch.finfo(torch.float32).tiny
        return unit.squared_error(inputs, wide.flatten(1)) / self.variance.clamp(min=least)


class Imitation:
    """Units are trained one after the other by a fresh optimiser, those before stay as they are.

    Args:
        thin: The user's network, on its device.
        wide: Its wide partner, in evaluation mode.
        plan: Where both are cut.
        recipe: Of every unit; without weight decay, which would pull the product of two maps to zero.
        inputs: What a unit reads while it learns: `own`, the thin units before it; `forced`, the wide network.
        cache_bytes: Room for inputs and targets of a unit; 0, and augmentation, compute them anew for every batch. By
            default they are held where 1 GiB is enough.
    """

    def __init__(
        self,
        thin: Graph,
        wide: Graph,
        plan: NarrowPlan,
        recipe: Recipe,
        inputs: Literal["own", "forced"] = "own",
        cache_bytes: int | None = None,
    ) -> None:
        self.plan, self.recipe, self.inputs = plan, replace(recipe, weight_decay=0.0), inputs
        self.thin = stretches(thin, plan.ends)
        self.wide = [part.eval().requires_grad_(False) for part in stretches(wide, plan.ends)]
        self.cache_bytes, self.device = cache_bytes, thin.examples[0].device
        self.names, self.learned = first_names(thin.root), dict[str, Tensor]()
        self.macs = {"thin": _macs(self.thin, thin.examples[0]), "wide": _macs(self.wide, wide.examples[0])}

    def run(self, data: Data, context: FitContext) -> Imitated:
        """Train all units on `data`.

        Raises:
            MemoryBudgetError: Inputs and targets need more than `cache_bytes`; known before they are computed.
        """
        found, source = Imitated(), self._source(data)
        before: UnitNetwork | None = None
        for place, unit in enumerate(self.plan.units):
            network = self._network(place, before, source).to(context.device)
            measure = self._measure(place, source)
            found.cost.append(self._trained(place, network, source, measure, context))
            _refit(network, unit, source)
            found.explained.append(1 - measure.over(network, source))
            self._tell(place, found.explained[-1], source)
            self._count(place, network, source, found)
            if place < len(self.plan.units) - 1:
                source = self._passed_on(place, network, source)
            self._note(place, network, before, found)
            before = network
        return found

    def _source(self, data: Data) -> Source:
        if is_held(self.plan, data, self.recipe, self.cache_bytes):
            return Held.of(data, self.wide[0], self.device)
        return Streamed(data, lambda x: x, self.wide[0], self.device)

    def _passed_on(self, place: int, network: UnitNetwork, source: Source) -> Source:
        following, lift = self.wide[place + 1], self.plan.units[place].lift
        if self.inputs == "forced" and lift != "side":
            return source.forced(following)
        network.eval().requires_grad_(False)
        return source.advanced(network.thin, following)

    def _network(self, place: int, before: UnitNetwork | None, source: Source) -> UnitNetwork:
        """The unit, its lift at the principal directions, its reduction at what undoes the lift before."""
        unit, part = self.plan.units[place], self.thin[place]
        self._take_learned(part)
        reduce, lifted, axis = None, None, 1
        if before is not None:
            earlier = self.plan.units[place - 1]
            axis = earlier.axis
            if earlier.lift == "pair" and before.lift is not None:
                reduce = torch.linalg.pinv(before.lift.detach())
                lifted = None if self.inputs == "forced" else before.lift.detach()
        lift = None
        if unit.lift != "none":
            lift = self._lift(place, source.drawn(DRAWN)[1])
        return UnitNetwork(part, lifted, reduce, lift, (axis, unit.axis))

    def _lift(self, place: int, wide: Tensor) -> Tensor:
        """The principal directions of the wide network's outputs; says where they are too few."""
        unit = self.plan.units[place]
        channels, axis = unit.thin[unit.axis - 1], unit.axis
        lift = principal(wide, channels, axis)
        carried = 1 - float(imitation(mix(mix(wide, lift.T, axis), lift, axis), wide, axis=axis))
        if carried < CARRIED:
            logging.getLogger("pluriform").warning(
                "unit %d of %d, up to %s: %d channels can carry no more than %.3g of the wide network's variance, "
                "however long they learn; take a less wide network",
                place + 1, len(self.plan.units), unit.end, channels, max(0.0, carried),
            )  # fmt: skip
        return lift

    @torch.no_grad()
    def _take_learned(self, part: nn.Module) -> None:
        """What earlier units hold too, such as a layer that is called again, stays as these have learned it."""
        for name, tensor in part.state_dict(keep_vars=True).items():
            if (first := self.names.get(name, name)) in self.learned:
                tensor.copy_(self.learned[first]).requires_grad_(False)

    def _trained(
        self, place: int, network: UnitNetwork, source: Source, measure: Measure, context: FitContext
    ) -> FitCost:
        """Train a unit, unless all its weights are frozen."""
        if not any(weight.requires_grad for weight in network.parameters()):
            return FitCost(0.0, 0, 0, 0, 0.0)
        return self._loop(place, network, source, measure, context).run()

    def _loop(self, place: int, network: UnitNetwork, source: Source, measure: Measure, context: FitContext) -> Loop:
        recipe, seed = self.recipe, derive_seed(context.seed, "unit", place)
        augmentation = Augmentation() if isinstance(source, Held) else recipe.augmentation
        feed = Feed(source.data, recipe.batch_size, seed, augmentation, context.device)
        epochs = recipe.epochs_for(len(source.data.train))
        return Loop(
            network,
            self._step(network, measure, source, feed, epochs),
            feed,
            recipe,
            seed=seed,
            epochs=epochs,
            run=context.run,
            validate=lambda: Assessment(torch.tensor([measure.over(network, source)]), None),
            label=f"unit-{place + 1}",
        )

    def _step(self, network: UnitNetwork, measure: Measure, source: Source, feed: Feed, epochs: int) -> Step:
        """By fused kernels where plain training of the thin network, as long, would take them."""
        whole = sum(self.macs["thin"]) * len(feed.split) * epochs
        if whole >= LEAST_MULTIPLICATIONS and feed.device.type == "cpu" and self.recipe.precision == "32":
            fused = fused_unit(network.train(), source.drawn(1)[0])
            if fused is not None:
                return lambda batch: measure.fused(fused, *source.pair(batch.inputs, batch.targets))
        layout = torch.contiguous_format
        if to_channels_last(network, source.drawn(2)[0]):
            layout = torch.channels_last

        def step(batch: Batch) -> Tensor:
            inputs, targets = source.pair(batch.inputs, batch.targets)
            of_targets = layout if targets.dim() == 4 else torch.contiguous_format
            return measure.trained(
                network, inputs.contiguous(memory_format=layout), targets.contiguous(memory_format=of_targets)
            )

        return step

    def _tell(self, place: int, explained: float, source: Source) -> None:
        """Say how well a unit imitates."""
        last = place == len(self.plan.units) - 1
        unit = f"unit {place + 1} of {len(self.plan.units)}, up to {self.plan.units[place].end}"
        logger = logging.getLogger("pluriform")
        if last and source.data.task == "classification":
            logger.info("%s: class probabilities %.3g nats from those of the wide network", unit, 1 - explained)
        elif explained >= LITTLE:
            logger.info("%s: explains %.3g of the variance of the wide network", unit, explained)
        else:
            remedy = "train units longer, or take fewer units or a less wide network"
            logger.warning("%s: explains no more than %.3g of the wide network's variance; %s", unit, explained, remedy)

    def _count(self, place: int, network: UnitNetwork, source: Source, found: Imitated) -> None:
        """Add the passes of a unit, and those through what lies before it, once a sample where pairs are held."""
        inputs, _ = source.drawn(self.recipe.batch_size)  # Maps are multiplied once a batch.
        macs = macs_of(network, inputs) / len(inputs) / max(1, sum(self.macs["thin"]))
        found.passes.append(found.cost[-1].sample_passes * macs)
        held, reads = isinstance(source, Held), "thin" if self.inputs == "own" else "wide"
        samples = len(source.data.train) + len(source.data.validation) if held else found.cost[-1].sample_passes
        found.forward["wide"] += samples * self._share("wide", place if held else 0, place + 1)
        if not held or reads == "thin":
            found.forward[reads] += samples * self._share(reads, max(0, place - 1) if held else 0, place)

    def _share(self, network: str, start: int, end: int) -> float:
        """Of the multiply-accumulates of a network, those of some stretches."""
        return sum(self.macs[network][start:end]) / max(1, sum(self.macs[network]))

    def _measure(self, place: int, source: Source) -> Measure:
        last = place == len(self.plan.units) - 1 and source.data.task == "classification"
        return Measure.of(self.plan.units[place].axis, source.drawn(DRAWN)[1], last)

    def _note(self, place: int, network: UnitNetwork, before: UnitNetwork | None, found: Imitated) -> None:
        for name, value in network.part.state_dict().items():
            first = self.names.get(name, name)
            found.weights[name] = self.learned.setdefault(first, value.detach().clone())
        if network.reduce is not None and before is not None and before.lift is not None:
            found.maps[self.plan.units[place - 1].end] = (network.reduce @ before.lift).detach()


def is_held(plan: NarrowPlan, data: Data, recipe: Recipe, cache_bytes: int | None, *, jointly: bool = False) -> bool:
    """Whether inputs and targets of units are held in memory, else computed anew for every batch.

    Args:
        plan: The units.
        data: The data set.
        recipe: Of the units; with augmentation nothing is held.
        cache_bytes: Room; 0 holds nothing, and `None` what fits into 1 GiB.
        jointly: Whether all units are trained at once.

    Raises:
        MemoryBudgetError: They need more than the stated room.
    """
    needed = bytes_held(plan, data, jointly=jointly)
    if cache_bytes == 0 or recipe.augmentation.active:
        return False
    if cache_bytes is None:
        return needed <= CACHE_BYTES
    if needed > cache_bytes:
        samples = len(data.train) + len(data.validation)
        got = f"activations of {len(plan.units)} units for {samples:,} samples, {needed:,} bytes in float32"
        remedy = f"set cache_bytes to {needed}, or to 0 to compute them with each batch"
        raise MemoryBudgetError(
            explain(f"at most {cache_bytes:,} bytes for the cache", got, "cache of thin and wide activations", remedy)
        )
    return True


def bytes_held(plan: NarrowPlan, data: Data, *, jointly: bool = False) -> int:
    """Room for the pairs of two units, while those of the next take the place of those before; jointly, of all."""
    samples = len(data.train) + len(data.validation)
    if jointly:
        wide = sum(torch.Size(unit.wide).numel() for unit in plan.units)
        return 4 * samples * (torch.Size(data.input_shape).numel() + wide)
    starts = [torch.Size(data.input_shape).numel(), *(torch.Size(unit.thin).numel() for unit in plan.units[:-1])]
    pairs = [start + torch.Size(unit.wide).numel() for start, unit in zip(starts, plan.units, strict=True)]
    most = max(a + b for a, b in zip(pairs, [*pairs[1:], 0], strict=True))
    return 4 * samples * most


def first_names(root: nn.Module) -> dict[str, str]:
    """The first name of the tensor of each parameter and buffer, by all its names."""
    seen: dict[int, str] = {}
    tensors = [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]
    return {name: seen.setdefault(id(tensor), name) for name, tensor in tensors}


@torch.no_grad()
def _refit(network: UnitNetwork, unit: Unit, source: Source) -> None:
    """The lift of least squares for the trained stretch."""
    if network.lift is not None:
        inputs, targets = source.drawn(DRAWN)
        network.lift.copy_(refitted(network.eval().thin(inputs), targets, unit.axis))


def _macs(parts: Sequence[nn.Module], sample: Tensor) -> list[int]:
    """Multiply-accumulates of one sample through each of the parts, one after the other."""
    found, passed = [], sample[:1]
    for part in parts:
        found.append(macs_of(part, passed))
        with torch.no_grad(), modes_kept(part):
            passed = part.eval()(passed)
    return found
