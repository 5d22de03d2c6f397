"""Where the files of a named data set are: given path, `PLURIFORM_DATA`, the user's cache, or a download."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pluriform.errors import DataNotFoundError, explain

__all__ = ["Download", "Files", "cache_folder", "find", "locate"]


@dataclass(frozen=True)
class Download:
    """A file of an official page.

    Attributes:
        url: Its address.
        checksum: `md5:...` or `sha256:...` as published.
    """

    url: str
    checksum: str


@dataclass(frozen=True)
class Files:
    """The files of one data set.

    Attributes:
        folder: Name of its folder in `PLURIFORM_DATA` and in the user's cache.
        names: File names that must all be there.
        downloads: Where they come from, by file name; empty where there is no official address.
        home: Page that tells people about the data set.
    """

    folder: str
    names: Sequence[str]
    downloads: Mapping[str, Download] = field(default_factory=dict)
    home: str = ""


def cache_folder() -> Path:
    """The user's cache, as pooch names it."""
    import pooch

    return Path(pooch.os_cache("pluriform"))


def find(files: Files, path: Path | None = None) -> Path | None:
    """The first folder on this machine that holds all of `files`, or `None`; in the order of `locate`."""
    return next((place for place in _places(files, path) if not _missing(files, place)), None)


def locate(files: Files, path: Path | None = None) -> Path:
    """The folder that holds all of `files`, downloaded into the user's cache if need be.

    Searched in this order: `path`, then the sub-folder of the data set's name in `path`, in the folder that the
    environment variable `PLURIFORM_DATA` names and in the user's cache, then the official address (with checksum).

    Raises:
        DataNotFoundError: Found in no place; names the missing file, every place and what to do.
    """
    found = find(files, path)
    if found is not None:
        return found
    places = _places(files, path)
    failure = _fetch(files, places[-1]) if files.downloads else "there is no official address to download it from"
    if not failure:
        return places[-1]
    raise DataNotFoundError(
        explain(
            f"the files of {files.folder}: {', '.join(files.names)}",
            f"no {_missing(files, places[-1])[0]}",
            f"searched {', '.join(map(str, places))}; {failure}",
            f"put the files in {places[-1]}, or set PLURIFORM_DATA to a folder that has {files.folder}/, or give path="
            + (f"; see {files.home}" if files.home else ""),
        )
    )


def _places(files: Files, path: Path | None) -> list[Path]:
    roots = [path] if path else []
    if os.environ.get("PLURIFORM_DATA"):
        roots.append(Path(os.environ["PLURIFORM_DATA"]))
    own = [path.expanduser()] if path else []
    return own + [root.expanduser() / files.folder for root in [*roots, cache_folder()]]


def _missing(files: Files, place: Path) -> list[str]:
    return [name for name in files.names if not (place / name).is_file()]


def _fetch(files: Files, cache: Path) -> str:
    """Download what the cache lacks; the reason where that fails, nothing where it worked."""
    import pooch

    for name in _missing(files, cache):
        source = files.downloads[name]
        try:
            pooch.retrieve(source.url, known_hash=source.checksum, fname=name, path=cache)
        except (OSError, ValueError) as error:  # No network, no room, or another checksum than the published one.
            return f"download of {source.url} failed: {error}"
    return ""
