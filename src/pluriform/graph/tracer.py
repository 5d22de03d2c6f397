"""The tracer: torch.fx with example values, and opaque leaves where Python cannot be followed."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import isfunction
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import _symbolic_trace
from torch.fx.node import map_aggregate, map_arg

from pluriform.graph.inplace import HiddenWrite, settle_writes
from pluriform.graph.parameters import functional_call
from pluriform.graph.proxy import ShapedProxy, SizesAsNodes, TensorProxy, traced_len, value_of
from pluriform.graph.spelling import is_known_module

__all__ = ["ShapeTracer", "TraceFailure", "examples_without_data"]


class TraceFailure(Exception):  # noqa: N818
    """The forward function of one submodule could not be followed; not an error for the user.

    Args:
        path: Dotted path of the innermost such submodule; empty for the root.
        cause: What it raised.
    """

    def __init__(self, path: str, cause: BaseException) -> None:
        super().__init__(path)
        self.path = path
        self.cause = cause


def examples_without_data(mode: FakeTensorMode, examples: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same shapes, types and devices, without numbers."""
    return tuple(mode.from_tensor(item) if isinstance(item, Tensor) else item for item in examples)


class ShapeTracer(fx.Tracer):
    """Traces a module while every node's example value is computed without numbers.

    Args:
        root: Module to trace; left unchanged.
        examples: Positional inputs.
        opaque: Dotted paths of submodules that stay leaves.
        numbers: Compute with numbers (on copies), for modules whose shapes depend on them.
    """

    proxy_buffer_attributes = True

    def __init__(self, root: nn.Module, examples: tuple[Any, ...], opaque: frozenset[str], numbers: bool) -> None:
        super().__init__()
        self._mode = None if numbers else FakeTensorMode(allow_non_fake_inputs=True)
        self._examples = examples if self._mode is None else examples_without_data(self._mode, examples)
        self._opaque = opaque
        self._states: dict[str, dict[str, Tensor]] = {}
        self._inside: list[str] = []
        self._gradients = True  # Whether calls around the one at hand have gradients.
        self.failure: TraceFailure | None = None
        self._given = iter(self._examples)
        self._classes = [type(module) for module in root.modules()]
        self.examples = self._examples

    def follow(self, root: nn.Module) -> fx.Graph:
        """Trace.

        Raises:
            TraceFailure: Names the innermost submodule that could not be followed.
        """
        try:
            with ExitStack() as stack:
                stack.enter_context(_quiet())
                stack.enter_context(torch.enable_grad())  # So that `no_grad` seen below is the module's own.
                stack.enter_context(_len_traced(self._classes))
                stack.enter_context(SizesAsNodes(self))
                graph = self._walk(root) if _is_traced(root) else self.trace(root)
                settle_writes(graph, root)
        except HiddenWrite as write:
            raise TraceFailure(write.node.meta["inside"], write) from write
        except Exception as error:
            raise self.failure or TraceFailure("", error) from error
        return graph

    def _walk(self, root: nn.Module) -> fx.Graph:
        """Read code that this tracer wrote node by node, so that names and source lines stay."""
        self.root, self.graph = root, fx.Graph(tracer_cls=ShapeTracer)
        copies: dict[fx.Node, fx.Node] = {}
        for node in root.graph.nodes:  # type: ignore[union-attr]
            args, kwargs = map_arg((node.args, node.kwargs), copies.__getitem__)
            copies[node] = self.create_node(node.op, node.target, args, kwargs, node.name)
            copies[node].meta["source"] = node.meta.get("source")
        return self.graph

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Known torch.nn modules and opaque ones are leaves; everything else is followed."""
        return module_qualified_name in self._opaque or is_known_module(m)

    def create_args_for_root(self, root_fn: Any, *_: Any) -> tuple[Any, list]:  # type: ignore[override]
        """One input node an example; further arguments of `forward` stay at their defaults."""
        names = list(inspect.signature(root_fn).parameters)[1:]
        names = [name for name in names if name != "args"] + [f"input_{n}" for n in range(len(self._examples))]
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in names[: len(self._examples)]]
        root: Any = self.root
        if root._forward_hooks or root._forward_pre_hooks or "forward" in vars(root):  # Which the class knows not of.
            return lambda _, *given: _symbolic_trace._orig_module_call(root, *given), [root, *proxies]
        return root_fn, [root, *proxies]

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Follow or emit one call, remembering the innermost module that fails.

        A call under `torch.no_grad()` is followed by `detach`: graphs know no modes, and frozen weights stay frozen.
        """
        if m not in (self.submodule_paths or {}):  # made on the fly, like nn.ReLU()(x)
            return forward(*args, **kwargs)
        path, outer = self.path_of_module(m), self._gradients
        self._inside.append(path)
        self._gradients = torch.is_grad_enabled()
        try:
            found = super().call_module(m, forward, args, kwargs)
        except Exception as error:
            self.failure = self.failure or TraceFailure(path, error)
            raise
        finally:
            self._inside.pop()
            frozen, self._gradients = outer and not self._gradients, outer
        return map_aggregate(found, _detached) if frozen else found

    def create_arg(self, a: Any) -> Any:
        """A proxy is its node, although it is a tensor too."""
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)

    def proxy(self, node: fx.Node) -> ShapedProxy:
        """A proxy that knows the example value of its node."""
        return (TensorProxy if isinstance(node.meta["value"], Tensor) else ShapedProxy)(node, self)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:  # type: ignore[override]
        """Create a node and its example value at once."""
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        node.meta["source"] = _user_line()
        node.meta["inside"] = self._inside[-1] if self._inside else ""
        node.meta["value"] = self._value(node)
        return node

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return next(self._given, node.args[0] if node.args else None)
        if node.op == "output":
            return None
        args, kwargs = value_of(node.args), value_of(node.kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch._C.DisableTorchFunction())
            stack.enter_context(self._mode or torch.random.fork_rng(devices=[]))
            if node.op in ("call_module", "get_attr") or isfunction(node.target):
                stack.enter_context(_unpatched())  # Nothing else runs a module; it takes milliseconds.
            if node.op == "get_attr":
                return self._without_data(_attribute(self.root, str(node.target)))
            if node.op == "call_module":
                return self._call(str(node.target), args, kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _call(self, path: str, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        module = self.root.get_submodule(path)
        if path not in self._states:
            state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            self._states[path] = {name: self._without_data(tensor) for name, tensor in state.items()}
        return functional_call(module, self._states[path], args, dict(kwargs))

    def _without_data(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone() if self._mode is None else self._mode.from_tensor(value)


def _is_traced(module: nn.Module) -> bool:
    return isinstance(module, fx.GraphModule) and module.graph._tracer_cls is ShapeTracer


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, TensorProxy) else value


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
    return found


@contextmanager
def _unpatched() -> Iterator[None]:
    """Run real modules inside a trace: fx has patched `Module.__call__` and `__getattr__`."""
    patched = nn.Module.__call__, nn.Module.__getattr__
    nn.Module.__call__ = _symbolic_trace._orig_module_call  # type: ignore[method-assign]
    nn.Module.__getattr__ = _symbolic_trace._orig_module_getattr  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = patched  # type: ignore[method-assign]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging a shape error that we turn into an opaque node or an error of our own."""
    logger, silent = logging.getLogger("torch._subclasses.fake_tensor"), lambda _: False
    logger.addFilter(silent)
    try:
        yield
    finally:
        logger.removeFilter(silent)


@contextmanager
def _len_traced(classes: list[type]) -> Iterator[None]:
    """Let `len(x)` in the user's files keep the length as an expression."""
    spaces = {}
    for cls in classes:
        names = getattr(cls.forward, "__globals__", {})
        if "len" not in names and not cls.__module__.startswith("torch."):
            spaces[id(names)] = names
    for names in spaces.values():
        names["len"] = traced_len
    try:
        yield
    finally:
        for names in spaces.values():
            del names["len"]


def _user_line() -> str | None:
    """`file.py:12` of the innermost frame outside torch and this package."""
    frame = sys._getframe(2)
    while frame is not None:
        names = frame.f_code.co_varnames
        mine = frame.f_globals.get("__name__", "").startswith(("torch.", "pluriform.graph"))
        if not mine and names[:1] == ("self",) and isinstance(frame.f_locals.get("self"), nn.Module):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return None
