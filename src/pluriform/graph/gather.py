"""`gather`: the one edit that thins and widens a network.

Each new channel j of a group is a copy of an old channel g(j). With m(i) copies of the old channel i,

    producers and carriers   W'[j] = W[g(j)]
    consumers                W'[:, j] = W[:, g(j)] / m(g(j))

so that a selection with every old channel keeps the function, and one without some of them gives the network in which
these are read with weight zero.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pluriform.errors import ConfigError, GraphError, explain
from pluriform.graph.channels import ChannelGroup, ChannelGroups, channel_groups
from pluriform.graph.graph import Graph
from pluriform.graph.resize import resized

__all__ = ["gather", "gather_all", "widen"]


def gather(graph: Graph, group: ChannelGroup | str, index: Tensor | Sequence[int]) -> Graph:
    """Let a channel group hold a selection of its channels: a subset thins, a multiset widens.

    In evaluation mode the function is kept, up to rounding, by every selection that holds each old channel at least
    once; it is refused where a norm over channels rules that out (each channel of a group of the norm has to be copied
    equally often). Any other selection gives a network that runs. Grouped convolutions whose groups would become
    unequal are written with fewer groups and zeros.

    Args:
        graph: The traced network; it, its root and the weights stay as they are.
        group: A free group of `channel_groups(graph)`, or its name.
        index: Old channel for each new channel, in order, repeats allowed.

    Returns:
        The graph of a new root, a copy of the user's own module with layers of the new sizes.

    Raises:
        GraphError: There is no such group, it is fixed, the index is empty or outside it, a norm cannot keep its
            statistics, or the code of the network has the number of channels written out.

    References:
        Chen, Goodfellow, Shlens 2016, Net2Net: Accelerating Learning via Knowledge Transfer, arXiv:1511.05641.

    Example:
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> graph = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
        >>> gather(graph, "0", [0, 1, 2, 3, 3]).root
        Sequential(
          (0): Linear(in_features=3, out_features=5, bias=True)
          (1): ReLU()
          (2): Linear(in_features=5, out_features=2, bias=True)
        )
    """
    return gather_all(graph, {group if isinstance(group, str) else group.name: index})


def gather_all(graph: Graph, selections: Mapping[str, Tensor | Sequence[int]]) -> Graph:
    """`gather` for several groups at once, by name.

    Args:
        graph: The traced network.
        selections: Old channel for each new channel, by name of the group.

    Returns:
        The graph of a new root.

    Raises:
        GraphError: As for `gather`.
    """
    found = ChannelGroups.of(graph)
    groups = {group.name: group for group in found.groups}
    chosen = {}
    for name, index in selections.items():
        if name not in groups:
            raise _refusal("the name of a channel group", repr(name), graph, f"the groups are {', '.join(groups)}")
        chosen[found.sets[name]] = _checked(graph, groups[name], index)
    return resized(found.flow, chosen)


def widen(graph: Graph, factor: float | int, groups: Iterable[str] | None = None) -> Graph:
    """Copy channels until every free group is `factor` times as wide, the function kept; copies lie side by side.

    Args:
        graph: The traced network; it stays as it is.
        factor: At least 1. A fraction gives some channels one copy more than others, which norms over channels refuse.
        groups: Names of the groups to widen; every free one by default.

    Returns:
        The graph of a new root.

    Raises:
        ConfigError: The factor is below 1.
        GraphError: As for `gather`.
    """
    if factor < 1:
        raise ConfigError(
            explain("a factor of at least 1", str(factor), "widen", "use gather to make a network thinner")
        )
    sizes = {group.name: group.size for group in channel_groups(graph) if not group.fixed}
    wanted = sizes if groups is None else {name: sizes.get(name, 1) for name in groups}
    return gather_all(graph, {name: _balanced(size, round(size * factor)) for name, size in wanted.items()})


def _balanced(size: int, count: int) -> Tensor:
    return torch.arange(count) * size // count


def _checked(graph: Graph, group: ChannelGroup, index: Tensor | Sequence[int]) -> Tensor:
    if group.reason is not None:
        raise _refusal(
            "a free group", f"group {group.name}, which is fixed: {group.reason}", graph, "choose another group"
        )
    chosen = torch.as_tensor(index).cpu()
    if chosen.dim() != 1 or not len(chosen) or chosen.dtype not in (torch.int64, torch.int32):
        got = f"{tuple(chosen.shape)} of {chosen.dtype}"
        raise _refusal("a non-empty list of channel numbers", got, graph, "pass integers, one for each new channel")
    if int(chosen.min()) < 0 or int(chosen.max()) >= group.size:
        got = f"{int(chosen.min())}..{int(chosen.max())}"
        raise _refusal(
            f"channels 0..{group.size - 1} of group {group.name}", got, graph, "name channels of the old network"
        )
    return chosen.long()


def _refusal(expected: str, got: str, graph: Graph, remedy: str) -> GraphError:
    return GraphError(explain(expected, got, f"graph of {type(graph.root).__name__}", remedy))
