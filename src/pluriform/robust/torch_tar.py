"""The first format of torch.save, before torch 0.1.10: a tar archive of `storages`, `tensors` and `pickle`."""

import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pluriform.robust.pickle_machine import read_pickle
from pluriform.robust.stored_values import DamageError, Placeholder, Storage, StoredTensor, is_count, printable
from pluriform.robust.torch_parts import TorchFile, as_tensor, bytes_at, sound

__all__ = ["open_tar"]


@contextmanager
def open_tar(stream: BinaryIO, size: int) -> Iterator[TorchFile]:
    """Open a tar archive, of which nothing is unpacked to disk.

    Args:
        stream: The file.
        size: Its size in bytes.

    Yields:
        Its content.

    Raises:
        DamageError: It is damaged.
    """
    with sound():
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            begins = {member.name: _member(member, size) for member in archive.getmembers()}
        if not begins.keys() >= {"storages", "tensors", "pickle"}:
            raise DamageError("a tar archive without storages, tensors and pickle: unpack it first")
        storages, places = _tar_storages(stream, *begins["storages"])
        tensors = _tar_tensors(stream, *begins["tensors"], storages)
        names: set[str] = set()

        def persistent(identifier: Any) -> Any:
            if isinstance(identifier, tuple) and identifier and isinstance(identifier[0], Placeholder):
                return identifier[0]
            key = _count(int(identifier) if isinstance(identifier, str) else identifier)
            return tensors[key] if key in tensors else storages[key]

        begin, end = begins["pickle"]
        stream.seek(begin)
        content = read_pickle(stream, persistent, names, end)

    def read(stored: StoredTensor) -> Tensor:
        with sound():
            begin = places[stored.storage.key]
            return as_tensor(stored, lambda place, count: bytes_at(stream, begin + place, count))

    yield TorchFile("tar", content, tuple(sorted(names)), read)


def _member(member: tarfile.TarInfo, size: int) -> tuple[int, int]:
    """Where a file of the archive begins and ends."""
    if not member.isreg() or member.issparse() or member.offset_data + member.size > size:
        raise DamageError(f"a tar archive with {printable(member.name)}, which is no plain file in it")
    return member.offset_data, member.offset_data + member.size


def _tar_storages(stream: BinaryIO, begin: int, end: int) -> tuple[dict[Any, Storage], dict[Any, int]]:
    storages: dict[Any, Storage] = {}
    places: dict[Any, int] = {}
    stream.seek(begin)
    for _ in range(_count(read_pickle(stream, end=end))):
        key, _, dtype = read_pickle(stream, end=end)
        if not is_count(key) or not isinstance(dtype, torch.dtype):
            raise DamageError("a storage without a name or a type")
        (numel,) = struct.unpack("<q", bytes_at(stream, stream.tell(), 8))
        places[key] = stream.tell()
        storages[key] = Storage(key, dtype, _count(numel))
        if places[key] + numel * dtype.itemsize > end:
            raise DamageError(f"a storage of {numel} numbers, more than the file has")
        stream.seek(numel * dtype.itemsize, 1)
    for view, root, offset, numel in read_pickle(stream, end=end):
        whole = storages[_count(root)]
        if not is_count(view) or _count(offset) + _count(numel) > whole.numel:
            raise DamageError("a view that reaches beyond its storage")
        storages[view] = Storage(whole.key, whole.dtype, numel, whole.start + offset)
    return storages, places


def _tar_tensors(stream: BinaryIO, begin: int, end: int, storages: dict[Any, Storage]) -> dict[Any, StoredTensor]:
    tensors = {}
    stream.seek(begin)
    for _ in range(_count(read_pickle(stream, end=end))):
        key, storage, _ = read_pickle(stream, end=end)
        (axes, _) = struct.unpack("<ii", bytes_at(stream, stream.tell(), 8))
        if not 0 <= axes <= 16 or not is_count(key):
            raise DamageError(f"a tensor of {axes} axes")
        numbers = struct.unpack(f"<{2 * axes + 1}q", bytes_at(stream, stream.tell(), 8 * (2 * axes + 1)))
        whole = storages[_count(storage)]
        shape, stride, offset = numbers[:axes], numbers[axes:-1], numbers[-1]
        if not all(map(is_count, numbers)):
            raise DamageError("a tensor with an impossible shape or stride")
        tensors[key] = StoredTensor(whole, offset, shape, stride, whole.dtype)
    return tensors


def _count(value: Any) -> int:
    if not is_count(value):
        raise DamageError("a number of things that is no count")
    return value
