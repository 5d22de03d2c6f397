"""Windows of random search: their schedule, their shape, their bumps and their random places."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pluriform.attacks.noise import bits
from pluriform.axes import Inputs

__all__ = ["Draws", "Grid", "blocks", "bump", "draw", "fingerprint", "window_fraction", "window_shape"]

LONG_SCHEDULE = 10_000
CHANGES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SIGNS = 62
BLOCK = 64


@dataclass(frozen=True)
class Grid:
    """The planes that windows lie on.

    Attributes:
        channels: Planes that a window covers at once.
        height: Rows; 1 for sequences and vectors.
        width: Columns.
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Grid":
        """Of one input: `(channels, height, width)`, `(channels, length)` or `(length,)`."""
        return cls(*((1, 1, *shape) if len(shape) == 1 else (shape[0], 1, shape[1]) if len(shape) == 2 else shape))

    def offsets(self, shape: tuple[int, int], device: torch.device) -> Int[Tensor, "cells"]:
        """Places of the cells of a window relative to its first, in a flat plane."""
        rows, columns = (torch.arange(side, device=device) for side in shape)
        return (rows[:, None] * self.width + columns).flatten()


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of some queries.

    Attributes:
        first: Flat place of the first cell of a window.
        second: The same for another window.
        signs: 0 or 1 for each channel.
        turned: 0 or 1.
    """

    first: Int[Tensor, "queries batch"]
    second: Int[Tensor, "queries batch"]
    signs: Int[Tensor, "queries batch channels"]
    turned: Int[Tensor, "queries batch"]


def window_fraction(query: int, fraction: float | int = 0.8, queries: int | None = None) -> float:
    """The part of the values inside the window of a query: `fraction` halved after 10, 50, 200, ... 8,000 queries.

    Args:
        query: 0 for the first after the start.
        fraction: At first.
        queries: Budget that the schedule, made for 10,000, is stretched to; as published unless given.
    """
    place = query if queries is None else int(query * LONG_SCHEDULE / queries)
    return fraction / 2 ** sum(place > change for change in CHANGES)


def window_shape(part: float | int, grid: Grid, odd: bool = False) -> tuple[int, int]:
    """Rows and columns of a square window over `part` of an image, or of a block of a single row.

    Args:
        part: Of the values, inside the window.
        grid: That the window must fit in.
        odd: Sides that are odd and at least 3, where the grid allows.

    Example:
        >>> window_shape(0.8, Grid(3, 32, 32)), window_shape(0.05, Grid(1, 1, 100))
        ((29, 29), (1, 5))
    """
    line = grid.height == 1
    cells = part * grid.height * grid.width
    side = max(round(cells if line else math.sqrt(cells)), 3 if odd else 1)
    side = min(side + (odd and side % 2 == 0), grid.width if line else min(grid.height, grid.width))
    return (1, side) if line else (side, side)


def bump(shape: tuple[int, int]) -> Float[Tensor, "2 rows columns"]:
    """Two opposite halves of nested rectangles of weights `1 / (k + 1)^2`, of unit norm; and the same turned."""
    rows, columns = shape
    if rows == 1:
        line = _halves(columns, 1).T
        return torch.stack([line, line.flip(1)])
    halves = _halves(rows, columns)
    return torch.stack([halves, halves.T])


def blocks(queries: int) -> Iterator[range]:
    """Queries 1, 2-3, 4-7, ... and then 64 at a time: between them, samples that have fallen are left out."""
    first = 1
    while first < queries:
        yield range(first, min(first + min(first, BLOCK), queries))
        first += min(first, BLOCK)


def fingerprint(inputs: Inputs, seed: int, stream: int) -> Float[Tensor, "batch 2"]:
    """Two numbers for each sample that its further random numbers are drawn from, instead of all its values."""
    return (bits(inputs, 2, seed, stream) >> 40).float()


def draw(prints: Inputs, grid: Grid, shapes: list[tuple[int, int]], seed: int, stream: int) -> Draws:
    """Random numbers of consecutive queries.

    Args:
        prints: Fingerprints of the samples.
        grid: That the windows lie on.
        shapes: Of the window of each query.
        seed: Source of the draw.
        stream: Tells draws apart, for instance the number of the first query.
    """
    words = 2 + math.ceil(grid.channels / SIGNS)
    drawn = bits(prints, words * len(shapes), seed, stream).view(len(prints), len(shapes), words).transpose(0, 1)
    room = torch.tensor([(grid.height - rows + 1, grid.width - columns + 1) for rows, columns in shapes])
    down, right = room.to(prints.device)[:, :, None].unbind(1)
    mask = (1 << 31) - 1
    first, second = (
        (((word >> 31 & mask) * down) >> 31) * grid.width + (((word & mask) * right) >> 31)
        for word in drawn[:, :, :2].unbind(2)
    )
    channel = torch.arange(grid.channels, device=prints.device)
    signs = (drawn[:, :, 2 + channel // SIGNS] >> channel % SIGNS) & 1
    return Draws(first, second, signs, (drawn[:, :, 2] >> SIGNS) & 1)


def _halves(rows: int, columns: int) -> Tensor:
    both = torch.cat([_nested(rows // 2, columns), -_nested(rows - rows // 2, columns)])
    return both / both.norm()


def _nested(rows: int, columns: int) -> Tensor:
    """The sum of all rectangles that a cell lies in, `sum_{k >= m} 1 / (k + 1)^2` at Chebyshev distance `m`."""
    down = (torch.arange(rows) - rows // 2).abs()
    right = (torch.arange(columns) - columns // 2).abs()
    weights = 1.0 / torch.arange(1, max(rows // 2, columns // 2) + 2) ** 2
    sums = weights.flip(0).cumsum(0).flip(0)[torch.maximum(down[:, None], right)]
    return sums / sums.norm().clamp_min(torch.finfo(torch.float32).tiny)
