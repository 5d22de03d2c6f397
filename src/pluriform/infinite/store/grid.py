"""`Grid`: how the pairs of a kernel are dealt to tiles."""

from dataclasses import dataclass

from pluriform.errors import ConfigError, explain

__all__ = ["Grid", "Tile"]


@dataclass(frozen=True)
class Tile:
    """One block of the matrix, by its place in the grid."""

    i: int
    j: int


@dataclass(frozen=True)
class Grid:
    """Tiles of an `n1 x n2` matrix; those of the last row and column may be smaller.

    Attributes:
        n1: Rows of the matrix.
        n2: Columns.
        side: Rows and columns of a tile.
        symmetric: Only tiles with `i <= j` are computed.

    Example:
        >>> grid = Grid(5, 5, 2, symmetric=True)
        >>> len(grid.tiles), grid.rows(2), grid.pairs(Tile(0, 2)), grid.pairs(Tile(0, 0))
        (6, slice(4, 5, None), 2, 3)
    """

    n1: int
    n2: int
    side: int
    symmetric: bool

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ConfigError(explain("a tile of 1 sample or more", f"{self.side}", "tile", "give another tile"))

    @property
    def counts(self) -> tuple[int, int]:
        """Tiles down and across."""
        return -(-self.n1 // self.side), -(-self.n2 // self.side)

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles that are computed, row by row."""
        down, across = self.counts
        return tuple(Tile(i, j) for i in range(down) for j in range(i if self.symmetric else 0, across))

    def rows(self, i: int) -> slice:
        """Rows of the matrix in tiles `(i, j)`."""
        return slice(i * self.side, min((i + 1) * self.side, self.n1))

    def columns(self, j: int) -> slice:
        """Columns of the matrix in tiles `(i, j)`."""
        return slice(j * self.side, min((j + 1) * self.side, self.n2))

    def pairs(self, tile: Tile) -> int:
        """Pairs of samples to compute; each once, so that a diagonal tile of a symmetric matrix has about half."""
        height = self.rows(tile.i).stop - self.rows(tile.i).start
        width = self.columns(tile.j).stop - self.columns(tile.j).start
        return height * (height + 1) // 2 if self.symmetric and tile.i == tile.j else height * width
