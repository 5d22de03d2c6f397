"""Operations that write into their input."""

import operator

from torch import Tensor, fx, nn

__all__ = ["HiddenWrite", "settle_writes", "writes_in_place"]

WRITTEN = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor", "setitem")
OPERATORS = frozenset(getattr(operator, name) for name in WRITTEN)
NAMED_LIKE_KEYWORDS = frozenset({operator.and_, operator.or_, operator.not_, operator.is_})
"""They end with an underscore and write nothing."""
PURE = {getattr(operator, name): getattr(operator, name[1:]) for name in ("iadd", "isub", "imul", "itruediv")}


def writes_in_place(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node changes one of its inputs: `inplace=True`, `x.add_(y)`, `x += y`, `x[0] = y`.

    Args:
        node: A node of the code of `module`.
        module: The traced module.
    """
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return _underscored(str(node.target))
    if node.op == "call_function" and node.target not in NAMED_LIKE_KEYWORDS:
        written = node.target in OPERATORS or _underscored(getattr(node.target, "__name__", ""))
        return written or node.kwargs.get("inplace", False) is True or node.kwargs.get("out") is not None
    return False


class HiddenWrite(Exception):  # noqa: N818
    """A node changes part of a tensor that is read later by another name; not an error for the user.

    Args:
        node: The node that writes.
    """

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node.name)
        self.node = node


def settle_writes(graph: fx.Graph, module: nn.Module) -> None:
    """Let who reads a tensor after it was written in place read the node that wrote; write `x += y` as `x = x + y`.

    Args:
        graph: Code of `module` whose nodes carry example values; changed.
        module: The traced module.

    Raises:
        HiddenWrite: Only part of a tensor was written.
    """
    nodes = list(graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    memory = {node: _memory(node) for node in nodes}
    for place, node in enumerate(nodes):
        written = node.args[0] if node.args else None
        if not isinstance(written, fx.Node) or memory[written] is None or not writes_in_place(node, module):
            continue
        for other in [item for item in nodes[:place] if memory[item] == memory[written]]:
            later = [user for user in other.users if places[user] > place]
            if later and _geometry(other) != _geometry(node):
                raise HiddenWrite(node)
            for user in later:
                user.replace_input_with(other, node)
        stored = any(item.op == "get_attr" for item in nodes[:place] if memory[item] == memory[written])
        if node.target in PURE and not stored and _dtype(node.args[1]) in (None, _dtype(written)):
            node.target = PURE[node.target]  # type: ignore[index]


def _geometry(node: fx.Node) -> object:
    value = node.meta["value"]
    return (value.storage_offset(), value.shape, value.stride()) if isinstance(value, Tensor) else None


def _memory(node: fx.Node) -> int | None:
    value = node.meta["value"]
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _dtype(argument: object) -> object:
    return getattr(argument.meta["value"], "dtype", None) if isinstance(argument, fx.Node) else None


def _underscored(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
