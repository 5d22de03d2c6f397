"""A symmetric matrix as its lower triangle of square tiles: half the memory, in RAM or in a mapped file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.available_memory import available_memory
from pluriform.errors import CorruptFileError, MemoryBudgetError, ShapeError, explain

__all__ = ["PackedTiles", "TileStore", "Tiling"]


@dataclass(frozen=True)
class Tiling:
    """How the rows of a matrix are dealt to tiles; the last one may be smaller.

    Attributes:
        samples: Rows and columns of the matrix.
        side: Rows and columns of a tile.
    """

    samples: int
    side: int = 1024

    def __post_init__(self) -> None:
        if self.samples < 1 or self.side < 1:
            got = f"{self.samples} samples in tiles of {self.side}"
            raise ShapeError(explain("samples and side of 1 or more", got, "Tiling", "give another side"))

    @property
    def count(self) -> int:
        """Tiles on a side."""
        return -(-self.samples // self.side)

    @property
    def entries(self) -> int:
        """Numbers in all tiles on and below the diagonal."""
        return self.offset(self.count)

    def rows(self, i: int) -> slice:
        """Rows of the matrix that block `i` covers."""
        return slice(i * self.side, min((i + 1) * self.side, self.samples))

    def height(self, i: int) -> int:
        """Rows in block `i`."""
        return min(self.side, self.samples - i * self.side)

    def offset(self, i: int) -> int:
        """Numbers in all tiles above block row `i`."""
        full = min(i, self.samples // self.side)
        whole = full * (full + 1) // 2 * self.side**2
        return whole if full == i else whole + self.height(full) * self.samples


@runtime_checkable
class TileStore(Protocol):
    """Where tiles `(i, j)`, `j <= i`, lie. `PackedTiles` is one; an array store on disk needs these three members."""

    @property
    def tiling(self) -> Tiling:
        """How rows are dealt to tiles."""
        ...

    def get(self, i: int, j: int) -> Tensor:
        """Tile `(i, j)`, float64, `(height(i), height(j))`; its reader may overwrite it before `set`."""
        ...

    def set(self, i: int, j: int, tile: Tensor) -> None:
        """Store tile `(i, j)`."""
        ...


@dataclass(frozen=True, eq=False)
class PackedTiles:
    """All tiles on and below the diagonal, one after the other in one flat float64 buffer.

    Attributes:
        tiling: How rows are dealt to tiles.
        buffer: `(tiling.entries,)`; ordinary memory, or a mapped file.

    Example:
        >>> tiles = PackedTiles.of(torch.eye(5), side=2)
        >>> tiles.tiling.count, tiles.get(2, 1), len(tiles.buffer)
        (3, tensor([[0., 0.]], dtype=torch.float64), 17)
    """

    tiling: Tiling
    buffer: Float[Tensor, "entries"]

    @staticmethod
    def empty(
        samples: int, side: int = 1024, path: str | Path | None = None, device: torch.device | str = "cpu"
    ) -> "PackedTiles":
        """Tiles of unset values in memory, or zeros in a new file that is mapped.

        Args:
            samples: Rows of the matrix.
            side: Rows of a tile. Three tiles should fit the memory beside the buffer; below 512 products slow down.
            path: The file, `8 * entries` bytes; `None` for memory. An existing file of that size is opened as it is.
            device: Whose memory, where `path` is `None`.

        Raises:
            MemoryBudgetError: The buffer would not fit the memory.
            CorruptFileError: The file has another size.
        """
        tiling = Tiling(samples, side)
        if path is None:
            if torch.device(device).type == "cpu":
                _check(tiling)
            return PackedTiles(tiling, torch.empty(tiling.entries, dtype=torch.float64, device=device))
        place, size = Path(path), 8 * tiling.entries
        if place.exists() and place.stat().st_size != size:
            got = f"one of {place.stat().st_size:,}"
            raise CorruptFileError(
                explain(f"a file of {size:,} bytes", got, str(place), "give another path, or delete it")
            )
        return PackedTiles(tiling, torch.from_file(str(place), shared=True, size=tiling.entries, dtype=torch.float64))

    @staticmethod
    def of(gram: Float[Tensor, "n n"], side: int = 1024, path: str | Path | None = None) -> "PackedTiles":
        """The lower triangle of a matrix that is at hand whole."""
        made = PackedTiles.empty(len(gram), side, path, gram.device)
        for i in range(made.tiling.count):
            for j in range(i + 1):
                made.set(i, j, gram[made.tiling.rows(i), made.tiling.rows(j)])
        return made

    def get(self, i: int, j: int) -> Tensor:
        """Tile `(i, j)` as a view."""
        height, width = self.tiling.height(i), self.tiling.height(j)
        start = self.tiling.offset(i) + height * self.tiling.side * j
        return self.buffer[start : start + height * width].view(height, width)

    def set(self, i: int, j: int, tile: Tensor) -> None:
        """Store tile `(i, j)`; costs nothing when it is the view that `get` gave."""
        place = self.get(i, j)
        if tile.data_ptr() != place.data_ptr():
            place.copy_(tile)


def _check(tiling: Tiling) -> None:
    needed, available = 8 * (tiling.entries + 3 * tiling.side**2), available_memory()
    if needed > 0.9 * available:
        raise MemoryBudgetError(
            explain(
                f"at most {0.9 * available / 2**20:,.0f} MiB (90 % of what is available)",
                f"{needed / 2**20:,.0f} MiB for the packed triangle of {tiling.samples:,} samples",
                "PackedTiles",
                "give path= to keep it in a mapped file",
            )
        )
