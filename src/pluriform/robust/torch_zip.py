"""The zip format of torch.save, since torch 1.6: `name/data.pkl` and one uncompressed record a storage."""

import functools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from torch import Tensor

from pluriform.robust.pickle_machine import read_pickle
from pluriform.robust.stored_values import DamageError, Storage, StoredTensor, printable
from pluriform.robust.torch_parts import TorchFile, as_tensor, sound, storage_of

__all__ = ["open_zip"]

MAX_RECORDS = 200_000


@contextmanager
def open_zip(stream: BinaryIO, size: int) -> Iterator[TorchFile]:
    """Open a zip archive, of which nothing is unpacked to disk.

    Args:
        stream: The file.
        size: Its size in bytes.

    Yields:
        Its content.

    Raises:
        DamageError: It is damaged.
    """
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
            storage = storage_of(identifier)
            if isinstance(storage, Storage):
                _measure(records.get(f"{root}/data/{storage.key}"), storage)
            return storage

        # Tensors that share a storage follow each other: it is read once for all of them.
        @functools.lru_cache(1)
        def numbers(key: str | int) -> bytes:
            return _record(archive, records[f"{root}/data/{key}"])

        def read(stored: StoredTensor) -> Tensor:
            with sound():
                raw = memoryview(numbers(stored.storage.key))
                return as_tensor(stored, lambda place, count: bytes(raw[place : place + count]))

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
