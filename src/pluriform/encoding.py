"""Python values as plain JSON and back, without pickle: numbers, containers, records, tensor functions and classes.

A value that JSON has no word for becomes an object with one telling key: `{"tuple": [...]}`, `{"dict": [[k, v], ...]}`,
`{"float": "inf"}`, `{"dtype": "float32"}`, `{"function": "torch.nn.functional:relu"}`; a frozen dataclass becomes
`{"class": "module:Name", field: value, ...}`.

Reading a file from a stranger runs nothing of his: classes come from torch, from pluriform, or from modules that the
program has already imported; functions are those that torch itself lists as working on tensors.
"""

import dataclasses
import functools
import importlib
import math
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch

from pluriform.errors import ConfigError, explain

__all__ = ["class_path", "decode", "encode", "record_from_json", "record_to_json", "resolve_class", "tensor_function"]


def class_path(cls: type) -> str:
    """`module:QualifiedName` of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def resolve_class(path: str) -> type:
    """The class at `module:QualifiedName`.

    Raises:
        ConfigError: Not a class of torch, pluriform or an already imported module.
    """
    name, _, qualname = path.partition(":")
    if name.partition(".")[0] in ("torch", "pluriform"):
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    found: Any = sys.modules.get(name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise ConfigError(
            explain(
                "a class of torch, of pluriform, or of a module that is already imported",
                repr(path),
                "stored form",
                f"import {name} first; where the class is local to a function, was written in a script or is made by a "
                "parametrization, pass a network of that class as module= (--net on the command line)",
            )
        )
    return found


@functools.cache
def _tensor_functions() -> dict[str, Callable]:
    """Functions that torch lists as operating on tensors, and a few that create them, by `module:name`."""
    groups = torch.overrides.get_overridable_functions().values()
    listed = [f for group in groups for f in group if hasattr(f, "__name__") and not hasattr(f, "__objclass__")]
    created = [torch.arange, torch.linspace, torch.zeros, torch.ones, torch.full, torch.tensor, torch.eye]
    operators = importlib.import_module("operator")
    plain = [
        getattr(operators, name) for name in operators.__all__ if name not in ("attrgetter", "methodcaller", "call")
    ]
    return {f"{_home(f)}:{f.__name__}": f for f in [*listed, *created, *plain, math.sqrt, getattr]}


def _home(function: Callable) -> str:
    for module in (torch, torch.nn.functional, torch.special, torch.linalg, torch.fft):
        if getattr(module, function.__name__, None) is function:
            return module.__name__
    return getattr(function, "__module__", None) or "torch"


def tensor_function(path: str) -> Callable:
    """The tensor function stored as `module:name`.

    Raises:
        ConfigError: Not a function that torch lists as operating on tensors.
    """
    function = _tensor_functions().get(path)
    if function is None:
        raise ConfigError(
            explain(
                "a function on tensors", repr(path), "stored form", "do not load this file unless you wrote it yourself"
            )
        )
    return function


def encode(value: Any) -> Any:
    """`value` as plain JSON.

    Raises:
        TypeError: There is no JSON form for it; the message names the type.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": [encode(item) for item in sorted(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    return _encode_object(value)


def _encode_object(value: Any) -> Any:
    if isinstance(value, Enum):
        return {"enum": class_path(type(value)), "name": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, slice):
        return {"slice": [encode(value.start), encode(value.stop), encode(value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return record_to_json(value)
    path = f"{_home(value)}:{value.__name__}" if callable(value) and hasattr(value, "__name__") else ""
    if path and _tensor_functions().get(path) is value:
        return {"function": path}
    raise TypeError(f"no JSON form for {type(value).__name__}")


def record_to_json(record: Any) -> dict[str, Any]:
    """A dataclass instance as `{"class": path, field: value, ...}`."""
    fields = {field.name: encode(getattr(record, field.name)) for field in dataclasses.fields(record) if field.init}
    return {"class": class_path(type(record)), **fields}


def record_from_json(value: dict[str, Any]) -> Any:
    """The dataclass instance that `record_to_json` wrote.

    Raises:
        ConfigError: Unknown class, or fields that it does not have.
    """
    cls = resolve_class(value["class"])
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(explain("the path of a dataclass", repr(value["class"]), "stored record", "check the file"))
    try:
        return cls(**{name: decode(item) for name, item in value.items() if name != "class"})
    except TypeError as error:
        raise ConfigError(
            explain(f"the fields of {cls.__name__}", str(error), "stored record", "use the version that wrote it")
        ) from None


_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "float": lambda value: float(value["float"]),
    "size": lambda value: torch.Size(value["size"]),
    "tuple": lambda value: tuple(decode(item) for item in value["tuple"]),
    "set": lambda value: {decode(item) for item in value["set"]},
    "dict": lambda value: {decode(key): decode(item) for key, item in value["dict"]},
    "enum": lambda value: resolve_class(value["enum"])[value["name"]],  # type: ignore[index]
    "dtype": lambda value: getattr(torch, value["dtype"]),
    "device": lambda value: torch.device(value["device"]),
    "slice": lambda value: slice(*(decode(item) for item in value["slice"])),
    "ellipsis": lambda _: Ellipsis,
    "class": record_from_json,
    "function": lambda value: tensor_function(value["function"]),
}


def decode(value: Any) -> Any:
    """The value that `encode` wrote."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        return _DECODERS[next(iter(value))](value)
    return value
