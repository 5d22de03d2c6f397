"""The axis of the channels in the output of a node."""

import torch

from pluriform.errors import ShapeError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.narrow.fold_paths import PASSING, Place, passed

__all__ = ["channel_axis"]

LAST = frozenset({Op.LINEAR, Op.EMBEDDING, Op.LAYER_NORM, Op.RMS_NORM, Op.ATTENTION})
FIRST = frozenset(
    {
        Op.CONV, Op.CONV_TRANSPOSE, Op.BATCH_NORM, Op.GROUP_NORM, Op.INSTANCE_NORM, Op.LOCAL_RESPONSE_NORM, Op.AVG_POOL,
        Op.MAX_POOL, Op.LP_POOL, Op.ADAPTIVE_AVG_POOL, Op.ADAPTIVE_MAX_POOL, Op.UPSAMPLE, Op.PIXEL_SHUFFLE,
    }
)  # fmt: skip


def channel_axis(graph: Graph, node: str) -> int:
    """Axis of the channels in the output of a node: the last of tokens `(batch, position, channel)`, else 1.

    Known behind layers and norms; other operations are followed from there. Of an input with three axes it is 1 where a
    convolution or its kin reads it.

    Args:
        graph: The traced network.
        node: Name of a node that gives one tensor.

    Raises:
        ShapeError: The output has no axis behind the batch axis.
    """
    path = [graph[node]]
    if path[0].dtype is None or len(path[0].shape) < 2:
        expected, got = "an output with a batch axis and channels", f"shape {path[0].shape}"
        raise ShapeError(explain(expected, got, str(path[0]), "name another node"))
    while not (path[-1].op in LAST | FIRST or _rank(path[-1]) <= 2 or not path[-1].inputs):
        path.append(_followed(graph, path[-1]))
    axis = _axis_of(graph, path[-1])
    for before, after in zip(path[:0:-1], path[-2::-1], strict=True):
        axis = _axis_behind(graph, before, after, axis)
    return axis


def _rank(node: Node) -> int:
    """Number of axes; of the first of several outputs."""
    first = node.shape[0] if node.shape else 0
    return len(first) if isinstance(first, tuple) else len(node.shape)


def _followed(graph: Graph, node: Node) -> Node:
    """The input that has the channels: the first of the same rank that is no parameter."""
    inputs = [graph[name] for name in node.inputs]
    return next((each for each in inputs if each.op is not Op.PARAMETER and _rank(each) == _rank(node)), inputs[0])


def _axis_of(graph: Graph, node: Node) -> int:
    """Axis of the channels by the operation alone."""
    if node.op in LAST:
        return _rank(node) - len(node.attributes.get("normalized_shape", (1,)))
    convolved = any(reader.op in FIRST for reader in graph.consumers(node.name))
    return 2 if node.op not in FIRST and _rank(node) == 3 and not convolved else 1


def _axis_behind(graph: Graph, before: Node, after: Node, axis: int) -> int:
    """Axis of the channels behind an operation, by that before it."""
    if after.op in PASSING and before.dtype is not None and axis < len(before.shape):
        place = Place(axis, torch.arange(before.shape[axis])[None])
        found = passed(graph, after, {after.inputs.index(before.name): [place]})
        if not isinstance(found, str) and found:
            return found[0].axis
    return axis if _rank(before) == _rank(after) else 1
