"""The code of a `torch.fx` graph as JSON, so that rewritten networks can be stored without pickle."""

from collections.abc import Callable
from typing import Any

from torch import fx

from pluriform.encoding import decode, encode, tensor_function

__all__ = ["graph_from_json", "graph_to_json"]


def graph_to_json(graph: fx.Graph) -> list[dict[str, Any]]:
    """Every node in order: op, name, target, arguments.

    Raises:
        TypeError: A node calls something other than a module, a tensor function or a tensor method.
    """
    return [
        {
            "op": node.op,
            "name": node.name,
            "target": encode(node.target),
            "args": _map(node.args, _node_to_json),
            "kwargs": _map(node.kwargs, _node_to_json),
        }
        for node in graph.nodes
    ]


def graph_from_json(nodes: list[dict[str, Any]]) -> fx.Graph:
    """The graph that `graph_to_json` wrote."""
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}

    def argument(value: Any) -> Any:
        if isinstance(value, dict) and "node" in value:
            return made[value["node"]]
        if isinstance(value, dict) and "items" in value:
            return tuple(argument(item) for item in value["items"])
        if isinstance(value, dict) and "entries" in value:
            return {key: argument(item) for key, item in value["entries"].items()}
        if isinstance(value, dict) and "range" in value:
            return slice(*(argument(item) for item in value["range"]))
        return decode(value)

    for node in nodes:
        target = node["target"] if isinstance(node["target"], str) else tensor_function(node["target"]["function"])
        made[node["name"]] = graph.create_node(
            node["op"], target, argument(node["args"]), argument(node["kwargs"]), node["name"]
        )
    return graph


def _node_to_json(value: Any) -> Any:
    return {"node": value.name} if isinstance(value, fx.Node) else encode(value)


def _map(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return {"items": [_map(item, leaf) for item in value]}
    if isinstance(value, dict):
        return {"entries": {key: _map(item, leaf) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"range": [_map(item, leaf) for item in (value.start, value.stop, value.step)]}
    return leaf(value)
