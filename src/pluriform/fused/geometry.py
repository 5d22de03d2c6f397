"""Which weights meet which positions: tables of convolutions and pools."""

import itertools

import numpy as np

from pluriform.fused.chain import Pooling, Product, Shape

__all__ = ["back_items", "forward_items", "pool_items", "taps"]

Span = tuple[int, int, int]  # First position, first cell, number of cells.


def _forward(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Span]:
    """For every output, the cells of a filter that meet inputs."""
    spans = []
    for o in range(out):
        cells = [k for k in range(kernel) if 0 <= o * stride + k * dilation - padding < length]
        first = cells[0] if cells else 0
        spans.append((max(0, o * stride + first * dilation - padding) if cells else 0, first, len(cells)))
    return spans


def _back(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Span]:
    """For every input, the cells of a filter through which it meets outputs, every stride-th; outputs then decrease."""
    spans = []
    for i in range(length):
        cells = [
            k
            for k in range(kernel)
            if (i + padding - k * dilation) % stride == 0 and 0 <= (i + padding - k * dilation) // stride < out
        ]
        first = cells[0] if cells else 0
        spans.append(((i + padding - first * dilation) // stride if cells else 0, first, len(cells)))
    return spans


def _axes(layer: Product | Pooling, before: Shape) -> list[tuple[int, int, int, int, int, int]]:
    dilation = layer.dilation if isinstance(layer, Product) else (1, 1)
    return [
        (before[1 + i], layer.shape[1 + i], layer.kernel[i], layer.stride[i], layer.padding[i], dilation[i])
        for i in (0, 1)
    ]


def _crossed(rows: list[Span], columns: list[Span], width: int, cells: int) -> np.ndarray:
    """Items of all pairs of a row and a column; `width` positions and `cells` cells a row."""
    pairs = itertools.product(rows, columns)
    return np.array(
        [
            (target, row[0] * width + column[0], row[1] * cells + column[1], row[2], column[2] if row[2] else 0)
            for target, (row, column) in enumerate(pairs)
        ],
        np.int64,
    )


def forward_items(layer: Product, before: Shape) -> np.ndarray:
    """For every output position: where its inputs and weights begin, and how many."""
    rows, columns = (_forward(*axis) for axis in _axes(layer, before))
    return _crossed(rows, columns, before[2], layer.kernel[1])


def back_items(layer: Product, before: Shape) -> np.ndarray:
    """For every input position: where the gradients of its outputs begin, and how many."""
    rows, columns = (_back(*axis) for axis in _axes(layer, before))
    return _crossed(rows, columns, layer.shape[2], layer.kernel[1])


def pool_items(layer: Pooling, before: Shape) -> np.ndarray:
    """For every window: where it begins, and its size."""
    rows, columns = (_forward(*axis) for axis in _axes(layer, before))
    return _crossed(rows, columns, before[2], layer.kernel[1])


def _met(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Span]:
    """For every cell: first output and input that it meets, and how many."""
    spans = []
    for k in range(kernel):
        met = [o for o in range(out) if 0 <= o * stride + k * dilation - padding < length]
        first = met[0] if met else 0
        spans.append((first, max(0, first * stride + k * dilation - padding), len(met)))
    return spans


def taps(layer: Product, before: Shape) -> np.ndarray:
    """All weights of one output, in tiles of up to four that meet the same outputs."""
    rows, columns = (_met(*axis) for axis in _axes(layer, before))
    groups: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    height, width = layer.kernel
    area = before[1] * before[2]
    for channel, i, j in itertools.product(range(before[0]), range(height), range(width)):
        (top, y, tall), (left, x, wide) = rows[i], columns[j]
        if not tall or not wide:
            tall = wide = top = left = y = x = 0
        key = (tall, wide, top * layer.shape[2] + left)
        source = channel * area + y * before[2] + x
        groups.setdefault(key, []).append((source, (channel * height + i) * width + j))
    tiles = []
    for (tall, wide, target), members in groups.items():
        for start in range(0, len(members), 4):
            part = members[start : start + 4]
            blank = [0] * (4 - len(part))
            sources, weights = zip(*part, strict=True)
            tiles.append([len(part), tall, wide, target, *sources, *blank, *weights, *blank])
    return np.array(tiles, np.int64)
