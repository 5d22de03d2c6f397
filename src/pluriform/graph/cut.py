"""A network in two parts."""

import copy

from torch import Tensor, fx

from pluriform.errors import GraphError, explain
from pluriform.graph.graph import Graph
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
    for item in before:
        if item.op == "call_method" and item.target == "size" and item.args[1:] == (0,):
            with edited.graph.inserting_after(entry):
                item.replace_all_uses_with(edited.graph.call_method("size", (entry, 0)))
    reads = [item for item in before if any(user not in before for user in item.users) and item.op != "get_attr"]
    names = {fx_name: name for name, fx_name in graph.names.items()}
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


def _drop_behind(edited: fx.GraphModule, last: fx.Node, output: fx.Node) -> None:
    nodes = list(edited.graph.nodes)
    for node in reversed(nodes[nodes.index(last) + 1 : nodes.index(output)]):
        edited.graph.erase_node(node)


def _example(graph: Graph, name: str) -> Tensor:
    """A tensor without data of the shape, type and device of a node."""
    node = graph[name]
    return graph.examples[0].new_zeros((), dtype=node.dtype).expand(node.shape)
