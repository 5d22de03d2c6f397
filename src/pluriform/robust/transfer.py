"""`Transfer`: bring a fitted network to another data set."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import require
from pluriform.graph.graph import Graph
from pluriform.method import FitContext, Method, check_kinds
from pluriform.robust.frozen import Frozen, TrainedPart, only_trained, trained_part
from pluriform.robust.head import head_path, read, with_new_head
from pluriform.robust.linear_probe import cached
from pluriform.robust.transferred import Transferred
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident
from pluriform.training.layout import to_channels_last
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import training_step
from pluriform.training.validation import assess

__all__ = ["Transfer"]

Mode = Literal["linear-probe", "fixed-feature", "last-n", "full-network"]
MODES = ("linear-probe", "fixed-feature", "last-n", "full-network")


def _recipe() -> Recipe:
    return Recipe(learning_rate=1e-3)


@dataclass(frozen=True)
class Transfer(Method):
    """Give a network a new last layer for the classes of another data set, and train it there.

    `fit` takes a fitted form of one network (of `Training`, `AdversarialTraining`, `JEM`, `DAT`, `Transfer`) or a plain
    network, of any output width. The head, its last linear layer or 1 x 1 convolution, is found in the graph and
    replaced by one that is drawn as torch does by default; all other weights are kept.

    What is frozen has no gradients, is left out of the optimiser, and stays in evaluation mode while the rest trains:
    dropout is off there, and `bn` says what batch norms do. Plain training mostly loses the robustness of a robust
    network; `pluriform.evaluate` with threats tells.

    Args:
        mode: `linear-probe` (the head alone, on features that are computed once), `fixed-feature` (the head alone, with
            augmentation and a choice of `bn`), `last-n` (also the last blocks before it), `full-network`.
        bn: Running statistics of frozen batch norms: `eval` keeps them, so that features are those of the source;
            `adapt` normalises by batches of the target and lets them follow, as Salman et al. did. Batch norms that
            train always follow.
        blocks: Of `last-n`: residual blocks, or layers where no branch leads around them, with their norms.
        head: Dotted path of the head, where the graph does not show it.
        head_rate: Learning rate of the head in units of that of the rest.
        training: How it is trained; a `Training` serves.

    References:
        Salman, Ilyas, Engstrom, Kapoor, Madry 2020, Do Adversarially Robust ImageNet Models Transfer Better?,
        arXiv:2007.08489.
        Kornblith, Shlens, Le 2019, Do Better ImageNet Models Transfer Better?, arXiv:1805.08974.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> source = pf.Training(epochs=2).fit(pf.nets.build("mlp", data), data)
        >>> form = pf.Transfer("linear-probe", training=pf.Training(epochs=2)).fit(source, data)
        >>> form.head, form.predict(data.test.inputs[:3]).mean.shape
        ('layers.5', torch.Size([3, 10]))
    """

    mode: Mode = "full-network"
    bn: Literal["eval", "adapt"] = "eval"
    blocks: int = 1
    head: str | None = None
    head_rate: float | int = 10
    training: Recipe = field(default_factory=_recipe)

    def __post_init__(self) -> None:
        require(self, self.mode in MODES, "mode", f"one of {', '.join(MODES)}", "name one of them")
        require(self, self.bn in ("eval", "adapt"), "bn", "'eval' or 'adapt'", "leave it at 'eval'")
        require(self, self.blocks >= 1, "blocks", "at least 1", "use mode='fixed-feature' for the head alone")
        require(self, 0 < self.head_rate < math.inf, "head_rate", "a number above 0", "leave it at its default")
        if self.mode == "linear-probe":
            remedy = "use mode='fixed-feature', which computes features anew for every batch"
            require(self, self.bn == "eval", "bn", "'eval', as features are computed once", remedy)
            plain = not self.training.augmentation.active
            require(self, plain, "training", "no augmentation, as features are computed once", remedy)

    def _copied(self, module: nn.Module | None, data: Data, seed: int) -> nn.Module:
        check_kinds(module, data, True)
        source: Any = module
        return with_new_head(source, data, self.head, derive_seed(seed, "head"))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Transferred:
        network = module.to(context.device)
        graph = read(network, data)
        head = head_path(graph, self.head)
        count = {"last-n": self.blocks, "full-network": None}.get(self.mode, 0)
        part = trained_part(network, graph, head, count)
        with only_trained(network, part.parameters):
            if self.mode == "linear-probe":
                loop, cost = self._probe(network, graph, head, data, context)
            else:
                loop, cost = self._tuned(network, part, head, data, context)
        trained = [name for name, _ in network.named_parameters() if name in part.parameters]
        return Transferred(network.eval(), data.signature, head, trained, cost.to_json(), loop.columns)

    def _probe(
        self, network: nn.Module, graph: Graph, head: str, data: Data, context: FitContext
    ) -> tuple[Loop, FitCost]:
        found = cached(network, graph, head, data, context.device)
        with only_trained(found.tail, {name for name, _ in found.tail.named_parameters()}):
            loop = self._loop(found.tail, found.tail, head, found.data, context)
            cost = loop.run()
        found.give_back(network, head)
        passes = (len(data.train) + len(data.validation)) // 3  # Forward only; those of the head cost nothing.
        seconds = cost.training_seconds + found.seconds
        return loop, replace(cost, training_seconds=seconds, sample_passes=passes)

    def _tuned(
        self, network: nn.Module, part: TrainedPart, head: str, data: Data, context: FitContext
    ) -> tuple[Loop, FitCost]:
        if self.mode == "full-network":
            loop = self._loop(network, network, head, data, context)
        else:
            loop = self._loop(Frozen(network, part, self.bn == "adapt"), network, f"network.{head}", data, context)
        return loop, loop.run()

    def _loop(self, trained: nn.Module, network: nn.Module, head: str, data: Data, context: FitContext) -> Loop:
        recipe, checked = self.training, resident(data.validation, context.device)
        feed = Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
        epochs, plain = recipe.epochs_for(len(data.train)), Loss(data.task)
        return Loop(
            trained,
            self._step(trained, network, feed, epochs, data, context),
            feed,
            recipe,
            seed=context.seed,
            epochs=epochs,
            run=context.run,
            validate=(lambda: assess(trained, checked, plain, context.device)) if len(checked) else None,
            factors={head: float(self.head_rate)},
        )

    def _step(
        self, trained: nn.Module, network: nn.Module, feed: Feed, epochs: int, data: Data, context: FitContext
    ) -> Callable[[Batch], Tensor]:
        loss = Loss.of(self.training, data, context.device)
        if trained is network:
            return training_step(network, loss, feed, self.training, epochs)
        if to_channels_last(network, feed.sample()):  # Fused kernels would train what is frozen.
            feed.memory_format = torch.channels_last
        return lambda batch: loss(trained(batch.inputs), batch.targets)
