"""The format of torch.save from torch 0.1.10 to 1.5: five pickles, then the storages one after the other."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pluriform.robust.pickle_machine import read_pickle
from pluriform.robust.stored_values import DamageError, Storage, StoredTensor
from pluriform.robust.torch_parts import TorchFile, as_tensor, bytes_at, sound, storage_of

__all__ = ["open_stream"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


@contextmanager
def open_stream(stream: BinaryIO, size: int) -> Iterator[TorchFile]:
    """Open a file of pickles and storages one after the other.

    Args:
        stream: The file.
        size: Its size in bytes.

    Yields:
        Its content.

    Raises:
        DamageError: It is damaged.
    """
    names: set[str] = set()
    lengths: dict[str | int, tuple[torch.dtype, int]] = {}

    def persistent(identifier: Any) -> Any:
        storage = storage_of(identifier)
        if isinstance(storage, Storage):
            whole = (storage.dtype, identifier[4])
            if lengths.setdefault(storage.key, whole) != whole:
                raise DamageError("a storage described in two ways")
        return storage

    with sound():
        if read_pickle(stream, end=size) != MAGIC:
            raise DamageError("a pickle that torch.save did not write")
        if read_pickle(stream, end=size) != PROTOCOL:
            raise DamageError("an unknown version of the format")
        system = read_pickle(stream, end=size)
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise DamageError("numbers of a big-endian machine: save it again on a common one")
        content = read_pickle(stream, persistent, names, size)
        keys = read_pickle(stream, end=size)
        places = _places(stream, keys, lengths, size)

    def read(stored: StoredTensor) -> Tensor:
        with sound():
            begin = places[stored.storage.key]
            return as_tensor(stored, lambda place, count: bytes_at(stream, begin + place, count))

    yield TorchFile("stream", content, tuple(sorted(names)), read)


def _places(
    stream: BinaryIO, keys: Any, lengths: dict[str | int, tuple[torch.dtype, int]], size: int
) -> dict[str | int, int]:
    """Where each storage begins."""
    if not isinstance(keys, list) or len(keys) != len(lengths):
        raise DamageError("a list of storages that does not fit the tensors")
    places = {}
    for key in keys:
        if not isinstance(key, (str, int)):  # Hashing anything deeper may overflow the stack.
            raise DamageError("a storage whose name is neither text nor a number")
        dtype, numel = lengths[key]
        (stated,) = struct.unpack("<q", bytes_at(stream, stream.tell(), 8))
        begin = stream.tell()
        if stated != numel or begin + numel * dtype.itemsize > size:
            raise DamageError(f"a storage of {numel} numbers of which {size - begin} bytes are left, {stated} stated")
        places[key] = begin
        stream.seek(begin + numel * dtype.itemsize)
    return places
