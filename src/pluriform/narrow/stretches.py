"""Stretches of a network between chosen nodes, as modules of their own."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from pluriform.graph.cut import cut, suffix
from pluriform.graph.graph import Graph

__all__ = ["stretches"]


def stretches(graph: Graph, ends: Sequence[str]) -> tuple[nn.Module, ...]:
    """The network in `len(ends) + 1` parts, one after the other; they have copies of its weights, by the same names.

    Args:
        graph: The whole network.
        ends: Nodes that everything passes, in order.

    Raises:
        GraphError: A branch leads around one of them.
    """
    found = []
    for before, end in pairwise((None, *ends, None)):
        prefix = graph if end is None else cut(graph, end)  # Repeated calls keep their numbers in a prefix.
        found.append((prefix if before is None else suffix(prefix, before)).module)
    return tuple(found)
