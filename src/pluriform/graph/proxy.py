"""Stand-ins for tensors and sizes during tracing: they know their example value, and remember how it was made.

A `ShapedProxy` answers `x.dim()`, `x.shape`, `x.size(0)`, `len(x)`, `x.dtype` from the example. Lengths come as
`TracedInt`: Python decides with their value (`if`, `range`), while arithmetic and arguments keep the expression, so
that a traced network still works for another batch size.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode

__all__ = ["ShapedProxy", "SizesAsNodes", "TensorProxy", "TracedInt", "traced_len", "value_of"]


def value_of(argument: Any) -> Any:
    """The example value of an argument of a node."""
    return map_arg(argument, lambda node: node.meta["value"])


class TracedInt(int):
    """A length that is an ordinary integer and also a node of the graph."""

    proxy: fx.Proxy

    @staticmethod
    def of(proxy: fx.Proxy) -> "TracedInt":
        """The traced length that a proxy stands for."""
        made = TracedInt(proxy.node.meta["value"])
        made.proxy = proxy
        return made

    def __fx_create_arg__(self, _: fx.Tracer) -> fx.Node:
        return self.proxy.node

    def __reduce__(self) -> Any:
        return int, (int(self),)


class TracedFloat(float):
    """A ratio of lengths that is an ordinary number and also a node of the graph; rounded, it is a number only."""

    proxy: fx.Proxy

    @staticmethod
    def of(proxy: fx.Proxy) -> "TracedFloat":
        """The traced ratio that a proxy stands for."""
        made = TracedFloat(proxy.node.meta["value"])
        made.proxy = proxy
        return made

    def __fx_create_arg__(self, _: fx.Tracer) -> fx.Node:
        return self.proxy.node

    def __reduce__(self) -> Any:
        return float, (float(self),)


def _arithmetic(function: Callable, reverse: bool) -> Callable:
    def apply(self: TracedInt | TracedFloat, other: Any) -> Any:
        if isinstance(other, torch.Tensor | fx.Proxy) or not isinstance(other, int | float):
            return NotImplemented
        arguments = (other, self) if reverse else (self, other)
        proxy = self.proxy.tracer.create_proxy("call_function", function, arguments, {})
        return (TracedInt if isinstance(proxy.node.meta["value"], int) else TracedFloat).of(proxy)

    return apply


for _name in ("add", "sub", "mul", "floordiv", "mod", "truediv"):
    _function = getattr(operator, _name)
    for _number in (TracedInt, TracedFloat):
        setattr(_number, f"__{_name}__", _arithmetic(_function, reverse=False))
        setattr(_number, f"__r{_name}__", _arithmetic(_function, reverse=True))


class TracedSize(tuple):
    """The shape of a tensor, every length a `TracedInt`."""

    def numel(self) -> int:
        """Product of the lengths."""
        product = 1
        for length in self:
            product = length * product
        return product


ANSWERED = frozenset({
    "device", "dtype", "is_cpu", "is_cuda", "is_leaf", "is_mkldnn", "is_mps", "is_nested", "is_quantized", "is_sparse",
    "itemsize", "layout", "ndim", "requires_grad",
})  # fmt: skip


class ShapedProxy(fx.Proxy):
    """A proxy that carries an example value in `node.meta["value"]`."""

    @property
    def value(self) -> Any:
        """The example value: a tensor without data, a tuple of them, or a number."""
        return self.node.meta["value"]

    def __getattr__(self, name: str) -> Any:
        if name == "node":  # Asked for before it is set, it would be looked for until the stack is full.
            raise AttributeError(name)
        value = self.node.meta.get("value")
        if name == "_is_param":
            return False
        if isinstance(value, torch.Tensor):
            if name == "shape":
                return self.size()
            if name in ANSWERED:
                return getattr(value, name)
            if name in ("T", "mT", "H", "mH"):
                return (
                    self.transpose(-1, -2)
                    if name != "T" or value.dim() == 2
                    else self.permute(*range(value.dim())[::-1])
                )
            if name == "data":
                return self
        elif value is not None and not callable(getattr(type(value), name, None)) and hasattr(value, name):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one length of it."""
        if dim is None:
            return TracedSize(self.size(axis) for axis in range(self.value.dim()))
        return TracedInt.of(self.tracer.create_proxy("call_method", "size", (self, int(dim)), {}))

    def dim(self) -> int:
        """Number of axes."""
        return self.value.dim()

    ndimension = dim

    def numel(self) -> int:
        """Number of elements."""
        return TracedInt.of(self.tracer.create_proxy("call_method", "numel", (self,), {}))

    def is_floating_point(self) -> bool:
        """Whether the values are floating point."""
        return self.value.is_floating_point()

    def is_complex(self) -> bool:
        """Whether the values are complex."""
        return self.value.is_complex()

    def get_device(self) -> int:
        """Index of the device."""
        return self.value.get_device()

    def __iter__(self) -> Iterator[Any]:
        count = len(self.value) if isinstance(self.value, tuple | list) else self.value.shape[0]
        return iter([self.tracer.create_proxy("call_function", operator.getitem, (self, n), {}) for n in range(count)])

    def __len__(self) -> int:
        return len(self.value)


PROXY_NAMES = frozenset((*dir(ShapedProxy), "node", "tracer"))


class TensorProxy(ShapedProxy, torch.Tensor):
    """A proxy whose value is a tensor: it is one itself, without data, for code that asks `isinstance(x, Tensor)`.

    What is read from it comes from `ShapedProxy`; only operators that a proxy lacks fall to the tensor.
    """

    def __new__(cls, node: fx.Node, _: fx.Tracer) -> "TensorProxy":
        """A tensor without data of the shape and type of the example."""
        value = node.meta["value"]
        return torch.Tensor._make_subclass(cls, torch.empty(value.shape, dtype=value.dtype, device="meta"))

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name) if name in PROXY_NAMES else ShapedProxy.__getattr__(self, name)

    __hash__ = object.__hash__

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _in_place(name: str) -> Callable:
    def apply(self: TensorProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {}, name=name[1:])

    return apply


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor"):
    setattr(TensorProxy, f"__{_name}__", _in_place(_name))


def traced_len(thing: Any) -> int:
    """`len` that keeps the length of a proxy as an expression."""
    if isinstance(thing, ShapedProxy) and isinstance(thing.value, torch.Tensor):
        return thing.size(0)
    return len(thing)


class SizesAsNodes(TorchFunctionMode):
    """Make torch functions that take a traced length (`torch.zeros(x.size(0), 3)`) nodes instead of running them."""

    def __init__(self, tracer: fx.Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = [item for item in _leaves((args, kwargs)) if isinstance(item, TracedInt | TracedFloat | fx.Proxy)]
        if any(isinstance(item, TracedInt | TracedFloat) for item in found) and not any(
            isinstance(item, fx.Proxy) for item in found
        ):
            return self._tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)


def _leaves(thing: Any) -> Iterator[Any]:
    if isinstance(thing, tuple | list):
        for item in thing:
            yield from _leaves(item)
    elif isinstance(thing, dict):
        yield from _leaves(tuple(thing.values()))
    else:
        yield thing
