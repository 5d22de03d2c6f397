"""Activations of a network by node name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from pluriform.errors import GraphError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.inplace import writes_in_place
from pluriform.graph.trace import trace

__all__ = ["features", "tap"]


def features(
    module_or_graph: nn.Module | Graph, inputs: Tensor | tuple[Tensor, ...], names: str | Sequence[str]
) -> dict[str, Any]:
    """Activations at named nodes, differentiable; what lies behind the last of them is not computed.

    Args:
        module_or_graph: A graph, or a module, which is traced first.
        inputs: One batch, or a tuple of the positional inputs.
        names: Names of nodes: dotted paths for module calls.

    Returns:
        Output of each named node by name, in the order asked for: a tensor, or a tuple of them.

    Raises:
        GraphError: No such node; close names are suggested.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> features(net, torch.ones(4, 2), ["0"])["0"].shape
        torch.Size([4, 3])
    """
    graph = module_or_graph if isinstance(module_or_graph, Graph) else trace(module_or_graph, inputs)
    return tap(graph, names)(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def tap(graph: Graph, names: str | Sequence[str]) -> fx.GraphModule:
    """A module that gives activations at named nodes and shares the weights of `graph.module`, in its present mode.

    Args:
        graph: A traced network.
        names: Names of nodes.

    Returns:
        A module from the inputs to a dict by name.

    Raises:
        GraphError: No names, no such node, or a node that gives no activation.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    if not wanted:
        raise GraphError(explain("the name of at least one node", "none", "features", "name a node of print(graph)"))
    code = fx.Graph(tracer_cls=None)
    copies: dict[fx.Node, fx.Node] = {}
    code.graph_copy(graph.module.graph, copies)
    overwritten = any(writes_in_place(node, graph.module) for node in graph.module.graph.nodes)
    outputs: dict[str, Any] = {}
    for name in wanted:
        node = graph.fx_node(name)
        source = node.args[0] if node.op == "output" else node
        outputs[name] = map_arg(source, lambda item: _kept(code, copies[item], overwritten))
    code.output(outputs)
    code.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or writes_in_place(node, graph.module))
    made = fx.GraphModule(graph.module, code, "Features")
    made.training = graph.module.training
    return made


def _kept(code: fx.Graph, node: fx.Node, overwritten: bool) -> fx.Node:
    """The node itself, or a copy of its value where a later operation may write into it."""
    if not overwritten:
        return node
    with code.inserting_after(node):
        return code.call_function(torch.clone, (node,))
