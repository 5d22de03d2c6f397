"""The last layer of a network, and another in its place."""

import math

import torch
from torch import nn

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.rewrite import replace

__all__ = ["find_head", "replace_head"]

BEHIND = frozenset(
    {
        Op.ACTIVATION, Op.SOFTMAX, Op.DROPOUT, Op.IDENTITY, Op.FLATTEN, Op.RESHAPE, Op.PERMUTE, Op.MEAN,
        Op.AVG_POOL, Op.MAX_POOL, Op.ADAPTIVE_AVG_POOL, Op.ADAPTIVE_MAX_POOL, Op.OUTPUT,
    }
)  # fmt: skip
"""What may stand between the head and the output."""


def find_head(graph: Graph) -> Node:
    """The linear layer or 1 x 1 convolution whose output is, but for pooling, reshaping and activations, the network's.

    Raises:
        GraphError: There is none, or several branches meet before the output.
    """
    node = graph.output
    while node.op in BEHIND and len(set(node.inputs)) == 1:
        node = graph[node.inputs[0]]
    if node.module is not None and node.calls == 1 and _is_head(node):
        return node
    raise GraphError(
        explain(
            "one linear layer or 1 x 1 convolution before the output",
            str(node) + (f", called {node.calls} times" if node.calls > 1 else ""),
            f"graph of {type(graph.root).__name__}",
            f"name the layer to replace: name={_candidates(graph)}",
        )
    )


def replace_head(graph: Graph, outputs: int, name: str | None = None, seed: int = 0) -> Graph:
    """Exchange the last layer for a freshly drawn one of another width.

    Weights and bias are uniform in +- 1 / sqrt(fan-in), as in torch; all other weights are copies of the old.

    Args:
        graph: The network.
        outputs: New width.
        name: Dotted path of the linear or convolutional layer; found by `find_head` by default.
        seed: Of the new weights.

    Returns:
        The new graph; its root is of the class of the old and all other keys of its state stay.

    Raises:
        GraphError: No layer is clearly the last, or the named one is neither linear nor convolutional.
        ShapeError: The network has fixed the old width elsewhere.
    """
    if outputs < 1:
        raise ShapeError(explain("at least one output", str(outputs), "replace_head", "pass the number of classes"))
    modules = dict(graph.root.named_modules())
    path = find_head(graph).module if name is None else name
    if path not in modules:
        path = graph[str(path)].module
    new = _like(modules[path] if path else None, outputs, graph, path or str(name))
    _draw(new, seed)
    edited = replace(graph, str(path), new)
    if name is None and outputs not in edited.output.shape[1:]:
        raise ShapeError(
            explain(
                f"{outputs} outputs",
                f"shape {edited.output.shape}",
                f"output of {type(graph.root).__name__}",
                "the code behind the head fixes the width; change it there",
            )
        )
    return edited


def _is_head(node: Node) -> bool:
    return node.op is Op.LINEAR or (node.op is Op.CONV and set(node.attributes["kernel_size"]) == {1})


def _candidates(graph: Graph) -> str:
    found = [repr(node.module) for node in graph.nodes if node.module and _is_head(node)]
    return " or ".join(dict.fromkeys(found[-3:])) or "the dotted path of a layer"


def _like(old: nn.Module | None, outputs: int, graph: Graph, name: str) -> nn.Module:
    """An uninitialised layer of the same kind, type and device, of another width."""
    if isinstance(old, nn.Linear):
        options = {"device": old.weight.device, "dtype": old.weight.dtype}
        return nn.utils.skip_init(nn.Linear, old.in_features, outputs, bias=old.bias is not None, **options)
    if isinstance(old, nn.Conv1d | nn.Conv2d | nn.Conv3d) and old.groups == 1:
        return nn.utils.skip_init(
            type(old), old.in_channels, outputs, old.kernel_size, old.stride, old.padding, old.dilation,
            bias=old.bias is not None, padding_mode=old.padding_mode,
            device=old.weight.device, dtype=old.weight.dtype,
        )  # fmt: skip
    raise GraphError(
        explain(
            "a linear or convolutional layer without groups",
            f"{name!r}, {'no module' if old is None else type(old).__name__}",
            f"graph of {type(graph.root).__name__}",
            f"name={_candidates(graph)}",
        )
    )


def _draw(layer: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(next(layer.parameters())[0].numel())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
