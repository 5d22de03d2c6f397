"""A network as a chain of blocks: stretches between the points that everything passes."""

from dataclasses import dataclass

from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op

__all__ = ["Block", "blocks", "passages"]

SCALES = frozenset(
    {Op.BATCH_NORM, Op.LAYER_NORM, Op.GROUP_NORM, Op.INSTANCE_NORM, Op.RMS_NORM, Op.ACTIVATION, Op.PARAMETER}
)
"""What belongs to the layers before it, though it has weights."""


@dataclass(frozen=True)
class Block:
    """A residual block, or a layer where no branch leads around it, with the norms behind it.

    Attributes:
        nodes: Names, in execution order; those without weights that follow are included.
    """

    nodes: tuple[str, ...]


def passages(graph: Graph) -> tuple[str, ...]:
    """Names of the nodes that every path from the inputs to the output passes, in execution order.

    The ends of residual blocks are among them, the layers inside are not.
    """
    reached = _reached(graph)
    order = [node for node in graph.nodes if node.name in reached]
    places = {node.name: place for place, node in enumerate(order)}
    found, furthest = [], 0
    for place, node in enumerate(order):
        if furthest <= place and node.dtype is not None and node.op not in (Op.INPUT, Op.OUTPUT):
            found.append(node.name)
        last = (places[reader.name] for reader in graph.consumers(node.name) if reader.name in places)
        furthest = max(furthest, *last, place)
    return tuple(found)


def blocks(graph: Graph) -> tuple[Block, ...]:
    """The blocks with weights, from the inputs to the output.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
        >>> [block.nodes for block in blocks(trace(net, torch.zeros(1, 2)))]
        [('0', '1', '2'), ('3', 'output')]
    """
    ends = set(passages(graph))
    stretches: list[list[Node]] = [[]]
    for node in graph.nodes:
        if node.op is not Op.INPUT:
            stretches[-1].append(node)
        if node.name in ends:
            stretches.append([])
    found: list[list[str]] = []
    waiting: list[str] = []
    for stretch in stretches:
        names = [node.name for node in stretch]
        if any(_is_layer(graph, node) for node in stretch):
            found.append(waiting + names)
            waiting = []
        elif found:
            found[-1] += names
        else:
            waiting += names
    return tuple(Block(tuple(names)) for names in found)


def _reached(graph: Graph) -> set[str]:
    """Nodes that depend on an input."""
    reached = {node.name for node in graph.inputs}
    for node in graph.nodes:
        if reached.intersection(node.inputs):
            reached.add(node.name)
    return reached


def _is_layer(graph: Graph, node: Node) -> bool:
    if node.op in SCALES:
        return False
    called = [] if node.module is None else list(graph.submodule(node).parameters())
    return bool(called) or any(graph[name].op is Op.PARAMETER for name in node.inputs)
