"""`WideThenNarrow`: the user's own thin network, taught from the inside by a wide copy of it."""

import copy
import logging
import math
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, MemoryBudgetError, explain, require
from pluriform.graph.graph import Graph
from pluriform.method import FitContext, Method, check_kinds
from pluriform.narrow.distillation import Distillation
from pluriform.narrow.fold import Fold, foldable, merge
from pluriform.narrow.imitation import CACHE_BYTES, Imitated, Imitation, is_held
from pluriform.narrow.joint import JointImitation
from pluriform.narrow.narrowed import Narrowed
from pluriform.narrow.plan import NarrowPlan, block_ends, inner_groups, plan_units
from pluriform.narrow.stretches import stretches
from pluriform.narrow.wide import TrainedWide, given, read, trained_wide, wider
from pluriform.training.feed import take
from pluriform.training.recipe import Recipe

__all__ = ["WideThenNarrow"]

CPU = torch.device("cpu")


def _imitation() -> Recipe:
    return Recipe(weight_decay=0.0)


def _labels() -> Recipe:
    return Recipe(learning_rate=1e-3)


@dataclass(frozen=True)
class WideThenNarrow(Method):
    """Widen the network, train it wide, let the thin one imitate it inside, and end with exactly the thin one.

    1. A copy of the network with `widen` times the channels is trained.
    2. The thin network is cut into units. One after the other learns to give, behind a linear lift U, what the wide
       network gives at the same place; the next unit reads it through a reducing map V. The last learns the class
       probabilities.
    3. The product V U is multiplied into the weights that read it, where that is exact; the result is held against the
       network with its maps.
    4. All weights together learn the wide network's class probabilities, then the labels.

    `form.module` is of the user's own class and has its widths; its `state_dict` loads there. `plan(module, data)`
    shows the units before anything is trained; a fit logs them, and shows them on a terminal. `form.facts` tells how
    well each unit imitates (`explained`), how exact stage 3 was (`merge`), what both networks need (`networks`), and
    what the stages took (`cost`), the passes of units counted as shares of the thin network.

    Args:
        widen: Factor of the channels.
        wide: Folder of a saved form of a wide network to take instead; stage 1 is left out then.
        widening: Which channels: `all`; `inner`, those that stay inside a block, so that no maps are needed; `auto` for
            `inner` where no map between blocks could be multiplied away, as in a transformer, whose residual stream
            ties all blocks.
        units: At most so many.
        ends: Names of the nodes or modules behind which units end, instead.
        inputs: What a unit reads while it learns: `own`, the thin units before it; `forced`, the wide network, but
            behind a unit whose map is none that could be multiplied away (`side` in the plan).
        jointly: Train all units at once by the sum of their losses instead of one after the other.
        wide_training: How the wide network is trained.
        imitation: How each unit is, without weight decay.
        logits: How the class probabilities are learned.
        training: How the labels are learned at the end; a `Training` serves.
        cache_bytes: Room for activations of training and validation split, refused where it is too small; 0, and
            augmentation, compute them anew for every batch. By default they are kept where they fit into 1 GiB.

    References:
        Zhou, Ye, Chen, Meng, Tan, Song, Le, Liu, Schuurmans 2020, Go Wide, Then Narrow: Efficient Training of Deep Thin
        Networks, arXiv:2007.00811.

    Example:
        >>> import pluriform as pf
        >>> data, short = pf.load("digits"), pf.Training(epochs=2)
        >>> method = pf.WideThenNarrow(2, wide_training=short, imitation=short, logits=short, training=short)
        >>> net = pf.nets.build("mlp", data)
        >>> form = method.fit(net, data)
        >>> type(form.module) is type(net), form.predict(data.test.inputs[:3]).mean.shape
        (True, torch.Size([3, 10]))
    """

    widen: float | int = 2
    wide: str | None = None
    widening: Literal["auto", "all", "inner"] = "auto"
    units: int = 6
    ends: tuple[str, ...] = ()
    inputs: Literal["own", "forced"] = "own"
    jointly: bool = False
    wide_training: Recipe = field(default_factory=Recipe)
    imitation: Recipe = field(default_factory=_imitation)
    logits: Recipe = field(default_factory=Recipe)
    training: Recipe = field(default_factory=_labels)
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        require(self, 1 < self.widen < math.inf, "widen", "a factor above 1")
        require(self, self.widening in ("auto", "all", "inner"), "widening", "'auto', 'all' or 'inner'")
        require(self, self.units >= 1, "units", "at least 1")
        require(self, not isinstance(self.ends, str), "ends", "names in a tuple")
        require(self, self.inputs in ("own", "forced"), "inputs", "'own' or 'forced'")
        require(self, self.cache_bytes is None or self.cache_bytes >= 0, "cache_bytes", "0 or more")

    def plan(self, module: nn.Module, data: Data) -> NarrowPlan:
        """The units, and where linear maps between them go; print it. Nothing is trained.

        Raises:
            GraphError: There is nothing to widen, or units cannot end there.
            ConfigError: The factor widens nothing, or norms do not allow it.
        """
        check_kinds(module, data, self.needs_module)
        graph = read(copy.deepcopy(module), data)
        if self.wide is not None:
            return self._planned(graph, read(given(self.wide, module, data, CPU), data))
        return self._planned(graph, wider(graph, self.widen, self._groups(graph)))

    def _planned(self, thin: Graph, wide: Graph) -> NarrowPlan:
        plan = plan_units(thin, wide, self.units, self.ends)
        stretches(thin, plan.ends)  # Whatever cannot be cut is said at once.
        return plan

    def _groups(self, graph: Graph) -> tuple[str, ...] | None:
        """Channel groups to widen; `None` for all."""
        if self.widening == "all":
            return None
        inner = inner_groups(graph)
        if self.widening == "inner":
            if not inner:
                got, where = "none", f"widening of {type(graph.root).__name__}"
                raise ConfigError(explain("channels that stay inside a block", got, where, "use widening='all'"))
            return inner
        if not inner:
            return None
        found = [foldable(graph, end) for end in block_ends(graph)[:-1]]  # The head can take a map almost everywhere.
        return None if any(isinstance(fold, Fold) and fold.direction == "forward" for fold in found) else inner

    def _fit(self, module: Any, data: Data, context: FitContext) -> Narrowed:
        network = module.to(context.device)
        graph = read(network, data)
        groups, plan = None, None
        if self.wide is None:  # Whatever cannot work is said before the wide network is trained.
            groups = self._groups(graph)
            plan = self._shown(graph, wider(graph, self.widen, groups), data)
        wide = trained_wide(
            network, data, context, widen=self.widen, wide=self.wide, recipe=self.wide_training, groups=groups
        )
        wide_graph = read(wide.network, data)
        plan = plan or self._shown(graph, wide_graph, data)
        kind = JointImitation if self.jointly else Imitation
        imitated = kind(graph, wide_graph, plan, self.imitation, self.inputs, self.cache_bytes).run(data, context)
        network.load_state_dict(imitated.weights, strict=False)
        sample = take(data.train, torch.arange(min(8, len(data.train))))[0].to(context.device)
        made = merge(read(network, data), imitated.maps, [sample])
        form = self._finished(made.network.to(context.device), wide, data, context, plan)
        taught = len(data.train) if self._logits_room(data) else int(form.cost["logits_sample_passes"])
        _add_costs(form, imitated, plan, taught)
        explained = dict(zip((*plan.ends, "output"), imitated.explained, strict=True))
        form.facts |= {"explained": explained, "merge": made.report.to_json()}
        return form

    def _shown(self, thin: Graph, wide: Graph, data: Data) -> NarrowPlan:
        """The plan, on a terminal and in the log, once it is known that a stated cache has room for what it asks."""
        plan = self._planned(thin, wide)
        is_held(plan, data, self.imitation, self.cache_bytes, jointly=self.jointly)
        self._logits_room(data)
        logging.getLogger("pluriform").info("wide, then narrow:\n%s", plan)
        if sys.stderr.isatty():
            sys.stderr.write(f"{plan}\n")
        return plan

    def _logits_room(self, data: Data) -> int:
        """Bytes for the outputs of the wide network on the training split; 0 computes them with each batch."""
        needed = 4 * len(data.train) * data.outputs
        if self.cache_bytes == 0 or self.logits.augmentation.active:
            return 0
        if self.cache_bytes is None:
            return needed if needed <= CACHE_BYTES else 0
        if needed > self.cache_bytes:
            got = f"outputs for {len(data.train):,} samples, {needed:,} bytes in float32"
            remedy = f"set cache_bytes to {needed}, or to 0 to compute them with each batch"
            expected, where = f"at most {self.cache_bytes:,} bytes for the cache", "cache of the wide network"
            raise MemoryBudgetError(explain(expected, got, where, remedy))
        return needed

    def _finished(
        self, narrow: nn.Module, wide: TrainedWide, data: Data, context: FitContext, plan: NarrowPlan
    ) -> Narrowed:
        """Learn the wide network's class probabilities, then the labels, by all weights together."""
        room = self._logits_room(data)
        taught = Distillation(alpha=1.0, temperature=1.0, training=self.logits, cache_bytes=room)
        labelled = Distillation(alpha=0.0, training=self.training)
        stages = [
            lambda: taught._loop(narrow, wide.network, data, context, "logits"),
            lambda: labelled._loop(narrow, wide.network, data, context, "labels"),
        ]
        return taught._form(narrow, data, context, wide, stages, {"plan": str(plan)})


def _add_costs(form: Narrowed, imitated: Imitated, plan: NarrowPlan, taught: int) -> None:
    """What each stage took, in seconds and in passes through the thin network; the wide network's apart.

    Args:
        form: Its costs grow by those of the units.
        imitated: The units.
        plan: Likewise.
        taught: Passes of the wide network for the class probabilities.
    """
    cost = form.cost
    cost |= imitated.figures(plan)
    cost["training_seconds"] += cost["imitation_seconds"]
    stages = ("imitation", "logits", "labels")
    passes = [cost["imitation_passes"], cost["logits_sample_passes"], cost["labels_sample_passes"]]
    form.facts["cost"] = {
        "seconds": {name: cost[f"{name}_seconds"] for name in ("wide", *stages)},
        "thin_passes": dict(zip(stages, passes, strict=True)) | {"all": sum(passes)},
        "thin_forward_passes": imitated.forward["thin"],
        "wide_passes": cost["wide_sample_passes"],
        "wide_forward_passes": imitated.forward["wide"] + taught,
    }
