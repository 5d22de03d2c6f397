"""`FitNets`: a thin network learns a middle layer of a wide one, then its outputs."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import GraphError, ShapeError, explain
from pluriform.graph.blocks import blocks, passages
from pluriform.graph.cut import cut
from pluriform.graph.features import tap
from pluriform.graph.graph import Graph
from pluriform.graph.trace import trace
from pluriform.method import FitContext
from pluriform.narrow.channel_axis import channel_axis
from pluriform.narrow.from_wide import FromWide
from pluriform.narrow.losses import imitation
from pluriform.narrow.narrowed import Narrowed
from pluriform.narrow.teacher import Teacher
from pluriform.narrow.wide import read
from pluriform.training.feed import Feed
from pluriform.training.initialisation import reinitialise
from pluriform.training.layout import to_channels_last
from pluriform.training.loop import Loop
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed

__all__ = ["FitNets"]


@dataclass(frozen=True)
class FitNets(FromWide):
    """Train the first half of the network to give a middle layer of a wide one, then the whole by distillation.

    In the first stage a linear regressor, with a bias, over the channels of the guided layer (a 1 x 1 convolution on
    maps) is trained together with all layers up to it; the loss is the mean squared error over the variance of the hint
    in the batch. The regressor is thrown away then. The second stage is `Distillation`.

    Args:
        widen: Width of the wide network, in units of the thin one's.
        wide: Folder of a trained form of one network to learn from instead.
        alpha: Share of the wide network's outputs in the loss of the second stage.
        temperature: Of the softmax in that share.
        training: How the whole network is trained in the second stage; a `Training` serves.
        wide_training: How the wide network is trained.
        reinitialise: Draw new initial weights of the thin network from the seed instead of starting from the given
            ones.
        cache_bytes: Memory for outputs of the wide network on the training split, as in `Distillation`; hints are kept
            where they fit it, or else computed with each batch.
        hint_training: How the first stage is trained; without early stopping.
        guided: Name of the layer of the thin network; the end of the middle block by default.
        hint: Name of the layer of the wide network; as `guided` by default.

    References:
        Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2014, FitNets: Hints for Thin Deep Nets, arXiv:1412.6550.

    Example:
        >>> import pluriform as pf
        >>> data, short = pf.load("digits"), pf.Training(epochs=2)
        >>> method = FitNets(training=short, wide_training=short, hint_training=short)
        >>> method.fit(pf.nets.build("mlp", data), data).facts["guided"]
        'layers.2'
    """

    hint_training: Recipe = field(default_factory=Recipe)
    guided: str | None = None
    hint: str | None = None

    def _fit(self, module: Any, data: Data, context: FitContext) -> Narrowed:
        graph = read(module, data)
        guided = graph[self.guided].name if self.guided else middle(graph)
        wide = self._trained_wide(module, data, context)
        broad = read(wide.network, data)
        hint = broad[self.hint or guided].name
        axis = differing_axis(graph, guided, broad, hint)
        thin = self._started(module, context)
        stages = [
            lambda: self._hint_loop(thin, guided, cut(broad, hint).module, axis, data, context),
            lambda: self._loop(thin, wide.network, data, context),
        ]
        return self._form(thin, data, context, wide, stages, {"guided": guided, "hint": hint})

    def _hint_loop(
        self, thin: nn.Module, guided: str, hint: nn.Module, axis: int, data: Data, context: FitContext
    ) -> Loop:
        recipe, seed = self.hint_training, derive_seed(context.seed, "hint")
        feed = Feed(data, recipe.batch_size, seed, recipe.augmentation, context.device)
        teacher = Teacher(hint, feed, cache_bytes=self.cache_bytes, strict=False)
        graph = trace(thin.train(), feed.sample())  # In training mode: dropout written as a function is on.
        sizes = graph[guided].shape[axis], teacher.shape[axis - 1]
        with torch.random.fork_rng(devices=[]):  # A layer draws as it is made.
            guide = _Guided(graph, guided, axis, sizes).to(context.device)
        reinitialise(guide.regressor, seed)
        if to_channels_last(guide, feed.sample()):
            feed.memory_format = torch.channels_last
        return Loop(
            guide,
            lambda batch: imitation(guide(batch.inputs), teacher(batch), axis=axis),
            feed,
            recipe,
            seed=seed,
            epochs=recipe.epochs_for(len(data.train)),
            run=context.run,
            label="hint",
        )


class _Guided(nn.Module):
    """A network up to its guided layer, whose weights it shares, and the regressor behind it."""

    def __init__(self, graph: Graph, guided: str, axis: int, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.prefix, self.guided, self.axis = tap(graph, guided), guided, axis
        self.regressor = nn.Linear(*sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.regressor(self.prefix(inputs)[self.guided].movedim(self.axis, -1)).movedim(-1, self.axis)


def middle(graph: Graph) -> str:
    """The end of the middle block of those before the last: the last of its nodes that everything passes.

    Raises:
        GraphError: There is no hidden layer that everything passes.
    """
    through = set(passages(graph))
    ends = [[name for name in block.nodes if name in through][-1:] for block in blocks(graph)[:-1]]
    found = [name for end in ends for name in end]
    if not found:
        got, where = "none", f"FitNets of {type(graph.root).__name__}"
        raise GraphError(explain("a hidden layer that everything passes", got, where, "name one with guided="))
    return found[(len(found) - 1) // 2]


def differing_axis(graph: Graph, guided: str, wide: Graph, hint: str) -> int:
    """The axis along which the two layers may differ: that of the channels.

    Raises:
        ShapeError: They differ along other axes too.
    """
    own, other = graph[guided].shape, wide[hint].shape
    differ = [axis for axis, (a, b) in enumerate(zip(own, other, strict=False)) if a != b and axis > 0]
    axis = differ[0] if differ else channel_axis(graph, guided)
    if len(own) != len(other) or len(own) < 2 or len(differ) > 1 or (len(own) == 4 and axis != 1):
        expected = f"a hint of the shape of the guided layer {guided} but for its channels, {_text(own)}"
        remedy = "name layers of equal resolution with guided= and hint="
        raise ShapeError(explain(expected, f"{_text(other)} at {hint}", "FitNets", remedy))
    return axis


def _text(shape: tuple[Any, ...]) -> str:
    return "x".join(map(str, shape[1:]))
