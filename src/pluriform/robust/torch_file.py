"""What `torch.save` wrote, opened without running anything of it: the zip format, the streams before it, and tar.

    zip      (since torch 1.6)   name/data.pkl and one uncompressed record a storage, each with its checksum
    stream   (torch 0.1.10-1.5)  five pickles, then the storages one after the other
    tar      (before 0.1.10)     `storages`, `tensors` and `pickle`

and safetensors, in which timm publishes.

Tensors stay in the file until they are asked for, so that the optimiser's state and second copies cost nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pluriform.errors import CorruptFileError, DataNotFoundError, explain
from pluriform.robust.safetensors_file import open_safetensors
from pluriform.robust.stored_values import DamageError
from pluriform.robust.torch_parts import TorchFile
from pluriform.robust.torch_stream import open_stream
from pluriform.robust.torch_tar import open_tar
from pluriform.robust.torch_zip import open_zip

__all__ = ["open_torch_file"]

MAX_HEADER = 100 * 2**20


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
        return open_zip
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER:
        return open_safetensors
    return open_tar if head[257:262] == b"ustar" else open_stream
