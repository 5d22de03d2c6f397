"""How far the skips of two networks are apart: the cheapest way to pair them, by the Hungarian method.

    D_s = min over pairings of (sum of d_s over the pairs) + difference in number
    d_s = (|u_a - u_b| + |s_a - s_b|) / (max(u_a, u_b) + max(s_a, s_b)),  1 for different kinds

`u` is the rank where a skip starts and `s` the number of ranks it spans. `d_s` is a weighted Jaccard distance, a metric
of at most 1, and an unpaired skip costs 1, so that `D_s` is a metric.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pluriform.search.architecture import Skip

__all__ = ["pair_costs", "skip_distance"]


def pair_costs(a: Sequence[Skip], b: Sequence[Skip]) -> NDArray[np.float64]:
    """`d_s` between every skip of one network and every skip of another, `(skips of a, skips of b)`."""
    first, second = (np.array([(skip.start, skip.span) for skip in skips]).reshape(-1, 2) for skips in (a, b))
    apart = np.abs(first[:, None] - second[None]).sum(2)
    size = np.maximum(first[:, None], second[None]).sum(2)
    same = np.array([[x.kind == y.kind for y in b] for x in a]).reshape(len(a), len(b))
    return np.where(same, apart / np.maximum(size, 1), 1.0)


def skip_distance(a: Sequence[Skip], b: Sequence[Skip]) -> float:
    """Cost of the cheapest pairing of two sets of skips; `O(max(len(a), len(b))^3)`.

    Args:
        a: Skips of one network, in any order.
        b: Skips of the other.

    References:
        Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282, section 3.1.
        Kuhn 1955, The Hungarian Method for the Assignment Problem.

    Example:
        >>> skip_distance([Skip(1, 3, "add")], [Skip(1, 4, "add"), Skip(2, 5, "concat")])
        1.25
    """
    if not a or not b or a == b:
        return float(abs(len(a) - len(b)))
    from scipy.optimize import linear_sum_assignment

    costs = pair_costs(a, b)
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].sum()) + abs(len(a) - len(b))
