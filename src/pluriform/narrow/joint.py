"""`JointImitation`: all units of a thin network imitate those of a wide one at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pluriform.data.data import Data, Split
from pluriform.method import FitContext
from pluriform.metrics.multiplications import multiplications
from pluriform.narrow.imitation import DRAWN, Imitated, Imitation, Measure, is_held
from pluriform.narrow.source import Held, Source, Streamed
from pluriform.narrow.unit import UnitNetwork, mix
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch, Feed
from pluriform.training.loop import Loop
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import Assessment

__all__ = ["JointImitation", "Units"]


class Units(nn.Module):
    """The thin network with its maps: unit after unit, each held against the wide network.

    Args:
        parts: The stretches, with their own maps alone.
        forced: Whether units read the wide network where a map lies between.
    """

    def __init__(self, parts: Sequence[UnitNetwork], forced: bool) -> None:
        super().__init__()
        self.parts, self.forced = nn.ModuleList(parts), forced

    def forward(self, inputs: Tensor, wide: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of all units, lifted where the wide network is wider.

        Args:
            inputs: Of the network.
            wide: Outputs of the wide network at the ends of all units.
        """
        found: list[Tensor] = []
        passed = inputs
        for place, part in enumerate(self.parts):
            lifted = place > 0 and part.reduce is not None  # type: ignore[union-attr]
            if self.forced and place > 0 and (lifted or self.parts[place - 1].lift is None):
                passed = wide[place - 1]
            elif lifted:
                passed = found[-1]
            passed = part.thin(passed)  # type: ignore[operator]
            found.append(passed if part.lift is None else mix(passed, part.lift, part.axes[1]))  # type: ignore[arg-type]
        return found


class JointImitation(Imitation):
    """All units are trained at once by the sum of their losses; what one gives goes on to the next, gradients back.

    Arguments as of `Imitation`. Lifts are not refitted in the end, as the units behind have learned with them.
    """

    def run(self, data: Data, context: FitContext) -> Imitated:
        """Train all units on `data`.

        Raises:
            MemoryBudgetError: Inputs and targets need more than `cache_bytes`; known before they are computed.
        """
        source = self._source(data)
        inputs, packed = source.drawn(DRAWN)
        wide = self._unpacked(packed)
        network = self._units(wide).to(context.device)
        last = len(wide) - 1 if source.data.task == "classification" else len(wide)
        axes = [unit.axis for unit in self.plan.units]
        measures = [Measure.of(axis, h, k == last) for k, (axis, h) in enumerate(zip(axes, wide, strict=True))]
        found = Imitated(cost=[self._joint_loop(network, measures, source, context).run()])
        found.explained = [1 - loss for loss in self._losses(network, measures, source)]
        for place, share in enumerate(found.explained):
            self._tell(place, share, source)
        self._add_passes(network, inputs[: self.recipe.batch_size], packed[: self.recipe.batch_size], source, found)
        for place, part in enumerate(network.parts):
            before = network.parts[place - 1] if place else None
            self._note(place, part, before, found)  # type: ignore[arg-type]
        return found

    def _source(self, data: Data) -> Source:
        if is_held(self.plan, data, self.recipe, self.cache_bytes, jointly=True):
            return Held.of(data, self._packed, self.device)
        return Streamed(data, lambda x: x, self._packed, self.device)

    def _packed(self, inputs: Tensor) -> Tensor:
        """Outputs of the wide network at the ends of all units, flat, one behind the other."""
        found = []
        for part in self.wide:
            inputs = part(inputs)
            found.append(inputs.flatten(1))
        return torch.cat(found, 1)

    def _unpacked(self, packed: Tensor) -> list[Tensor]:
        shapes = [unit.wide for unit in self.plan.units]
        parts = packed.split([torch.Size(shape).numel() for shape in shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _units(self, wide: Sequence[Tensor]) -> Units:
        """Lifts at the principal directions, reductions at what undoes them; weights that units share are one."""
        parts: list[UnitNetwork] = []
        known: dict[str, Tensor] = {}
        for unit, part, features in zip(self.plan.units, self.thin, wide, strict=True):
            share(part, self.names, known)
            reduce, axis, before = None, 1, parts[-1].lift if parts else None
            if parts:
                earlier = self.plan.units[len(parts) - 1]
                axis = earlier.axis
                reduce = torch.linalg.pinv(before.detach()) if earlier.lift == "pair" and before is not None else None
            lift = None if unit.lift == "none" else self._lift(len(parts), features)
            parts.append(UnitNetwork(part, None, reduce, lift, (axis, unit.axis)))
        return Units(parts, self.inputs == "forced")

    def _joint_loop(self, network: Units, measures: Sequence[Measure], source: Source, context: FitContext) -> Loop:
        recipe, seed = self.recipe, derive_seed(context.seed, "units")
        augmentation = Augmentation() if isinstance(source, Held) else recipe.augmentation

        def step(batch: Batch) -> dict[str, Tensor]:
            inputs, packed = source.pair(batch.inputs, batch.targets)
            losses = self._of(network, measures, inputs, packed)
            return {"loss": torch.stack(losses).sum()} | {f"unit_{k}": loss for k, loss in enumerate(losses, 1)}

        return Loop(
            network,
            step,
            Feed(source.data, recipe.batch_size, seed, augmentation, context.device),
            recipe,
            seed=seed,
            epochs=recipe.epochs_for(len(source.data.train)),
            run=context.run,
            validate=lambda: Assessment(torch.tensor([sum(self._losses(network, measures, source))]), None),
            label="units",
        )

    def _of(self, network: Units, measures: Sequence[Measure], inputs: Tensor, packed: Tensor) -> list[Tensor]:
        """The loss of every unit."""
        wide = self._unpacked(packed)
        return [measure(own, aim) for measure, own, aim in zip(measures, network(inputs, wide), wide, strict=True)]

    @torch.no_grad()
    def _losses(self, network: Units, measures: Sequence[Measure], source: Source) -> list[float]:
        """Of every unit over the validation samples, or the training samples where there are none."""
        network.eval()
        split: Split = source.data.validation if len(source.data.validation) else source.data.train  # type: ignore[assignment]
        sums = torch.zeros(len(measures), dtype=torch.float64)
        for inputs, packed in source.batches(split):
            sums += len(inputs) * torch.stack(self._of(network, measures, inputs, packed)).cpu().double()
        return (sums / len(split)).tolist()

    @torch.no_grad()
    def _add_passes(self, network: Units, inputs: Tensor, packed: Tensor, source: Source, found: Imitated) -> None:
        """Passes through thin network and maps in thin networks, and those of the wide one."""
        macs = multiplications(lambda: network.eval()(inputs, self._unpacked(packed))) / len(inputs)
        samples = found.cost[-1].sample_passes
        found.passes.append(samples * macs / max(1, sum(self.macs["thin"])))
        held = isinstance(source, Held)
        found.forward["wide"] = float(len(source.data.train) + len(source.data.validation) if held else samples)


def share(part: nn.Module, names: dict[str, str], known: dict[str, Tensor]) -> None:
    """Let a part have the very tensors of those before it, where the network has them once.

    Args:
        part: Changed in place.
        names: First name of the tensor of each name.
        known: Tensors by first name; grows.
    """
    for path, module in part.named_modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    full = f"{path}.{name}" if path else name
                    kind[name] = known.setdefault(names.get(full, full), tensor)  # type: ignore[assignment]
