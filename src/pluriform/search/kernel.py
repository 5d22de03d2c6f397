"""One kernel over candidates, the same for training and for prediction.

    k(a, b) = A [exp(-sum over parts of rho_p(a, b)^2 / 2 l_p^2) + s <z(a), z(b)>]

A candidate becomes a vector of coordinates for every part of its distance (layers, skips, size), by a feature map
below; a product of positive definite kernels of the parts is positive definite, and lets the data say how much each
part counts. The linear term, on centred coordinates of unit mean square, carries what is additive.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pluriform.errors import ConfigError, explain
from pluriform.search.embedding import DistanceRows, anchor_sets, landmarks
from pluriform.search.space import Space

__all__ = [
    "EmbeddedDistance",
    "FeatureMap",
    "Features",
    "KernelScales",
    "OneHot",
    "Pairs",
    "WeisfeilerLehman",
    "covariance",
    "pairs_of",
    "weisfeiler_lehman_labels",
]

Features = tuple[NDArray[np.float64], ...]
"""Coordinates of some candidates, `(candidates, coordinates)` for every part."""


@runtime_checkable
class FeatureMap(Protocol):
    """Turns candidates into coordinates."""

    def observe(self, observed: Sequence[Any], /) -> None:
        """All candidates observed so far, in order."""
        ...

    def features(self, candidates: Sequence[Any], count: int, /) -> Features:
        """Coordinates of the candidates for every part, as the first `count` observations make them."""
        ...


class EmbeddedDistance:
    """Bourgain's embedding of the distance of a space, each part of it by itself.

    Args:
        space: With the distance.
        seed: Of landmarks and random anchor sets.
        marks: Candidates drawn from the space that serve as anchors beside the observations.
    """

    def __init__(self, space: Space, *, seed: int = 0, marks: int = 100) -> None:
        self.seed = seed
        self._rows = DistanceRows(space, landmarks(space, marks, seed) if marks else [])
        self._first = len(self._rows.anchors)

    def observe(self, observed: Sequence[Any]) -> None:
        """New observations become anchors behind the others."""
        known = len(self._rows.anchors) - self._first
        self._rows.anchors += observed[known:]

    def features(self, candidates: Sequence[Any], count: int) -> Features:
        """Coordinates of the candidates for every part, as the first `count` observations make them."""
        sets = anchor_sets(count, self._first, self.seed)
        return tuple(sets.coordinates(part) for part in self._rows.rows(candidates))


class OneHot:
    """Choices as they are: needs a space with `one_hot(candidate)`, as tables have.

    Args:
        space: With `one_hot`.

    Raises:
        ConfigError: The space has none.
    """

    def __init__(self, space: Any) -> None:
        if not callable(getattr(space, "one_hot", None)):
            got = f"a {type(space).__name__} without it"
            raise ConfigError(explain("a space with one_hot(candidate)", got, "kernel", 'use kernel="distance"'))
        self.space = space
        self._known: dict[Any, NDArray[np.float64]] = {}

    def observe(self, observed: Sequence[Any]) -> None:
        """Nothing depends on them."""

    def features(self, candidates: Sequence[Any], count: int = 0) -> Features:  # noqa: ARG002 -- of the interface
        """One row of zeros and ones a candidate."""
        for one in candidates:
            if one not in self._known:
                self._known[one] = np.asarray(self.space.one_hot(one), dtype=np.float64)
        return (np.array([self._known[one] for one in candidates]),)


class WeisfeilerLehman:
    """Counts of labelled subtrees: needs a space with `labelled_graph(candidate)`, labels and edges `(from, to)`.

    Args:
        space: With `labelled_graph`.
        rounds: Depth of the subtrees.

    Raises:
        ConfigError: The space has none.

    References:
        Shervashidze et al. 2011, Weisfeiler-Lehman Graph Kernels. Ru et al. 2021, Interpretable Neural Architecture
        Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels, arXiv:2006.07556.
    """

    def __init__(self, space: Any, *, rounds: int = 2) -> None:
        if not callable(getattr(space, "labelled_graph", None)):
            got = f"a {type(space).__name__} without it"
            raise ConfigError(explain("a space with labelled_graph(candidate)", got, "kernel", 'use kernel="distance"'))
        self.space, self.rounds = space, rounds
        self._columns: dict[str, int] = {}
        self._widths = [0]
        self._known: dict[Any, Counter[str]] = {}

    def observe(self, observed: Sequence[Any]) -> None:
        """Labels of observed networks get a coordinate each; others have none."""
        for one in observed[len(self._widths) - 1 :]:
            for label in sorted(self._labels(one)):
                self._columns.setdefault(label, len(self._columns))
            self._widths.append(len(self._columns))

    def features(self, candidates: Sequence[Any], count: int) -> Features:
        """Counts of labels, a candidate's scaled by the root of how many it has."""
        width = self._widths[count]
        counts = np.zeros((len(candidates), width))
        for row, one in enumerate(candidates):
            labels = self._labels(one)
            for label, number in labels.items():
                if (column := self._columns.get(label, width)) < width:
                    counts[row, column] = number / np.sqrt(max(labels.total(), 1))
        return (counts,)

    def _labels(self, candidate: Any) -> Counter[str]:
        if candidate not in self._known:
            labels, edges = self.space.labelled_graph(candidate)
            self._known[candidate] = weisfeiler_lehman_labels(labels, edges, self.rounds)
        return self._known[candidate]


def weisfeiler_lehman_labels(labels: Sequence[str], edges: Sequence[tuple[int, int]], rounds: int = 2) -> Counter[str]:
    """How often each label occurs, those of subtrees over incoming edges up to a depth included.

    Example:
        >>> sorted(weisfeiler_lehman_labels(["conv", "relu"], [(0, 1)], rounds=0).items())
        [('conv', 1), ('relu', 1)]
    """
    now = list(labels)
    found = Counter(now)
    for _ in range(rounds):
        below: list[list[str]] = [[] for _ in now]
        for start, end in edges:
            below[end].append(now[start])
        words = [f"{label}({','.join(sorted(under))})" for label, under in zip(now, below, strict=True)]
        now = [hashlib.blake2b(word.encode(), digest_size=8).hexdigest() for word in words]
        found.update(now)
    return found


@dataclass(frozen=True)
class KernelScales:
    """What is fitted.

    Attributes:
        lengths: Length scale of each part, in units of its embedded distance.
        linear: Weight of the linear term; 0 for none.
        amplitude: Prior variance.
        noise: Variance of the evaluations, as a share of the mean prior variance.
    """

    lengths: tuple[float, ...]
    linear: float
    amplitude: float
    noise: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """What the kernel needs of two sets of candidates.

    Attributes:
        squared: `rho^2` of each part, `(parts, n, m)`.
        products: Inner products of centred coordinates, `(n, m)`.
    """

    squared: Float[Tensor, "parts n m"]
    products: Float[Tensor, "n m"]


def pairs_of(a: Features, b: Features, centres: Features, spread: float | int) -> Pairs:
    """Distances and products of all pairs.

    Args:
        a: Coordinates of `n` candidates.
        b: Coordinates of `m` candidates.
        centres: What is subtracted before products are taken, one row for each part.
        spread: Mean square of centred coordinates, by which products are divided.
    """
    squared, products = [], torch.zeros(len(a[0]), len(b[0]), dtype=torch.float64)
    for x, y, centre in zip(a, b, centres, strict=True):
        first, second = torch.from_numpy(x - centre), torch.from_numpy(y - centre)
        inner = first @ second.T
        sizes = (first**2).sum(1)[:, None] + (second**2).sum(1)[None]
        squared.append((sizes - 2 * inner).clamp_min(0.0) / max(x.shape[1], 1))
        products = products + inner / max(x.shape[1], 1)
    return Pairs(torch.stack(squared), products / float(spread))


def covariance(pairs: Pairs, lengths: Tensor, linear: Tensor | float, amplitude: Tensor | float) -> Tensor:
    """The kernel of all pairs, `(n, m)`; differentiable in the scales.

    Args:
        pairs: Of the candidates.
        lengths: Length scales, `(parts,)`.
        linear: Weight of the linear term.
        amplitude: Prior variance.
    """
    exponent = (pairs.squared / (2.0 * lengths[:, None, None] ** 2)).sum(0)
    return amplitude * (torch.exp(-exponent) + linear * pairs.products)
