"""Bourgain's embedding of a distance in a Euclidean space, with anchors that are kept.

    z_S(x) = min over s in S of d(x, s),     rho(a, b) = |z(a) - z(b)| / sqrt(coordinates)

Every coordinate changes by at most `d`, so `rho <= d` always. `exp(-rho^2)` is positive definite whatever `d` is, and
`exp(-d^2)` is not. Corrected against its use in Auto-Keras: anchor sets are kept, so that a candidate and an
observation have the same coordinates; every anchor also stands alone, so that two anchors never fall on one point; sets
are drawn without replacement and anew only when the number of observations has doubled. Beside the observations, some
candidates drawn from the space serve as anchors: they cost no evaluation, and give the first observations enough
coordinates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pluriform.errors import ConfigError, explain
from pluriform.search.space import BatchedSpace, Space, draw

__all__ = ["AnchorSets", "DistanceRows", "anchor_sets", "landmarks", "space_parts"]

SINGLETONS = 200
"""Observations that stand alone; later ones are in sets only."""
ROUNDING = 1e-9
"""By which a distance of 0 may be too low."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnchorSets:
    """Sets of anchors, as places in the list of anchors.

    Attributes:
        alone: Anchors that are a set by themselves: the coordinate is the distance to them.
        members: Anchors of all larger sets, one set after the other.
        starts: Where each of them begins.
    """

    alone: int
    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    def coordinates(self, distances: Matrix) -> Matrix:
        """`(points, anchors)` distances to `(points, coordinates)`."""
        single = distances[:, : self.alone]
        if not len(self.starts):
            return single
        nearest = np.minimum.reduceat(distances[:, self.members], self.starts, axis=1)
        return np.concatenate([single, nearest], axis=1)


def anchor_sets(observed: int, first: int = 0, seed: int = 0) -> AnchorSets:
    """Singletons of all anchors, and random sets of observations that change when their number has doubled.

    Args:
        observed: Observations, which stand behind `first` other anchors.
        first: Anchors that are no observations.
        seed: Of the sets.

    Returns:
        For `n` observations at the last doubling, `ceil(ln n)` sets of each size 2, 4, 8, ... up to `n`.

    Example:
        >>> sets = anchor_sets(5)
        >>> sets.alone, sets.starts.tolist(), len(sets.members)
        (5, [0, 2, 4, 8], 12)
    """
    members, starts = _drawn(int(math.log2(observed)) if observed else 0, seed)
    return AnchorSets(first + min(observed, SINGLETONS), first + members, starts)


@lru_cache(maxsize=256)
def _drawn(generation: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sets of one doubling: their members one after the other, and where each set begins."""
    count = 2**generation
    generator = np.random.default_rng([seed, generation])
    sizes = [2**i for i in range(1, generation + 1) for _ in range(math.ceil(math.log(count)))]
    members = [generator.choice(count, size=size, replace=False) for size in sizes]
    starts = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0)
    return np.concatenate([np.zeros(0, dtype=np.int64), *members]), starts.astype(np.int64)


def landmarks(space: Space, count: int, seed: int) -> list[Any]:
    """Different candidates drawn from the space, fewer where it is small; the same for one seed."""
    generator = np.random.default_rng([seed, 7919])
    return list(dict.fromkeys(draw(space, generator) for _ in range(count)))


def space_parts(space: Space, candidates: Sequence[Any], others: Sequence[Any], *, whole: bool = False) -> Matrix:
    """All distances of a space, `(parts, candidates, others)`: layers and skips apart where it tells them apart.

    Args:
        space: Where candidates live.
        candidates: Rows.
        others: Columns.
        whole: Only the distance itself.

    Raises:
        ConfigError: A distance is negative, infinite or no number; names the candidates.
    """
    parts = None if whole else getattr(space, "distance_parts", None)
    if callable(parts):
        found = np.asarray(parts(candidates, others), dtype=np.float64)
    elif isinstance(space, BatchedSpace):
        found = np.asarray(space.distances(candidates, others), dtype=np.float64)[None]
    else:
        rows = [[float(space.distance(a, b)) for b in others] for a in candidates]
        found = np.array(rows, dtype=np.float64).reshape(1, len(candidates), len(others))
    wrong = ~((found > -ROUNDING) & (found < math.inf))
    if wrong.any():
        _, a, b = (int(place) for place in np.argwhere(wrong)[0])
        got = f"{found[:, a, b].tolist()} from {candidates[a]!r} to {others[b]!r}"
        remedy = "give candidates that cannot be compared a large finite distance"
        where = f"distance of {type(space).__name__}"
        raise ConfigError(explain("distances of 0 or more, all finite", got, where, remedy))
    return found


class DistanceRows:
    """Distances of candidates to a growing list of anchors; each is computed once.

    Args:
        space: Where candidates live.
        anchors: The first anchors.
        whole: Only the distance itself, not its parts.
    """

    def __init__(self, space: Space, anchors: Sequence[Any] = (), *, whole: bool = False) -> None:
        self.space, self.anchors, self.whole = space, list(anchors), whole
        self._place: dict[Any, int] = {}
        self._filled = np.zeros(0, dtype=np.int64)
        self._data: Matrix | None = None

    def rows(self, candidates: Sequence[Any]) -> Matrix:
        """Distances to all anchors, `(parts, candidates, anchors)`."""
        for candidate in candidates:
            self._place.setdefault(candidate, len(self._place))
        places = np.array([self._place[candidate] for candidate in candidates], dtype=np.int64)
        self._grow(candidates)
        data = self._data
        if data is None:
            return np.zeros((1, len(candidates), len(self.anchors)))
        filled = self._filled[places]
        for start in np.unique(filled[filled < len(self.anchors)]):
            new = np.unique(places[filled == start])
            named = dict(zip(places, candidates, strict=True))
            block = self._parts([named[place] for place in new], self.anchors[start:])
            data[:, new, start : len(self.anchors)] = block
            self._filled[new] = len(self.anchors)
        return data[:, places, : len(self.anchors)]

    def _parts(self, candidates: Sequence[Any], others: Sequence[Any]) -> Matrix:
        return space_parts(self.space, candidates, others, whole=self.whole)

    def _grow(self, candidates: Sequence[Any]) -> None:
        rows, columns = len(self._place), len(self.anchors)
        if not rows or not columns:
            return
        if self._data is None:
            parts = len(self._parts(candidates[:1], self.anchors[:1]))
            self._data = np.zeros((parts, 0, 0))
        parts, high, wide = self._data.shape
        if rows > high or columns > wide:
            fresh = np.zeros((parts, max(rows, 2 * high) if rows > high else high, max(columns, wide + 64)))
            fresh[:, :high, :wide] = self._data
            self._data = fresh
            self._filled = np.concatenate([self._filled, np.zeros(fresh.shape[1] - high, dtype=np.int64)])
