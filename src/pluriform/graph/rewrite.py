"""Edits of a network: each gives a new graph with copied weights and leaves the old one as it was.

Where a submodule is exchanged, the new root is of the user's own class; where the order of operations changes, it is
the edited code (`Graph.module`), whose nodes keep their names.
"""

import copy
from collections.abc import Mapping

from torch import fx, nn

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.trace import trace

__all__ = ["code_node", "insert", "inserted", "remove", "replace", "retrace"]


def insert(graph: Graph, after: str, module: nn.Module, name: str) -> Graph:
    """Put a module behind a node; all that read the node read the module instead.

    Args:
        graph: The network.
        after: Name of a node.
        module: Takes the output of that node; a copy of it is inserted.
        name: Dotted path of the new submodule, not yet taken.

    Raises:
        GraphError: No such node, nothing can follow it, or the name is taken.
        ShapeError: The network does not run with the module there.
    """
    return retrace(inserted(graph, {after: module}, {after: name}), graph, f"after insert of {name} behind {after}")


def inserted(graph: Graph, modules: Mapping[str, nn.Module], names: Mapping[str, str]) -> fx.GraphModule:
    """The code of the network with modules behind nodes, not traced again.

    Args:
        graph: The network.
        modules: By the name of the node; copies of them are inserted.
        names: Dotted path of each new submodule, by the name of the node, not yet taken.

    Raises:
        GraphError: No such node, nothing can follow it, or a name is taken.
    """
    edited = copy.deepcopy(graph.module)
    for after, module in modules.items():
        if graph[after].op is Op.OUTPUT:
            raise _refusal(
                "a node that another one reads", str(graph[after]), graph, "insert behind the node before it"
            )
        before = code_node(edited, graph, after)
        _add_submodule(edited, names[after], module, graph)
        with edited.graph.inserting_after(before):
            new = edited.graph.call_module(names[after], (before,))
        before.replace_all_uses_with(
            new, delete_user_cb=lambda user, new=new: user is not new and not _asks_for_size(user)
        )
    edited.recompile()
    return edited


def replace(graph: Graph, name: str, module: nn.Module) -> Graph:
    """Exchange one operation for a module.

    Args:
        graph: The network.
        name: A node with one input, or the dotted path of any submodule of the root. A submodule is exchanged in all
            its calls, and the new root is of the class of the old.
        module: Takes what the old one takes; a copy of it is used.

    Raises:
        GraphError: No such node, or one that is no operation with a single input.
        ShapeError: The network does not run with the module there.
    """
    where = f"after replace of {name}"
    path = graph[name].module if name in graph else name
    if path and path in dict(graph.root.named_modules()):
        root = copy.deepcopy(graph.root)
        old, new = root.get_submodule(path), copy.deepcopy(module)
        for own in [name for name, part in root.named_modules(remove_duplicate=False) if part is old]:
            root.set_submodule(own, new)
        return retrace(root, graph, where)
    node = graph[name]
    _check_single_input(graph, node)
    edited = copy.deepcopy(graph.module)
    old = code_node(edited, graph, name)
    edited.add_submodule(path := _free_name(edited, old.name), copy.deepcopy(module))
    with edited.graph.inserting_before(old):
        new = edited.graph.call_module(path, (code_node(edited, graph, node.inputs[0]),))
    _swap(edited, old, new)
    return retrace(edited, graph, where)


def remove(graph: Graph, name: str) -> Graph:
    """Take out one operation; what read it reads its input instead.

    Args:
        graph: The network.
        name: A node with one input, of the shape of its output.

    Raises:
        GraphError: No such node, several inputs, or another shape than its input.
    """
    node = graph[name]
    _check_single_input(graph, node)
    before = graph[node.inputs[0]]
    if before.shape != node.shape:
        raise _refusal(
            "a node that keeps the shape",
            f"{node} from {before.shape} to {node.shape}",
            graph,
            "replace it by a module of the same shapes",
        )
    edited = copy.deepcopy(graph.module)
    _swap(edited, code_node(edited, graph, name), code_node(edited, graph, before.name))
    return retrace(edited, graph, f"after remove of {name}")


def retrace(root: nn.Module, graph: Graph, where: str) -> Graph:
    """The graph of an edited network, on the examples of the old one.

    Raises:
        ShapeError: It does not run; the message of torch is part of ours.
    """
    if isinstance(root, fx.GraphModule):
        root.delete_all_unused_submodules()
        root.graph.lint()
        root.recompile()
    try:
        return trace(root, graph.examples)
    except ShapeError as error:
        raise ShapeError(
            explain("modules that fit together", str(error), where, "give the module the shapes of its neighbours")
        ) from error


def code_node(edited: fx.GraphModule, graph: Graph, name: str) -> fx.Node:
    """The node of that name in a copy of `graph.module`.

    Raises:
        GraphError: No such node.
    """
    wanted = graph.names[graph[name].name]
    return next(node for node in edited.graph.nodes if node.name == wanted)


def _swap(edited: fx.GraphModule, old: fx.Node, new: fx.Node) -> None:
    new.meta["source"] = new.meta.get("source") or old.meta.get("source")
    old.replace_all_uses_with(new)
    edited.graph.erase_node(old)


def _asks_for_size(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "size" and node.args[1:] == (0,)


def _add_submodule(edited: fx.GraphModule, name: str, module: nn.Module, graph: Graph) -> None:
    taken = name in graph or name in dict(edited.named_modules()) or name in dict(edited.named_parameters())
    if taken or not edited.add_submodule(name, copy.deepcopy(module)):
        raise _refusal("a new name", repr(name), graph, "choose a dotted path that no module has yet")


def _free_name(edited: fx.GraphModule, name: str) -> str:
    while hasattr(edited, name):
        name += "_"
    return name


def _check_single_input(graph: Graph, node: Node) -> None:
    if node.op in (Op.INPUT, Op.OUTPUT, Op.PARAMETER) or len(set(node.inputs)) != 1:
        inputs = ", ".join(node.inputs) or "none"
        raise _refusal("an operation with one input", f"{node} with inputs {inputs}", graph, "name another node")


def _refusal(expected: str, got: str, graph: Graph, remedy: str) -> GraphError:
    return GraphError(explain(expected, got, f"graph of {type(graph.root).__name__}", remedy))
