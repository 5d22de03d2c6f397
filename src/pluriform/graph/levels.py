"""The last feature map of a network at each resolution."""

from pluriform.errors import GraphError, explain
from pluriform.graph.blocks import passages
from pluriform.graph.graph import Graph

__all__ = ["level_nodes"]


def level_nodes(graph: Graph) -> dict[int, str]:
    """Names of nodes that everything passes, by stride: height of the inputs over height of the map, rounded.

    Maps of one pixel are left out.

    Raises:
        GraphError: There are none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> level_nodes(trace(net, torch.zeros(2, 1, 4, 4)))
        {1: '1', 2: '2'}
    """
    height, width = graph.inputs[0].shape[2:]
    found = {}
    for name in passages(graph):
        shape = graph[name].shape
        if len(shape) == 4 and shape[2] * shape[3] > 1 and graph.inputs[0].name != name:
            found[max(1, round(height / shape[2]), round(width / shape[3]))] = name
    if not found:
        where, remedy = f"graph of {type(graph.root).__name__}", "pass a convolutional network"
        raise GraphError(explain("feature maps that everything passes", "none", where, remedy))
    return found
