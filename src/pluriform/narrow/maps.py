"""Networks with maps between their blocks, and the proof that another network computes the same."""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.errors import GraphError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.ops import Op
from pluriform.graph.rewrite import inserted
from pluriform.graph.trace import trace

__all__ = ["Agreement", "ChannelMap", "MergeReport", "agreement", "map_name", "with_maps"]

ROWS = 8
"""Samples of a random batch: enough for the statistics of a normalisation."""


class ChannelMap(nn.Module):
    """x -> A x over the channels.

    Args:
        matrix: A, `(channels, channels)`.
        axis: Of the channels, the batch axis counted.
    """

    one_node = True

    def __init__(self, matrix: Tensor, axis: int) -> None:
        super().__init__()
        self.matrix, self.axis = nn.Parameter(matrix), axis

    def forward(self, x: Tensor) -> Tensor:
        """Map the channels; shape and type stay. Contiguous, as code behind may call `view`."""
        return (x.movedim(self.axis, -1) @ self.matrix.T).movedim(-1, self.axis).contiguous()


@dataclass(frozen=True)
class Agreement:
    """How far two networks lie apart: the greatest difference of outputs over the greatest output.

    Attributes:
        evaluation: In evaluation mode.
        training: In training mode, dropout off.
        dtype: In which both were computed.
    """

    evaluation: float
    training: float
    dtype: torch.dtype

    @property
    def worst(self) -> float:
        """The greater of the two."""
        return max(self.evaluation, self.training)


@dataclass(frozen=True)
class MergeReport:
    """How exactly maps were multiplied away.

    Attributes:
        places: By node, the map behind it: which way it went, and the layers that took it.
        agreement: How far the merged network and the one with maps lie apart.
        tolerance: What was allowed.
    """

    places: Mapping[str, str]
    agreement: Agreement
    tolerance: float | int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "places": dict(self.places),
            "evaluation": self.agreement.evaluation,
            "training": self.agreement.training,
            "tolerance": self.tolerance,
            "dtype": str(self.agreement.dtype).removeprefix("torch."),
        }


def map_name(node: str) -> str:
    """Dotted path of the module that `with_maps` puts behind a node."""
    return f"maps.{node.replace('.', '_').replace('@', '_')}"


def with_maps(graph: Graph, maps: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the network with modules behind nodes; all that read a node read its module instead.

    Args:
        graph: The network.
        maps: Modules by the name of the node; copies of them lie at `map_name(node)` in the result.

    Raises:
        GraphError: No such node, or nothing can follow it.
    """
    return inserted(graph, maps, {node: map_name(node) for node in maps})


def agreement(
    graph: Graph,
    maps: Mapping[str, ChannelMap],
    other: nn.Module,
    batches: Sequence[Tensor | tuple[Tensor, ...]] = (),
    seed: int = 0,
) -> Agreement:
    """Compare the network with maps to another one, on copies, without TF32 and autocast.

    Args:
        graph: The network.
        maps: By name of the node.
        other: Takes the same inputs.
        batches: Real inputs, besides a random batch of the shapes of the example.
        seed: Of the random batch.

    Raises:
        GraphError: The network has no such node in training mode.
    """
    dtype = next((each.dtype for each in graph.root.parameters() if each.is_floating_point()), torch.float32)
    inputs = [_random(graph, seed), *(each if isinstance(each, tuple) else (each,) for each in batches)]
    found = {}
    for mode in (False, True):
        mapped = _mapped(graph, maps, mode)
        own = copy.deepcopy(other).train(mode)
        _without_dropout(own)
        _without_dropout(mapped)
        found[mode] = max(_difference(mapped, own, each, seed, dtype) for each in inputs)
    return Agreement(found[False], found[True], dtype)


def _mapped(graph: Graph, maps: Mapping[str, ChannelMap], mode: bool) -> nn.Module:
    """The network with maps as it runs in one mode, which its code may ask for."""
    same = all(part.training == mode for part in graph.root.modules())
    traced = graph if same else trace(copy.deepcopy(graph.root).train(mode), graph.examples)
    missing = [name for name in maps if name not in traced]
    if missing:
        expected, got = f"a node {missing[0]} in training and in evaluation", "other operations in one of them"
        raise GraphError(explain(expected, got, f"graph of {type(graph.root).__name__}", "put the map elsewhere"))
    return with_maps(traced, maps)


def _without_dropout(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()


def _difference(
    mapped: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...], seed: int, dtype: torch.dtype
) -> float:
    """Max |difference| / max |output|; dropout that the code itself calls draws the same masks in both."""
    place = next((each.device for each in other.parameters()), inputs[0].device)
    given = tuple(each.to(place, dtype) if each.is_floating_point() else each.to(place) for each in inputs)
    outputs = []
    for module in (mapped, other):
        with _plain(place), torch.no_grad():
            torch.manual_seed(seed)
            found = _tensors(module(*(each.clone() for each in given)))
            outputs.append(torch.cat([each.double().flatten() for each in found]))
    one, two = outputs
    apart = float((one - two).abs().max() / one.abs().max()) if one.shape == two.shape else math.inf
    return 0.0 if torch.equal(one, two) else apart if math.isfinite(apart) else math.inf


@contextlib.contextmanager
def _plain(device: torch.device) -> Iterator[None]:
    """Generators forked, autocast off, products of single precision in single precision; all comes back."""
    backends: Any = torch.backends
    places = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    before = [place.fp32_precision for place in places]
    devices = [device] if device.type == "cuda" else []
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with torch.random.fork_rng(devices=devices), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _random(graph: Graph, seed: int) -> tuple[Tensor, ...]:
    """Inputs of the shapes of the example: normal, or whole numbers that an embedding takes."""
    generator = torch.Generator().manual_seed(seed)
    words = [node.attributes["num_embeddings"] for node in graph.nodes if node.op is Op.EMBEDDING]
    batch = len(graph.examples[0])
    found = []
    for each in graph.examples:
        shape = (max(ROWS, batch), *each.shape[1:]) if len(each) == batch else each.shape
        if each.is_floating_point():
            found.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(each.dtype))
        else:
            found.append(torch.randint(min(words, default=2), shape, generator=generator).to(each.dtype))
    return tuple(found)
