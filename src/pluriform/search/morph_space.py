"""`MorphSpace`: all networks that grow out of one by morphs, as a space that strategies search.

A candidate has no weights: it is its moves from the start and the outline that they lead to. Two candidates are equal
where their architectures are, whatever moves led there.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pluriform.errors import GraphError
from pluriform.graph.graph import Graph
from pluriform.search.architecture import Architecture, Layer, Skip
from pluriform.search.layer_distance import alignment_cost
from pluriform.search.morphism import Morph
from pluriform.search.moves import draw_moves, predict
from pluriform.search.outline import Outline
from pluriform.search.size import work_of
from pluriform.search.skip_distance import skip_distance

__all__ = ["Grown", "MorphSpace", "count_parameters", "outline_bytes"]

CHILDREN = 24
"""Children of a candidate that are looked at; published were 8."""
REMEMBERED = 2000
"""Networks whose children are remembered."""
DRAWS = 2
"""Moves that are drawn for each child wanted; some are refused, or lead to the same network."""


class Grown:
    """A network by its moves from the start, without weights.

    Args:
        moves: From the start, in order.
        outline: Where they lead.
    """

    def __init__(self, moves: Sequence[Morph], outline: Outline) -> None:
        self.moves, self.outline = tuple(moves), outline

    @property
    def architecture(self) -> Architecture:
        """Layers and skips."""
        return self.outline.architecture

    @cached_property
    def key(self) -> str:
        """Hash of the architecture."""
        return self.architecture.key

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.outline)

    @cached_property
    def work(self) -> float:
        """What one sample costs in a training step, in multiply-accumulates."""
        return work_of(self.outline)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grown) and self.key == other.key

    def __repr__(self) -> str:
        return f"Grown({', then '.join(map(str, self.moves)) or 'the start'})"


class MorphSpace:
    """Networks that grow out of a start.

    Args:
        start: Of `morphable`.
        seed: Of the moves that are offered for each network.
        fits: Whether a network may be tried: a limit of size.
        children: Offered for each network, as `neighbours`.
        walk: Most moves of a network drawn at random.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.search.start import morphable
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> space = MorphSpace(morphable(net, torch.zeros(2, 4)))
        >>> child = space.neighbours(space.start)[0]
        >>> len(child.moves), space.distance(space.start, child) > 0
        (1, True)
    """

    def __init__(
        self,
        start: Graph,
        seed: int = 0,
        *,
        fits: Callable[[Grown], bool] = lambda _: True,
        children: int = CHILDREN,
        walk: int = 3,
    ) -> None:
        self.start = Grown((), Outline.of(start))
        self.seed, self.fits, self.children, self.walk = seed, fits, children, walk
        self._offered: dict[tuple[Morph, ...], list[Grown]] = {}
        self._table = _LayerTable()
        self._sets: dict[tuple[Skip, ...], int] = {}
        self._known: dict[str, tuple[int, tuple[Skip, ...]]] = {}
        self._apart: dict[tuple[int, int], float] = {}

    def grown(self, moves: Sequence[Morph]) -> Grown:
        """The network that moves lead to.

        Raises:
            GraphError: One of them is not legal.
        """
        outline = self.start.outline
        for morph in moves:
            outline = predict(outline, morph)
        return Grown(moves, outline)

    def random(self, generator: np.random.Generator) -> Grown:
        """A walk of a few random moves from the start."""
        found = self.start
        for _ in range(int(generator.integers(1, self.walk + 1))):
            near = self.neighbours(found) if found is self.start else self.draw(found, 1, generator)
            children = [one for one in near if self.fits(one)]
            found = children[int(generator.integers(len(children)))] if children else found
        return found

    def neighbours(self, candidate: Grown) -> list[Grown]:
        """Some networks one move away, always the same ones for the same moves."""
        if candidate.moves not in self._offered:
            if len(self._offered) >= REMEMBERED:
                self._offered.clear()
            words = f"{self.seed} {[morph.to_json() for morph in candidate.moves]}"
            digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
            generator = np.random.default_rng(int.from_bytes(digest, "big"))
            self._offered[candidate.moves] = self.draw(candidate, self.children, generator)
        return [one for one in self._offered[candidate.moves] if self.fits(one)]

    def draw(self, candidate: Grown, count: int, generator: np.random.Generator) -> list[Grown]:
        """At most so many different networks one random move away, of any size."""
        found: dict[Grown, None] = {}
        for morph in draw_moves(candidate.outline, DRAWS * count, generator):
            try:
                child = Grown((*candidate.moves, morph), predict(candidate.outline, morph))
            except GraphError:
                continue
            if child != candidate:
                found.setdefault(child)
            if len(found) == count:
                break
        return list(found)

    def distance(self, a: Grown, b: Grown) -> float:
        """Edit distance of layers and of skips, added up."""
        return float(self.distances([a], [b])[0, 0])

    def distances(self, candidates: Sequence[Grown], others: Sequence[Grown]) -> NDArray[np.float64]:
        """The distance of every pair, `(candidates, others)`."""
        return self._layer_distances(candidates, others) + self._skip_distances(candidates, others)

    def distance_parts(self, candidates: Sequence[Grown], others: Sequence[Grown]) -> NDArray[np.float64]:
        """Distances of layers, of skips and of size (doublings of the parameters), `(3, candidates, others)`.

        An edit of widths is short beside one that adds layers, however much it does to a network. With a scale of its
        own, size says that a network with twice the parameters is another one.
        """
        sizes = (np.log2([one.parameters for one in group]) for group in (candidates, others))
        apart = np.abs(np.subtract.outer(*sizes))
        return np.stack([self._layer_distances(candidates, others), self._skip_distances(candidates, others), apart])

    def _layer_distances(self, candidates: Sequence[Grown], others: Sequence[Grown]) -> NDArray[np.float64]:
        """Pairs of equal lengths go through the recursion together."""
        rows, columns = (self._table.numbers(group) for group in (candidates, others))
        costs, found = self._table.costs, np.zeros((len(candidates), len(others)))
        for short, firsts in rows.items():
            for long, seconds in columns.items():
                own = np.array([numbers for _, numbers in firsts], dtype=np.int64).reshape(-1, short)
                their = np.array([numbers for _, numbers in seconds], dtype=np.int64).reshape(-1, long)
                pairs = costs[own[:, None, :, None], their[None, :, None, :]].reshape(-1, short, long)
                places = np.ix_([place for place, _ in firsts], [place for place, _ in seconds])
                found[places] = alignment_cost(pairs).reshape(len(own), len(their))
        return found

    def _skip_distances(self, candidates: Sequence[Grown], others: Sequence[Grown]) -> NDArray[np.float64]:
        rows, columns = ([self._skip_set(one) for one in group] for group in (candidates, others))
        found = np.zeros((len(candidates), len(others)))
        for row, (one, first) in enumerate(rows):
            for column, (other, second) in enumerate(columns):
                if one != other:
                    pair = (one, other) if one < other else (other, one)
                    if pair not in self._apart:
                        self._apart[pair] = skip_distance(first, second)
                    found[row, column] = self._apart[pair]
        return found

    def _skip_set(self, candidate: Grown) -> tuple[int, tuple[Skip, ...]]:
        """The skips of a network, and the number of that set."""
        if candidate.key not in self._known:
            skips = tuple(candidate.architecture.skips)
            self._known[candidate.key] = self._sets.setdefault(skips, len(self._sets)), skips
        return self._known[candidate.key]

    def labelled_graph(self, candidate: Grown) -> Any:
        """Labels of the nodes and edges `(from, to)`, for graph kernels."""
        layers, skips = candidate.architecture.layers, candidate.architecture.skips
        count = max([len(layers), *(skip.end for skip in skips)]) + 1
        labels = [repr(layers[rank]) if rank < len(layers) else "join" for rank in range(count)]
        edges = [(rank, rank + 1) for rank in range(count - 1)] + [(skip.start, skip.end) for skip in skips]
        return labels, edges


class _LayerTable:
    """Numbers of the different layers that were met, and how far they are apart."""

    def __init__(self) -> None:
        self.known: dict[Layer, int] = {}
        self.chains: dict[str, list[int]] = {}
        self.costs = np.zeros((0, 0))

    def numbers(self, candidates: Sequence[Grown]) -> dict[int, list[tuple[int, list[int]]]]:
        """Places of candidates with the numbers of their layers, by how many layers they have."""
        found: dict[int, list[tuple[int, list[int]]]] = {}
        for place, one in enumerate(candidates):
            if one.key not in self.chains:
                layers = one.architecture.layers
                self.chains[one.key] = [self.known.setdefault(layer, len(self.known)) for layer in layers]
            numbers = self.chains[one.key]
            found.setdefault(len(numbers), []).append((place, numbers))
        self._grow()
        return found

    def _grow(self) -> None:
        old, layers = len(self.costs), list(self.known)
        if old == len(layers):
            return
        costs = np.zeros((len(layers), len(layers)))
        costs[:old, :old] = self.costs
        for i in range(old, len(layers)):
            costs[i, : i + 1] = costs[: i + 1, i] = [_substitution(layers[i], layer) for layer in layers[: i + 1]]
        self.costs = costs


def _substitution(a: Layer, b: Layer) -> float:
    """1 for two kinds, else the mean over attributes; a metric of at most 1."""
    if a.kind != b.kind:
        return 1.0
    first, second = dict(a.attributes), dict(b.attributes)
    names = first.keys() | second.keys()
    return sum(_apart(first.get(name), second.get(name)) for name in sorted(names)) / max(len(names), 1)


def _apart(x: Any, y: Any) -> float:
    """`|x - y| / max(x, y)` of numbers, its mean over axes, 0 or 1 of anything else."""
    if x == y:
        return 0.0
    if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y):
        return sum(map(_apart, x, y)) / len(x)
    if not isinstance(x, int | float) or not isinstance(y, int | float) or min(x, y) < 0:
        return 1.0
    return abs(x - y) / max(x, y)


def count_parameters(outline: Outline) -> int:
    """Parameters of the layers and of the code, shared ones once."""
    found = {id(part): part.numel() for layer in outline.layers.values() for part in layer.parameters()}
    found |= {id(part): part.numel() for part in outline.tensors.values() if part.requires_grad}
    return sum(found.values())


def outline_bytes(one: Grown, batch_size: int) -> float:
    """A rough size of a training, without building the network: parameters four times, and all tensors of a batch."""
    sized = [node.shape[1:] for node in one.outline.nodes if all(isinstance(length, int) for length in node.shape)]
    return 16.0 * one.parameters + 4.0 * batch_size * sum(math.prod(shape) for shape in sized)
