"""The files of a store: a Zarr group (format 3) in a folder, every tile a chunk with a checksum, and a mark a tile.

    kernel.zarr/
      zarr.json       attributes: format, whose kernel it is, the samples and precision, whether it is complete
      nngp/ ntk/      (n1, n2), chunks of one tile, no compression, CRC32C
      variance1/ variance2/
      done/           1 for every tile that is whole on disk

A tile is flushed to disk before it is marked, so that a mark can be trusted after a kill or a power cut. Both halves of
a symmetric matrix are stored unless `mirrored` is off: then tiles below the diagonal hold NaN, and `open_kernel`
transposes those above.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pluriform.errors import CorruptFileError, RunBusyError, RunError, explain
from pluriform.infinite.store.grid import Grid, Tile
from pluriform.runs import replace_folder

__all__ = ["FORMAT", "Files", "open_group"]

FORMAT = "pluriform kernel 1"
CHECKSUM = 4


@dataclass(frozen=True)
class Files:
    """A store that exists, or will.

    Attributes:
        path: Its folder.
        grid: The tiles.
        kernels: `"nngp"`, `"ntk"` or both.
        dtype: `"float32"` or `"float64"`.
        mirrored: Tiles below the diagonal of a symmetric matrix are stored, too.
    """

    path: Path
    grid: Grid
    kernels: tuple[str, ...]
    dtype: str
    mirrored: bool

    @staticmethod
    def attributes(path: Path) -> dict[str, Any] | None:
        """What a store says of itself; `None` where nothing is at `path`.

        Raises:
            RunError: Something else is there.
            CorruptFileError: Its description cannot be read.
        """
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
        if not (path / "zarr.json").exists():
            got = "a folder without zarr.json" if path.is_dir() else "a file"
            remedy = "name another path; nothing was changed"
            raise RunError(explain("a kernel store, an empty folder or a new path", got, str(path), remedy))
        try:
            found = dict(open_group(path).attrs)
        except Exception as error:
            remedy = "delete the store and compute it again"
            raise CorruptFileError(
                explain("a Zarr group", f"{type(error).__name__}: {error}", str(path), remedy)
            ) from None
        if found.get("format") != FORMAT:
            got = f"format {found.get('format')!r}"
            raise RunError(explain(f"a store of format {FORMAT!r}", got, str(path), "name another path"))
        return found

    @staticmethod
    def of(path: Path, attributes: Mapping[str, Any]) -> "Files":
        """The store that wrote these attributes."""
        n1, n2 = attributes["shape"]
        grid = Grid(n1, n2, attributes["tile"], symmetric=attributes["inputs2"] is None)
        return Files(path, grid, tuple(attributes["kernels"]), attributes["dtype"], attributes["mirrored"])

    @property
    def chunk(self) -> tuple[int, int]:
        """Rows and columns of a chunk."""
        return min(self.grid.side, self.grid.n1), min(self.grid.side, self.grid.n2)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk file."""
        return self.chunk[0] * self.chunk[1] * np.dtype(self.dtype).itemsize + CHECKSUM

    @property
    def tile_bytes(self) -> int:
        """Most bytes that one tile takes on disk."""
        return len(self.kernels) * self.chunk_bytes * (2 if self.mirrored and self.grid.symmetric else 1)

    def create(self, attributes: Mapping[str, Any], beside: Mapping[str, np.ndarray]) -> None:
        """Write an empty store, in one step.

        Args:
            attributes: Its description.
            beside: Small arrays to keep with it.
        """
        from zarr.codecs import Crc32cCodec

        whole: Any = {"compressors": [Crc32cCodec()]}
        shape, nan = (self.grid.n1, self.grid.n2), float("nan")
        with replace_folder(self.path) as folder:
            group = open_group(folder, "w")
            for name in self.kernels:
                group.create_array(name, shape=shape, chunks=self.chunk, dtype=self.dtype, fill_value=nan, **whole)
            for name, count, chunk in zip(("variance1", "variance2"), shape, self.chunk, strict=True):
                group.create_array(name, shape=(count,), chunks=(chunk,), dtype=self.dtype, fill_value=nan, **whole)
            group.create_array("done", shape=self.grid.counts, chunks=(1, 1), dtype="uint8", fill_value=0, **whole)
            for name, values in beside.items():
                group.create_array(name, data=values, **whole)
            group.attrs.update({"format": FORMAT, **attributes, "tile": self.grid.side, "complete": False})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing this store, and sweep what a killed one left.

        Raises:
            RunBusyError: Another process is writing it.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            expected, got = "a store nobody else is writing", "a locked store"
            raise RunBusyError(explain(expected, got, str(self.path), "wait for the other process")) from None
        try:
            for left in [*self.path.rglob("*.partial"), *self.path.glob(".inputs*")]:
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)

    def write(self, tile: Tile, parts: Mapping[str, np.ndarray], sides: tuple[np.ndarray, np.ndarray]) -> None:
        """Write one tile, flush it, mark it.

        Args:
            tile: Its place.
            parts: The kernels, `(height, width)`.
            sides: Variances of its rows and of its columns.

        Raises:
            RunError: The disk is full or cannot be written.
        """
        try:
            group = open_group(self.path, "r+")
            down, across = self.grid.rows(tile.i), self.grid.columns(tile.j)
            for name, values in parts.items():
                group[name][down, across] = values
                if self._twice(tile):
                    group[name][across, down] = values.T
            if tile.j == (tile.i if self.grid.symmetric else 0):
                group["variance1"][down] = sides[0]
            if tile.i == (tile.j if self.grid.symmetric else 0):
                group["variance2"][across] = sides[1]
            for path in self._chunks(tile):
                _flush(path)
            group["done"][tile.i, tile.j] = 1
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space and start it again" if full else "check the disk and start it again"
            expected, remedy = "a disk that takes another tile", f"{remedy}: finished tiles are kept"
            raise RunError(explain(expected, str(error), str(self.path), remedy)) from error

    def finished(self) -> frozenset[Tile]:
        """Tiles that are marked and whole: every chunk is there, has its size and its checksum."""
        marked = [tile for tile in self.grid.tiles if (self.path / "done/c" / str(tile.i) / str(tile.j)).exists()]
        group = open_group(self.path)
        return frozenset(tile for tile in marked if self._whole(group, tile))

    def mark_complete(self, value: bool) -> None:
        """Write down whether all tiles are there."""
        open_group(self.path, "r+").attrs["complete"] = value

    def bytes_on_disk(self, name: str) -> int:
        """Of all files of one array."""
        return sum(path.stat().st_size for path in (self.path / name).rglob("*") if path.is_file())

    def _twice(self, tile: Tile) -> bool:
        return self.grid.symmetric and self.mirrored and tile.i != tile.j

    def _chunks(self, tile: Tile) -> list[Path]:
        """Files of a tile; those of the variances that come with it at the end."""
        places = [(tile.i, tile.j), *([(tile.j, tile.i)] if self._twice(tile) else [])]
        chunks = [self.path / name / "c" / str(i) / str(j) for name in self.kernels for i, j in places]
        chunks += [self.path / "variance1/c" / str(tile.i)] if tile.j == (tile.i if self.grid.symmetric else 0) else []
        chunks += [self.path / "variance2/c" / str(tile.j)] if tile.i == (tile.j if self.grid.symmetric else 0) else []
        return chunks

    def _whole(self, group: Any, tile: Tile) -> bool:
        places = [(tile.i, tile.j), *([(tile.j, tile.i)] if self._twice(tile) else [])]
        try:
            for path in self._chunks(tile):
                array = group[path.relative_to(self.path).parts[0]]
                wanted = int(np.prod(array.chunks)) * array.dtype.itemsize + CHECKSUM
                if path.stat().st_size != wanted:
                    return False
            for name in self.kernels:
                for i, j in places:
                    _ = group[name][self.grid.rows(i), self.grid.columns(j)]
            return int(group["done"][tile.i, tile.j]) == 1
        except (OSError, ValueError):  # Missing, or another checksum.
            return False


def open_group(path: Path, mode: Literal["r", "r+", "w"] = "r") -> Any:
    """The Zarr group in a folder; not typed, since Zarr gives unions of all that could be in one."""
    import zarr

    return zarr.open_group(path, mode=mode, zarr_format=3)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
