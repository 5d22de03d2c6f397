"""Lengths that the code of a network reads: from attributes of its modules, or from the shapes of other tensors."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import fx, nn

from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.trace import trace

__all__ = ["AttributeLength", "SharedLength", "attribute_lengths", "shared_lengths"]

RESHAPES = frozenset({Op.RESHAPE, Op.FLATTEN, Op.IDENTITY})


@dataclass(frozen=True)
class AttributeLength:
    """A length that the code takes from an attribute of one of its modules, such as `self.heads`.

    Attributes:
        node: Name of the node that is given it.
        part: Which output, of a node with several.
        axis: Of the output.
        module: Dotted path of the module; empty for the network itself.
        attribute: Its name.
    """

    node: str
    part: int | None
    axis: int
    module: str
    attribute: str


@dataclass(frozen=True)
class SharedLength:
    """A length that the code takes from the shape of another tensor.

    Attributes:
        node: Name of the node that is given it.
        axis: Of its output.
        source: Name of the node whose shape is read.
        source_axis: Of its output.
    """

    node: str
    axis: int
    source: str
    source_axis: int


FOUND: WeakKeyDictionary[Graph, tuple[AttributeLength, ...]] = WeakKeyDictionary()
"""Since the groups of one graph are asked for several times."""


class _Spelled(int):
    """An attribute that remembers whose it is; what is computed from it is an ordinary number."""

    module: str
    attribute: str


def attribute_lengths(graph: Graph) -> tuple[AttributeLength, ...]:
    """Arguments of reshapes and splits that are attributes of modules of the user's own classes.

    Found by tracing a copy whose attributes know their names; the copy shares all tensors.
    """
    if graph not in FOUND:
        FOUND[graph] = _attribute_lengths(graph)
    return FOUND[graph]


def _attribute_lengths(graph: Graph) -> tuple[AttributeLength, ...]:
    if not any(node.op in (*RESHAPES, Op.SPLIT) and node.module is None for node in graph.nodes):
        return ()
    root = graph.root
    if not any(_whole_numbers(module) for module in root.modules()):
        return ()
    made = copy.deepcopy(root, {id(tensor): tensor for tensor in (*root.parameters(), *root.buffers())})
    for path, module in made.named_modules():
        for name, number in _whole_numbers(module).items():
            spelled = _Spelled(number)
            spelled.module, spelled.attribute = path, name
            setattr(module, name, spelled)
    spelled = trace(made, graph.examples)
    if [(node.name, node.op) for node in spelled.nodes] != [(node.name, node.op) for node in graph.nodes]:
        return ()  # Code that asks for the type of a number; the check of the resized network sees to it.
    return tuple(_attributes(spelled))


def shared_lengths(graph: Graph) -> tuple[SharedLength, ...]:
    """Arguments of reshapes that are lengths of other tensors."""
    names, found = {code: name for name, code in graph.names.items()}, []
    for node, call in _calls(graph, RESHAPES):
        for axis, size in _sizes(node, call):
            if isinstance(size, fx.Node) and size.target == "size" and len(size.args) > 1:
                source, dim = size.args[:2]
                if isinstance(source, fx.Node) and source.name in names and isinstance(dim, int):
                    rank = len(graph[names[source.name]].shape)
                    found.append(SharedLength(node.name, axis, names[source.name], dim % rank))
    return tuple(found)


def _whole_numbers(module: nn.Module) -> dict[str, int]:
    """Public integer attributes of a module of the user's own class."""
    if type(module).__module__.startswith("torch."):
        return {}
    return {name: value for name, value in vars(module).items() if type(value) is int and not name.startswith("_")}


def _attributes(graph: Graph) -> Iterator[AttributeLength]:
    for node, call in _calls(graph, RESHAPES):
        for axis, size in _sizes(node, call):
            if isinstance(size, _Spelled):
                yield AttributeLength(node.name, None, axis, size.module, size.attribute)
    for node, call in _calls(graph, frozenset({Op.SPLIT})):
        axis = node.attributes.get("dim", 0)
        given = (
            call.args[1]
            if len(call.args) > 1
            else call.kwargs.get("split_size", call.kwargs.get("split_size_or_sections"))
        )
        whole = "chunk" not in str(call.target) and "tensor_split" not in str(call.target)
        for part, size in enumerate(_flat(given)):
            if isinstance(size, _Spelled) and whole and not node.attributes.get("unbind"):
                yield AttributeLength(node.name, part, axis, size.module, size.attribute)


def _calls(graph: Graph, ops: frozenset[Op]) -> Iterator[tuple[Node, fx.Node]]:
    """Nodes of some operations that call no module, with their places in the code."""
    code = {node.name: node for node in graph.module.graph.nodes}
    for node in graph.nodes:
        if node.op in ops and node.module is None and graph.names[node.name] in code:
            yield node, code[graph.names[node.name]]


def _sizes(node: Node, call: fx.Node) -> list[tuple[int, Any]]:
    """Axes of the output with the arguments that give their lengths."""
    name = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", "")
    given = [*call.args[1:], *(call.kwargs[key] for key in ("dim", "shape", "size", "sizes") if key in call.kwargs)]
    if name not in ("view", "reshape", "unflatten"):
        return []
    if name == "unflatten":
        sizes = _flat(given[1:])
        first = given[0] if given and isinstance(given[0], int) else 0
        return list(enumerate(sizes, first % (len(node.shape) - len(sizes) + 1)))
    sizes = _flat(given)
    return list(enumerate(sizes)) if len(sizes) == len(node.shape) else []


def _flat(given: Any) -> list[Any]:
    if isinstance(given, tuple | list):
        return [item for part in given for item in _flat(part)]
    return [given]
