"""What `torch.save` wrote, opened without running anything of it: the zip format, the streams before it, and tar.

    zip      (since torch 1.6)   name/data.pkl and one uncompressed record a storage, each with its checksum
    stream   (torch 0.1.10-1.5)  five pickles, then the storages one after the other
    tar      (before 0.1.10)     `storages`, `tensors` and `pickle`

and safetensors, in which timm publishes.

Tensors stay in the file until they are asked for, so that the optimiser's state and second copies cost nothing.
"""

import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pluriform.errors import CorruptFileError, DataNotFoundError, explain
from pluriform.robust.pickle_machine import (
    MAX_BYTES,
    DamageError,
    Placeholder,
    Storage,
    StoredTensor,
    is_count,
    printable,
    read_pickle,
)

__all__ = ["TorchFile", "open_torch_file"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_RECORDS = 200_000
SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
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
def open_torch_file(path: str | Path) -> Iterator[TorchFile]:
    """Open a file that `torch.save` wrote, with any pickle module; nothing in it is executed.

    Args:
        path: The file.

    Yields:
        Its content; tensors can be read while it is open.

    Raises:
        DataNotFoundError: There is no such file.
        CorruptFileError: It is damaged, or something else than `torch.save` writes.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(
            explain("a checkpoint file", "a folder" if path.is_dir() else "no file", str(path), "check the path")
        )
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            head = stream.read(512)
            stream.seek(0)
            _refuse_other_kinds(head, size)
            with _opener(head)(stream, size) as opened:
                yield opened
    except CorruptFileError:
        raise
    except DamageError as error:
        raise _corrupt(path, str(error)) from None


def _corrupt(path: Path, got: str) -> CorruptFileError:
    return CorruptFileError(
        explain(
            "a whole file written by torch.save", got, str(path), "download it again and compare its size and checksum"
        )
    )


@contextmanager
def sound() -> Iterator[None]:
    """Turn whatever the standard library raises on damaged files into `DamageError`."""
    try:
        yield
    except DamageError:
        raise
    except DAMAGE as error:
        raise DamageError(f"{type(error).__name__}: {printable(str(error))}") from None


def _refuse_other_kinds(head: bytes, size: int) -> None:
    """Say what was downloaded instead of a checkpoint."""
    if not size:
        raise DamageError("an empty file")
    start = head.lstrip()[:64].lower()
    for signature, kind in (
        (b"<!doctype", "a web page (the link may have expired)"),
        (b"<html", "a web page (the link may have expired)"),
        (b"<?xml", "an XML page (the link may have expired)"),
        (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"bzh", "a bzip2 archive: unpack it first"),
        (b"\xfd7zxz", "an xz archive: unpack it first"),
        (b"\x89hdf", "an HDF5 file"),
    ):
        if start.startswith(signature):
            raise DamageError(kind)


def _opener(head: bytes) -> Callable[[BinaryIO, int], Any]:
    if head.startswith(b"PK"):
        return _open_zip
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_BYTES:
        return _open_safetensors
    return _open_tar if head[257:262] == b"ustar" else _open_stream


def _as_tensor(raw: bytes, stored: StoredTensor, start: int) -> Tensor:
    """The tensor in the bytes of its whole storage, or of its part from number `start` on."""
    if not stored.numel:
        return torch.empty(stored.shape, dtype=stored.dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=stored.dtype)
    return flat.as_strided(stored.shape, stored.stride, stored.offset + start).clone()


# The zip format.


@contextmanager
def _open_zip(stream: BinaryIO, size: int) -> Iterator[TorchFile]:
    with sound():
        archive = zipfile.ZipFile(stream)
        records = _records(archive, size)
    with archive:
        root = next((PurePosixPath(name).parent for name in records if name.endswith("/data.pkl")), None)
        if root is None:
            raise DamageError("a zip archive without a data.pkl")
        if f"{root}/constants.pkl" in records or any(name.startswith(f"{root}/code/") for name in records):
            raise DamageError("a TorchScript program, which holds code: save its state_dict() and load that")
        if f"{root}/byteorder" in records and _record(archive, records[f"{root}/byteorder"]) != b"little":
            raise DamageError("numbers of a big-endian machine: save it again on a common one")

        def persistent(identifier: Any) -> Any:
            storage = _storage(identifier)
            if isinstance(storage, Storage):
                _measure(records.get(f"{root}/data/{storage.key}"), storage)
            return storage

        def read(stored: StoredTensor) -> Tensor:
            with sound():
                raw = _record(archive, records[f"{root}/data/{stored.storage.key}"])
                return _as_tensor(raw, stored, 0)

        names: set[str] = set()
        with sound():
            content = read_pickle(_record(archive, records[f"{root}/data.pkl"]), persistent, names)
        yield TorchFile("zip", content, tuple(sorted(names)), read)


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Records by name, after a look at all that an archive can lie about."""
    listed = archive.infolist()
    records = {record.filename: record for record in listed}
    if len(listed) > MAX_RECORDS or len(records) != len(listed):
        raise DamageError("a zip archive with too many records, or two of one name")
    for name, record in records.items():
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise DamageError(f"a record that points out of the archive, {printable(name)}")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise DamageError(f"a compressed record, {printable(name)}, which torch.save never writes")
        if record.file_size > size:
            raise DamageError(f"a record of {record.file_size} bytes, {printable(name)}, in a file of {size}")
    return records


def _record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    """The bytes of a record; their checksum is compared at its end."""
    with sound(), archive.open(record) as opened:
        raw = opened.read()
        if len(raw) != record.file_size:
            raise DamageError(f"{len(raw)} of the {record.file_size} bytes of {printable(record.filename)}")
        return raw


def _measure(record: zipfile.ZipInfo | None, storage: Storage) -> None:
    needed = storage.numel * storage.dtype.itemsize
    if record is None or record.file_size != needed:
        raise DamageError(
            f"a storage of {needed} bytes whose record has {record.file_size if record else 'none'}, "
            f"{printable(str(storage.key))}"
        )


def _storage(identifier: Any) -> Storage | Placeholder:
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


# One pickle after the other, then the storages.


@contextmanager
def _open_stream(stream: BinaryIO, size: int) -> Iterator[TorchFile]:
    names: set[str] = set()
    lengths: dict[str | int, tuple[torch.dtype, int]] = {}

    def persistent(identifier: Any) -> Any:
        storage = _storage(identifier)
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
            begin, numel = places[stored.storage.key]
            return _as_tensor(
                _bytes(stream, begin, numel * stored.storage.dtype.itemsize), stored, stored.storage.start
            )

    yield TorchFile("stream", content, tuple(sorted(names)), read)


def _places(
    stream: BinaryIO, keys: Any, lengths: dict[str | int, tuple[torch.dtype, int]], size: int
) -> dict[str | int, tuple[int, int]]:
    """Where each storage begins, and its length."""
    if not isinstance(keys, list) or len(keys) != len(lengths):
        raise DamageError("a list of storages that does not fit the tensors")
    places = {}
    for key in keys:
        dtype, numel = lengths[key]
        (stated,) = struct.unpack("<q", _bytes(stream, stream.tell(), 8))
        begin = stream.tell()
        if stated != numel or begin + numel * dtype.itemsize > size:
            raise DamageError(f"a storage of {numel} numbers of which {size - begin} bytes are left, {stated} stated")
        places[key] = (begin, numel)
        stream.seek(begin + numel * dtype.itemsize)
    return places


def _bytes(stream: BinaryIO, begin: int, count: int) -> bytes:
    stream.seek(begin)
    raw = stream.read(count)
    if len(raw) != count:
        raise DamageError(f"a file that ends {count - len(raw)} bytes early")
    return raw


# Safetensors, which hold nothing but tensors.


@contextmanager
def _open_safetensors(stream: BinaryIO, _: int) -> Iterator[TorchFile]:
    with sound():
        archive = safe_open(stream.name, "pt")
    with archive:
        with sound():
            content = {name: _described(name, archive.get_slice(name)) for name in archive.keys()}  # noqa: SIM118

        def read(stored: StoredTensor) -> Tensor:
            with sound():
                return archive.get_tensor(str(stored.storage.key))

        yield TorchFile("safetensors", content, (), read)


def _described(name: str, entry: Any) -> StoredTensor | Placeholder:
    shape, dtype = tuple(entry.get_shape()), SAFETENSORS.get(entry.get_dtype())
    if dtype is None:
        return Placeholder(f"numbers of type {entry.get_dtype()}")
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(Storage(name, dtype, math.prod(shape)), 0, shape, stride, dtype)


# The tar format.


@contextmanager
def _open_tar(stream: BinaryIO, size: int) -> Iterator[TorchFile]:
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
            key = int(identifier) if isinstance(identifier, str) else identifier
            return tensors[key] if key in tensors else storages[key]

        begin, end = begins["pickle"]
        stream.seek(begin)
        content = read_pickle(stream, persistent, names, end)

    def read(stored: StoredTensor) -> Tensor:
        with sound():
            storage = stored.storage
            raw = _bytes(stream, places[storage.key], (storage.start + storage.numel) * storage.dtype.itemsize)
            return _as_tensor(raw, stored, storage.start)

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
        (numel,) = struct.unpack("<q", _bytes(stream, stream.tell(), 8))
        places[key] = stream.tell()
        storages[key] = Storage(key, dtype, _count(numel))
        if places[key] + numel * dtype.itemsize > end:
            raise DamageError(f"a storage of {numel} numbers, more than the file has")
        stream.seek(numel * dtype.itemsize, 1)
    for view, root, offset, numel in read_pickle(stream, end=end):
        whole = storages[root]
        if not is_count(view) or _count(offset) + _count(numel) > whole.numel:
            raise DamageError("a view that reaches beyond its storage")
        storages[view] = Storage(whole.key, whole.dtype, numel, whole.start + offset)
    return storages, places


def _tar_tensors(stream: BinaryIO, begin: int, end: int, storages: dict[Any, Storage]) -> dict[Any, StoredTensor]:
    tensors = {}
    stream.seek(begin)
    for _ in range(_count(read_pickle(stream, end=end))):
        key, storage, _ = read_pickle(stream, end=end)
        (axes, _) = struct.unpack("<ii", _bytes(stream, stream.tell(), 8))
        if not 0 <= axes <= 16 or not is_count(key):
            raise DamageError(f"a tensor of {axes} axes")
        numbers = struct.unpack(f"<{2 * axes + 1}q", _bytes(stream, stream.tell(), 8 * (2 * axes + 1)))
        shape, stride, offset = numbers[:axes], numbers[axes:-1], numbers[-1]
        if not all(map(is_count, numbers)):
            raise DamageError("a tensor with an impossible shape or stride")
        tensors[key] = StoredTensor(storages[storage], offset, shape, stride, storages[storage].dtype)
    return tensors


def _count(value: Any) -> int:
    if not is_count(value):
        raise DamageError("a number of things that is no count")
    return value
