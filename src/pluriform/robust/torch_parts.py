"""What all formats of torch.save share: the open file, persistent ids, and numbers made tensors."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from torch import Tensor

from pluriform.robust.stored_values import DamageError, Placeholder, Storage, StoredTensor, is_count, printable

__all__ = ["TorchFile", "as_tensor", "bytes_at", "sound", "storage_of"]

DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    OSError,
    SafetensorError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


@dataclass(frozen=True, eq=False)
class TorchFile:
    """An open file.

    Attributes:
        container: `"zip"`, `"stream"` or `"tar"`.
        content: What it holds: containers, plain values, `StoredTensor`, `Placeholder`.
        inert: Classes and functions that it names and that were not touched, sorted.
        read: The numbers of a stored tensor.
    """

    container: str
    content: Any
    inert: tuple[str, ...]
    read: Callable[[StoredTensor], Tensor]


@contextmanager
def sound() -> Iterator[None]:
    """Turn whatever the standard library raises on damaged files into `DamageError`."""
    try:
        yield
    except DamageError:
        raise
    except DAMAGE as error:
        raise DamageError(f"{type(error).__name__}: {printable(str(error))}") from None


def as_tensor(stored: StoredTensor, read: Callable[[int, int], bytes]) -> Tensor:
    """The tensor in a record, of which only the part that it spans is read.

    Args:
        stored: Where it lies.
        read: So many bytes from a place of the record.
    """
    if not stored.numel:
        return torch.empty(stored.shape, dtype=stored.dtype)
    size = stored.dtype.itemsize
    raw = read((stored.storage.start + stored.offset) * size, (stored.last - stored.offset + 1) * size)
    return torch.frombuffer(bytearray(raw), dtype=stored.dtype).as_strided(stored.shape, stored.stride).clone()


def storage_of(identifier: Any) -> Storage | Placeholder:
    """The storage of `("storage", type, key, device, numel[, (view, start, numel)])`, the class of `("module", ..)`."""
    if not isinstance(identifier, tuple) or len(identifier) < 2:
        raise DamageError("a persistent id that is no tuple")
    kind, dtype, *rest = identifier
    if kind in ("module", b"module") and isinstance(dtype, Placeholder):
        return dtype
    if isinstance(dtype, Placeholder):
        raise DamageError(f"numbers of an unknown type, {dtype.name}")
    if kind not in ("storage", b"storage") or not isinstance(dtype, torch.dtype) or len(rest) < 3:
        raise DamageError("a persistent id of an unknown kind")
    key, _, numel = rest[:3]
    if not (isinstance(key, str) or is_count(key)) or not is_count(numel):
        raise DamageError("a storage without a name or a length")
    view = rest[3] if len(rest) > 3 else None
    if view is None:
        return Storage(key, dtype, numel)
    if not (isinstance(view, tuple) and len(view) == 3 and is_count(view[1]) and is_count(view[2])):
        raise DamageError("a view of a storage without a start or a length")
    if view[1] + view[2] > numel:
        raise DamageError("a view that reaches beyond its storage")
    return Storage(key, dtype, view[2], view[1])


def bytes_at(stream: BinaryIO, begin: int, count: int) -> bytes:
    """So many bytes from a place of the file.

    Raises:
        DamageError: It ends before.
    """
    stream.seek(begin)
    raw = stream.read(count)
    if len(raw) != count:
        raise DamageError(f"a file that ends {count - len(raw)} bytes early")
    return raw
