"""A network in two parts."""

import copy
from collections.abc import Mapping

from torch import Tensor, fx
from torch.fx.node import map_arg

from pluriform.errors import GraphError, explain
from pluriform.graph.graph import Graph, Shape
from pluriform.graph.inplace import writes_in_place
from pluriform.graph.ops import Op
from pluriform.graph.rewrite import code_node, retrace
from pluriform.graph.trace import trace

__all__ = ["cut", "suffix"]


def cut(graph: Graph, after: str) -> Graph:
    """The network that ends at a node and gives its output.

    Args:
        graph: The whole network; left as it is.
        after: Name of a node.

    Returns:
        The first part, with copies of the weights that it needs.

    Raises:
        GraphError: No such node.
    """
    if graph[after].op is Op.OUTPUT:
        after = graph[after].inputs[0]
    edited = copy.deepcopy(graph.module)
    last = code_node(edited, graph, after)
    output = next(node for node in edited.graph.nodes if node.op == "output")
    output.args = (last,)
    _drop_behind(edited, last, output)
    edited.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or writes_in_place(node, edited))
    return retrace(edited, graph, f"cut after {after}")


def suffix(graph: Graph, after: str) -> Graph:
    """The network from the output of a node to the end, so that `suffix(cut(x)) = graph(x)`.

    Where the rest reads lengths of tensors before the node, such as `n` of `b, n, c = x.shape`, that of the batch comes
    from the new input, and others are as they were traced.

    Args:
        graph: The whole network; left as it is.
        after: Name of a node that gives one tensor and that every path from the inputs passes.

    Returns:
        The second part, with copies of the weights that it needs; its one input is the output of the node.

    Raises:
        GraphError: No such node, or the rest reads other nodes before it too (a residual branch around it).
    """
    node = graph[after]
    if node.op is Op.OUTPUT or node.dtype is None:
        raise GraphError(explain("a node with one tensor as output", str(node), "suffix", "cut at another node"))
    edited = copy.deepcopy(graph.module)
    last = code_node(edited, graph, after)
    with edited.graph.inserting_before(next(iter(edited.graph.nodes))):
        entry = edited.graph.placeholder("features")
    last.replace_all_uses_with(entry)
    before = _before(edited, last)
    names = {fx_name: name for name, fx_name in graph.names.items()}
    shapes = {fx_name: graph[name].shape for fx_name, name in names.items()}
    _settle_lengths(edited, entry, before, shapes, len(graph.examples[0]))
    reads = [item for item in before if any(user not in before for user in item.users) and item.op != "get_attr"]
    if reads:
        raise GraphError(
            explain(
                f"a rest that reads {after} only",
                f"one that also reads {', '.join(names.get(item.name, item.name) for item in reads)}",
                "suffix",
                "cut where no branch leads around the node",
            )
        )
    for item in reversed(before):
        if not item.users:
            edited.graph.erase_node(item)
    edited.delete_all_unused_submodules()
    edited.recompile()
    return trace(edited, _example(graph, node.name))


def _before(edited: fx.GraphModule, last: fx.Node) -> list[fx.Node]:
    """Nodes up to `last`, but for the first, which is the new input."""
    nodes = list(edited.graph.nodes)
    return nodes[1 : nodes.index(last) + 1]


def _settle_lengths(
    edited: fx.GraphModule, entry: fx.Node, before: list[fx.Node], shapes: Mapping[str, Shape], batch: int
) -> None:
    """Lengths read before the new input: that of the batch by the input, others and what follows from them fixed."""
    known: dict[fx.Node, int | float] = {}
    for item in before:
        shape = shapes.get(item.args[0].name, ()) if item.args and isinstance(item.args[0], fx.Node) else ()
        if item.op == "call_method" and item.target == "size" and len(item.args) == 2 and isinstance(item.args[1], int):
            length = shape[item.args[1]] if shape else None
            first = bool(shape) and item.args[1] % len(shape) == 0
            if first and length == batch and item.args[0].op != "get_attr":  # type: ignore[union-attr]
                with edited.graph.inserting_after(entry):
                    item.replace_all_uses_with(edited.graph.call_method("size", (entry, 0)))
            elif isinstance(length, int):
                known[item] = length
        elif item.op == "call_function" and item.all_input_nodes and known.keys() >= set(item.all_input_nodes):
            value = item.target(*map_arg(item.args, known.__getitem__), **map_arg(item.kwargs, known.__getitem__))  # type: ignore[operator]
            if isinstance(value, int | float):
                known[item] = value
    for item, value in known.items():
        for user in list(item.users):
            user.args = map_arg(user.args, lambda node, old=item, new=value: new if node is old else node)
            user.kwargs = map_arg(user.kwargs, lambda node, old=item, new=value: new if node is old else node)


def _drop_behind(edited: fx.GraphModule, last: fx.Node, output: fx.Node) -> None:
    nodes = list(edited.graph.nodes)
    for node in reversed(nodes[nodes.index(last) + 1 : nodes.index(output)]):
        edited.graph.erase_node(node)


def _example(graph: Graph, name: str) -> Tensor:
    """A tensor without data of the shape, type and device of a node."""
    node = graph[name]
    return graph.examples[0].new_zeros((), dtype=node.dtype).expand(node.shape)
