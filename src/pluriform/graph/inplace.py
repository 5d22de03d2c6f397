"""Which nodes write into their input."""

import operator

from torch import fx, nn

__all__ = ["writes_in_place"]

WRITTEN = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor", "setitem")
OPERATORS = frozenset(getattr(operator, name) for name in WRITTEN)


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
    if node.op == "call_function":
        written = node.target in OPERATORS or _underscored(getattr(node.target, "__name__", ""))
        return written or node.kwargs.get("inplace", False) is True or "out" in node.kwargs
    return False


def _underscored(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
