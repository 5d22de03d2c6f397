"""Files of one folder inside a compressed tar archive, read as a stream."""

import lzma
import tarfile
import zlib
from pathlib import Path

from pluriform.errors import CorruptFileError, explain

__all__ = ["read_member_folder"]


def read_member_folder(archive: Path, folder: str, seen: set[str]) -> dict[str, str]:
    """Texts of the files below `folder`, by path inside it; empty where the archive has no such folder.

    Args:
        archive: A tar file, compressed in any way.
        folder: Name of a folder at the top of the archive.
        seen: Receives the folder names passed on the way, for a message that lists them.

    Raises:
        CorruptFileError: The archive is damaged.
    """
    texts: dict[str, str] = {}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                top, _, rest = member.name.removeprefix("./").partition("/")
                seen.add(top)
                if top != folder and texts:
                    break  # A folder's files lie together.
                content = tar.extractfile(member) if top == folder and rest and member.isfile() else None
                if content is not None:
                    texts[rest] = content.read().decode("utf-8", "replace")
    except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError) as error:
        raise CorruptFileError(
            explain("a tar archive", f"{error}", str(archive), "delete it and fetch it again")
        ) from error
    return texts
