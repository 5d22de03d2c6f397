"""`open_kernel`: a store read back in parts, as arrays that are never loaded whole unless asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pluriform.available_memory import available_memory
from pluriform.errors import CorruptFileError, MemoryBudgetError, RunError, explain
from pluriform.infinite.store.files import Files, open_group

__all__ = ["StoredKernel", "StoredMatrix", "open_kernel"]


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """One kernel of a store: indexing with numbers, slices, index arrays or masks reads those entries from disk.

    Attributes:
        files: The store.
        name: `"nngp"` or `"ntk"`.
    """

    files: Files
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.files.grid.n1, self.files.grid.n2

    @property
    def dtype(self) -> np.dtype:
        """Of the entries."""
        return np.dtype(self.files.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole matrix; NumPy calls this."""
        if copy is False:
            raise ValueError("reading from disk makes a copy")
        return self[:, :].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """Entries as NumPy would give them for two separate selections, of rows and of columns.

        Raises:
            MemoryBudgetError: They do not fit the memory.
            CorruptFileError: A chunk is damaged.
            IndexError: A row or column does not exist.
        """
        pair = key if isinstance(key, tuple) else (key, slice(None))
        if len(pair) != 2:
            raise IndexError(f"a kernel has two axes, not {len(pair)}")
        rows, columns = (_selected(part, count) for part, count in zip(pair, self.shape, strict=True))
        self._check_memory(rows.size * columns.size)
        found = np.empty((rows.size, columns.size), self.dtype)
        side = self.files.grid.side
        for i in np.unique(rows // side):
            for j in np.unique(columns // side):
                at = np.nonzero(rows // side == i)[0], np.nonzero(columns // side == j)[0]
                found[np.ix_(*at)] = self._block(int(i), int(j), rows[at[0]], columns[at[1]])
        return found[tuple(0 if _is_number(part) else slice(None) for part in pair)]

    @cached_property
    def _array(self) -> Any:
        return open_group(self.files.path)[self.name]

    def _block(self, i: int, j: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Entries of one tile; a tile below the diagonal that is not stored is the transpose of the one above."""
        if self.files.grid.symmetric and not self.files.mirrored and i > j:
            return self._block(j, i, columns, rows).T
        top, left = rows.min(), columns.min()
        try:
            part = self._array[top : rows.max() + 1, left : columns.max() + 1]
            if not np.isfinite(part).all():  # What is finished is finite: a file of it is gone.
                raise ValueError("NaN, as where a file is missing")
        except ValueError as error:
            remedy = "start the computation again with the same arguments: only damaged tiles are computed again"
            where = f"{self.name} of {self.files.path}, tile ({i}, {j})"
            raise CorruptFileError(explain("a whole tile", str(error), where, remedy)) from error
        return part[np.ix_(rows - top, columns - left)]

    def _check_memory(self, entries: int) -> None:
        needed, available = entries * self.dtype.itemsize, available_memory()
        if needed > 0.9 * available:
            raise MemoryBudgetError(
                explain(
                    f"at most {0.9 * available / 2**20:,.0f} MiB (90 % of what is available)",
                    f"{needed / 2**20:,.0f} MiB for {entries:,} entries",
                    f"{self.name} of {self.files.path}",
                    "read a part: kernel.ntk[rows, columns]",
                )
            )


@dataclass(frozen=True, eq=False)
class StoredKernel:
    """A finished store.

    Attributes:
        files: Where it lies and how.
        nngp: NNGP, `(n1, n2)`; `None` where it was not stored.
        ntk: NTK.
        variance1: `nngp` of each first sample with itself, `(n1,)`.
        variance2: The same for the second samples, `(n2,)`.
        facts: What its maker noted: names, variances.
    """

    files: Files
    nngp: StoredMatrix | None
    ntk: StoredMatrix | None
    variance1: np.ndarray
    variance2: np.ndarray
    facts: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """First and second samples."""
        return self.files.grid.n1, self.files.grid.n2

    def beside(self, name: str) -> np.ndarray:
        """A small array that was stored with the kernels.

        Raises:
            RunError: There is none of that name.
        """
        group = open_group(self.files.path)
        if name not in group:
            known = ", ".join(sorted(group.array_keys()))
            raise RunError(explain(f"one of {known}", repr(name), str(self.files.path), "name one of them"))
        return group[name][...]


def open_kernel(path: str | Path) -> StoredKernel:
    """Open a store that `kernel_store` finished; nothing but the variances is read yet.

    Args:
        path: Its folder.

    Returns:
        `.nngp` and `.ntk`, read from disk where they are indexed, with `.variance1` and `.variance2`.

    Raises:
        RunError: There is no store, or it is not finished.
        CorruptFileError: It is damaged.
    """
    place = Path(path)
    attributes = Files.attributes(place)
    if attributes is None:
        raise RunError(explain("a kernel store", "nothing", str(path), "check the path"))
    files = Files.of(place, attributes)
    if not attributes["complete"]:
        got = f"one with {len(files.finished())} of {len(files.grid.tiles)} tiles"
        raise RunError(explain("a finished store", got, str(path), "start the same computation again: it goes on"))
    group = open_group(place)
    matrices = {name: StoredMatrix(files, name) for name in files.kernels}
    try:
        variance1, variance2 = group["variance1"][:], group["variance2"][:]
    except ValueError as error:
        remedy = "start the computation again with the same arguments"
        raise CorruptFileError(explain("whole variances", str(error), str(path), remedy)) from error
    return StoredKernel(files, matrices.get("nngp"), matrices.get("ntk"), variance1, variance2, attributes["facts"])


def _selected(part: Any, count: int) -> np.ndarray:
    """Positions that an index along one axis selects."""
    return np.atleast_1d(np.arange(count)[part])


def _is_number(part: Any) -> bool:
    """Whether an index takes one position, and its axis with it."""
    return not isinstance(part, slice) and np.ndim(part) == 0
