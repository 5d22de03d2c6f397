"""How far two chains of layers are apart: the cheapest way to edit one into the other, by dynamic programming.

    A[i, 0] = i,  A[0, j] = j,  A[i, j] = min(A[i-1, j] + 1, A[i, j-1] + 1, A[i-1, j-1] + d(a_i, b_j))

The paper prints a maximum in the recursion, a misprint. Its closed form (every layer of the shorter chain is matched)
is not what the recursion computes, and is no metric; the recursion is one, as the substitution cost is a metric of at
most 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["alignment_cost", "attribute_distance", "layer_distance"]


def attribute_distance(a: Any, b: Any) -> float:
    """Mean over the attributes of two layers: `|x - y| / max(x, y)` of numbers, 0 or 1 of anything else.

    Layers with different numbers of attributes are of different kinds, at distance 1.

    Args:
        a: A number (a width), or a sequence of numbers of 0 or more, and names.
        b: Likewise.

    Example:
        >>> attribute_distance(("conv", 64, 3), ("conv", 128, 3)), attribute_distance(16, 64)
        (0.16666666666666666, 0.75)
    """
    first, second = ([layer] if isinstance(layer, int | float | str) else list(layer) for layer in (a, b))
    if len(first) != len(second):
        return 1.0
    return sum(map(_relative, first, second)) / max(len(first), 1)


def _relative(x: Any, y: Any) -> float:
    if x == y:
        return 0.0
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (x, y)):
        return 1.0
    return abs(x - y) / max(x, y)


def layer_distance(
    a: Sequence[Any], b: Sequence[Any], substitution: Callable[[Any, Any], float] = attribute_distance
) -> float:
    """Edit distance of two chains of layers: insertion and deletion cost 1, substitution at most 1.

    Args:
        a: Layers in topological order.
        b: Likewise.
        substitution: A metric of at most 1 between two layers.

    Returns:
        The cost of the cheapest edit; `O(len(a) len(b))`.

    References:
        Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282, section 3.1.

    Example:
        >>> layer_distance((16, 64, 256, 1024), (64, 256, 1024, 16))
        2.0
    """
    costs = np.array([[substitution(x, y) for y in b] for x in a]).reshape(1, len(a), len(b))
    return float(alignment_cost(costs)[0])


def alignment_cost(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The recursion for many pairs of chains at once.

    Args:
        costs: Substitution costs, `(pairs, layers of a, layers of b)`.

    Returns:
        Edit distances, `(pairs,)`.
    """
    _, rows, columns = costs.shape
    # Row by row: A[i, j] = min over k <= j of (best[k] + j - k), a running minimum of best[k] - k.
    steps = np.arange(columns + 1.0)
    last = np.broadcast_to(steps, (len(costs), columns + 1))
    for i in range(rows):
        best = last + 1.0
        best[:, 1:] = np.minimum(best[:, 1:], last[:, :-1] + costs[:, i])
        last = np.minimum.accumulate(best - steps, axis=1) + steps
    return last[:, -1]
