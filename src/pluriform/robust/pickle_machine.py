"""A pickle read as data: an interpreter of its opcodes that knows numbers, text, containers and tensors, nothing else.

Python's own unpickler is a machine that calls what the file names. This one imports nothing, looks no attribute up and
calls nothing but the few constructors in `MAKERS`, which are written here. Every other class or function becomes a
`Placeholder`: calling it, building it or filling it gives the placeholder back and keeps nothing.

Memory and time stay within the size of the file: dictionary keys are plain numbers and text (hashing deep tuples may
overflow the stack, crafted integers collide), sets are lists, and the number of operations is bounded.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pluriform.robust.stored_values import (
    MAX_COUNT,
    DamageError,
    Placeholder,
    Storage,
    StoredTensor,
    is_count,
    printable,
)

__all__ = ["read_pickle"]

MAX_OPERATIONS = 2_000_000
TOO_LONG = f"a pickle of more than {MAX_OPERATIONS} operations, far beyond a checkpoint's"
MAX_BYTES = 64 * 2**20
MAX_DIMENSIONS = 16
MAX_NAMES = 1000


def read_pickle(
    stream: Any, persistent: Callable[[Any], Any] | None = None, names: set[str] | None = None, end: int | None = None
) -> Any:
    r"""The value of the pickle that begins at the place of `stream`, which is left behind its end.

    Args:
        stream: Binary stream, or the bytes themselves.
        persistent: What a persistent id stands for; without it such ids are damage.
        names: Filled with the names of classes and functions that became placeholders.
        end: Where the file ends.

    Returns:
        Numbers, text, bytes, lists, tuples, dictionaries, dtypes, `StoredTensor`, `Storage` and `Placeholder`.

    Raises:
        DamageError: It is no whole pickle, or larger than a checkpoint's.

    Example:
        >>> read_pickle(b"cposix\nsystem\n(S'rm -r .'\ntR.")
        Placeholder(name='posix.system')
    """
    if isinstance(stream, bytes):
        stream = io.BytesIO(stream)
    start = stream.tell()
    # A copy of bounded size: lengths that the pickle states cannot ask for more memory than there are bytes.
    window = io.BytesIO(stream.read(MAX_BYTES if end is None else max(0, min(end - start, MAX_BYTES))))
    machine = _Machine(persistent, set() if names is None else names)
    try:
        value = machine.run(window)
    except DamageError:
        raise
    except (IndexError, KeyError) as error:
        raise DamageError(f"a pickle that takes what it never put down ({type(error).__name__})") from None
    except (ValueError, OverflowError, TypeError) as error:
        raise DamageError(f"no whole pickle ({printable(str(error))})") from None
    stream.seek(start + window.tell())
    return value


class _Namespace(dict):
    """The attributes of an `argparse.Namespace`, which hold what a training was called with."""


@dataclass(frozen=True)
class _Maker:
    """A constructor that the machine may call."""

    make: Callable[..., Any]


def _dictionary(*args: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for pair in args[0] if args and isinstance(args[0], (list, tuple)) else ():
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            _put(made, *pair)
    return made


def _put(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Set the entry, if its key is plain."""
    if key is None or isinstance(key, (str, bytes, float)) or (isinstance(key, int) and abs(key) < MAX_COUNT):
        target[key] = value


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor | Placeholder:
    if isinstance(storage, Placeholder):
        return storage
    dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], torch.dtype) else None
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
        raise DamageError("a tensor without a storage, a shape or strides")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise DamageError(f"a tensor of {len(shape)} axes with {len(stride)} strides")
    if not all(is_count(number) for number in (*shape, *stride, offset)):
        raise DamageError("a tensor with an impossible shape or stride")
    return StoredTensor(storage, offset, shape, stride, dtype or storage.dtype)


def _retyped(function: Any, _: Any, args: Any, *__: Any) -> Any:
    """A tensor of a subclass: what the inner function gives."""
    return function.make(*args) if isinstance(function, _Maker) and isinstance(args, tuple) else Placeholder("a tensor")


def _length(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value) // 64
    return len(value) if isinstance(value, (list, tuple, dict)) else 0


def _first(value: Any, *_: Any) -> Any:
    return value


def _encoded(text: Any, *_: Any) -> bytes:
    if not isinstance(text, str):
        raise DamageError("bytes made from something that is no text")
    return text.encode("latin-1")


MAKERS: dict[tuple[str, str], _Maker] = {
    ("collections", "OrderedDict"): _Maker(_dictionary),
    ("collections", "defaultdict"): _Maker(lambda *_: {}),
    ("argparse", "Namespace"): _Maker(lambda *_: _Namespace()),
    ("torch", "Size"): _Maker(lambda shape=(), *_: tuple(shape)),
    ("_codecs", "encode"): _Maker(_encoded),
    ("torch._utils", "_rebuild_tensor"): _Maker(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Maker(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Maker(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): _Maker(_first),
    ("torch._tensor", "_rebuild_from_type_v2"): _Maker(_retyped),
}
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in {*STORAGES.values(), torch.float8_e4m3fn}}


def _resolve(module: str, name: str) -> Any:
    """What a global of the file stands for: a maker, a dtype, or nothing but its name."""
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
        return STORAGES[name]
    if module == "torch" and name in DTYPES:
        return DTYPES[name]
    return MAKERS.get((module, name)) or Placeholder(printable(f"{module}.{name}"))


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "FLOAT",
        "BINFLOAT",
        "BYTEARRAY8",
    ]
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
SILENT = frozenset({"PROTO", "FRAME", "READONLY_BUFFER", "STOP"})


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self, persistent: Callable[[Any], Any] | None, names: set[str]) -> None:
        self._persistent = persistent
        self._names = names
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def run(self, stream: io.BytesIO) -> Any:
        """The value that the opcodes leave."""
        for operation, argument, _ in pickletools.genops(stream):
            name = operation.name
            self._work += 1
            if self._work > MAX_OPERATIONS:
                raise DamageError(TOO_LONG)
            if name in LITERALS:
                self._stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name]())
            elif name in TUPLES:
                self._stack[-TUPLES[name] :] = [tuple(self._stack[-n] for n in range(TUPLES[name], 0, -1))]
            elif name not in SILENT:
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise DamageError(f"the opcode {name}, which no checkpoint has")
                step(argument)
        return self._stack.pop()

    def _charge(self, work: int) -> None:
        """Count operations, and what a call copies: a short pickle may have one long list copied without end."""
        self._work += work
        if self._work > MAX_OPERATIONS:
            raise DamageError(TOO_LONG)

    def _pop_mark(self, _: Any = None) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise DamageError(f"an item appended to {type(target).__name__}")

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict) and len(items) % 2 == 0:
            for key, value in zip(items[::2], items[1::2], strict=True):
                _put(target, key, value)
        elif not isinstance(target, Placeholder):
            raise DamageError(f"an entry set in {type(target).__name__}")

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._named(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise DamageError("a global whose name is no text")
        self._stack.append(self._named(module, name))

    def _named(self, module: str, name: str) -> Any:
        value = _resolve(module, name)
        if isinstance(value, Placeholder) and len(self._names) < MAX_NAMES:
            self._names.add(value.name)
        return value

    def _ext1(self, code: int) -> None:
        self._stack.append(self._named("copyreg extension", str(code)))

    _ext2 = _ext4 = _ext1

    def _construct(self, called: Any, args: Any) -> None:
        if isinstance(called, _Maker) and isinstance(args, tuple):
            self._charge(sum(_length(argument) for argument in args))
            self._stack.append(called.make(*args))
        elif isinstance(called, Placeholder):
            self._stack.append(called)
        else:
            raise DamageError(f"a call of {type(called).__name__}")

    def _reduce(self, _: Any) -> None:
        args, called = self._stack.pop(), self._stack.pop()
        self._construct(called, args)

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _inst(self, argument: str) -> None:
        args = tuple(self._pop_mark())
        module, _, name = argument.partition(" ")
        self._construct(self._named(module, name), args)

    def _obj(self, _: Any) -> None:
        called, *args = self._pop_mark()
        self._construct(called, tuple(args))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, _Namespace) and isinstance(state, dict):
            self._charge(len(state))
            target.update(state)
        elif not isinstance(target, (dict, StoredTensor, Placeholder)):
            raise DamageError(f"a state given to {type(target).__name__}")

    def _persid(self, argument: Any) -> None:
        if self._persistent is None:
            raise DamageError("a persistent id where none belongs")
        self._stack.append(self._persistent(argument))

    def _binpersid(self, _: Any) -> None:
        self._persid(self._stack.pop())
