"""A chain of layers as the arrays that the kernels interpret."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from pluriform.fused.chain import Bending, Layer, Pooling, Product, Shape, chain_of
from pluriform.fused.code import Bend, Column, Item, Opcode
from pluriform.fused.geometry import back_items, forward_items, pool_items, taps

__all__ = ["Program", "compile_program"]

MONOTONE = (Bend.LEAKY, Bend.ELU, Bend.TANH, Bend.SIGMOID)
MOST_LANES = 40


@dataclass(frozen=True, eq=False)
class Program:
    """Steps of a network.

    Attributes:
        steps: `(steps, columns)`.
        numbers: `(steps, 2)`: slope of a nonlinearity, scale of an average.
        items: `(items, 5)`; number k of the first ones is a sum over 8 k samples.
        taps: `(tiles, 12)`.
        names: Parameters in the order of their numbers.
        sizes: Numbers in each.
        shape: Of the inputs: channels, height, width.
        border: Zeros around the inputs: rows and columns, at each side.
        places: Numbers a sample of all values.
        flow: Place of the gradient that is passed on.
        spare: Place of a copy of what overlapping windows read.
        turned: Longest row of a matrix of samples by features.
        outputs: Number of outputs.
        products: Multiplications a sample, forward.
    """

    steps: np.ndarray
    numbers: np.ndarray
    items: np.ndarray
    taps: np.ndarray
    names: tuple[str, ...]
    sizes: np.ndarray
    shape: Shape
    border: tuple[int, int]
    places: int
    flow: int
    spare: int
    turned: int
    outputs: int
    products: int


def compile_program(module: nn.Module, example: Tensor) -> Program:
    """The program of a network.

    Args:
        module: In the mode in which it shall be computed.
        example: One input at least.

    Raises:
        NotFused: The network is not a chain that this engine computes.
    """
    shape, layers = chain_of(module, example)
    border = layers[0].padding if isinstance(layers[0], Product) else (0, 0)
    if any(border):
        layers = [replace(layers[0], padding=(0, 0)), *layers[1:]]
    inside = (shape[0], shape[1] + 2 * border[0], shape[2] + 2 * border[1])
    return _Assembly(inside).program(_swapped(layers), shape, border)


def _swapped(layers: list[Layer]) -> list[Layer]:
    """Increasing nonlinearities after the largest of a window, where there are fewer numbers."""
    layers = list(layers)
    for _ in layers:
        for i, (one, two) in enumerate(itertools.pairwise(layers)):
            if isinstance(one, Bending) and one.kind in MONOTONE and isinstance(two, Pooling) and two.largest:
                layers[i : i + 2] = [two, replace(one, shape=two.shape)]
    return layers


class _Assembly:
    """The arrays of a program in the making."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.source, self.places = -1, 0
        self.items = [np.array([[0, 0, 0, 1, 8 * k] for k in range(MOST_LANES // 8 + 1)])]
        self.taps: list[np.ndarray] = []
        self.steps: list[np.ndarray] = []
        self.numbers: list[tuple[float, float]] = []
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.products, self.turned = 0, 0

    def program(self, layers: list[Layer], shape: Shape, border: tuple[int, int]) -> Program:
        slopes = 1.0
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, Product):
                self._product(layer)
            elif isinstance(layer, Pooling):
                self._pool(layer, slopes)
                slopes = 1.0
            elif layer.kind is Bend.LEAKY and isinstance(after, Pooling) and not after.largest and slopes == 1.0:
                slopes = layer.slope  # Taken by the pool.
            else:
                self._bend(layer, isinstance(after, Product))
        largest = max(math.prod(step[[Column.CHANNELS, Column.AREA]]) for step in self.steps)
        flow, spare = self.places, self.places + int(largest)
        self._gradients(flow)
        return Program(
            np.array(self.steps),
            np.array(self.numbers, np.float32),
            np.concatenate(self.items).astype(np.int64),
            np.concatenate([*self.taps, np.zeros((1, 12), np.int64)]).astype(np.int64),
            tuple(self.names),
            np.array(self.sizes, np.int64),
            shape,
            border,
            spare + int(largest),
            flow,
            spare,
            self.turned,
            self.shape[0],
            self.products,
        )

    def _step(self, opcode: Opcode, result: Shape, target: int) -> np.ndarray:
        step = np.zeros(Column.END, np.int64)
        step[Column.OPCODE], step[Column.SOURCE], step[Column.TARGET] = opcode, self.source, target
        step[Column.CHANNELS], step[Column.AREA] = self.shape[0], self.shape[1] * self.shape[2]
        step[Column.CHANNELS_OUT], step[Column.AREA_OUT] = result[0], result[1] * result[2]
        step[Column.WIDTH_OUT] = result[2]
        self.steps.append(step)
        self.numbers.append((0.0, 0.0))
        self.source, self.shape = target, result
        return step

    def _place(self, shape: Shape) -> int:
        place = self.places
        self.places += math.prod(shape)
        return place

    def _add(self, step: np.ndarray, items: np.ndarray, first: Column) -> None:
        step[first] = sum(map(len, self.items))
        step[first + 1] = step[first] + len(items)
        self.items.append(items)

    def _parameter(self, name: str, size: int) -> int:
        self.names.append(name)
        self.sizes.append(size)
        return len(self.names) - 1

    def _product(self, layer: Product) -> None:
        if layer.flat:
            self.shape = (math.prod(self.shape), 1, 1)
        before, result = self.shape, layer.shape
        channels, area, area_out = before[0], before[1] * before[2], result[1] * result[2]
        height, width = layer.kernel
        cells, fan_in = height * width, height * width * channels
        step = self._step(Opcode.PRODUCT, result, self._place(result))
        step[Column.WEIGHT] = self._parameter(layer.weight, layer.outputs * fan_in)
        step[Column.BIAS] = -1 if layer.bias is None else self._parameter(layer.bias, layer.outputs)
        (sy, sx), (dy, dx) = layer.stride, layer.dilation
        step[Column.ROW], step[Column.ROW_BACK] = fan_in, cells
        axes, back = slice(Column.AXES, Column.AXES + 6), slice(Column.AXES_BACK, Column.AXES_BACK + 6)
        forward, backward = forward_items(layer, before), back_items(layer, before)
        if cells == 1:
            step[axes], step[Column.COUNT] = (0, 0, 1, 0, 0, area), 1
            step[back], step[Column.COUNT_BACK] = (0, 0, channels, 0, 0, area_out), 1
            forward[:, Item.COLUMNS] *= channels
            backward[:, Item.COLUMNS] *= layer.outputs
        else:
            step[axes], step[Column.COUNT] = (cells, width, 1, area, before[2] * dy, dx), channels
            # With a stride every stride-th cell of the filter, and neighbouring outputs.
            outputs = (-result[2] * (dy if sy == 1 else 1), -(dx if sx == 1 else 1))
            step[back], step[Column.COUNT_BACK] = (fan_in, width * sy, sx, area_out, *outputs), layer.outputs
        self._add(step, forward, Column.FIRST_ITEM)
        self._add(step, backward, Column.FIRST_BACK)
        step[Column.DENSE] = area == area_out == cells == 1
        if not step[Column.DENSE]:
            tiles = taps(layer, before)
            step[Column.FIRST_TAP] = sum(map(len, self.taps))
            step[Column.LAST_TAP] = step[Column.FIRST_TAP] + len(tiles)
            self.taps.append(tiles)
        step[Column.STEP_ROW], step[Column.STEP] = before[2] * sy, sx
        self.turned = max(self.turned, channels) if step[Column.DENSE] else self.turned
        self.products += layer.outputs * area_out * fan_in

    def _pool(self, layer: Pooling, slope: float) -> None:
        before = self.shape
        step = self._step(Opcode.MAX_POOL if layer.largest else Opcode.AVG_POOL, layer.shape, self._place(layer.shape))
        self._add(step, pool_items(layer, before), Column.FIRST_ITEM)
        step[Column.STEP_ROW], step[Column.STEP] = before[2], 1
        step[Column.DISJOINT] = all(s >= k for k, s in zip(layer.kernel, layer.stride, strict=True))
        covered = all(
            k == s and whole == k * parts
            for k, s, whole, parts in zip(layer.kernel, layer.stride, before[1:], layer.shape[1:], strict=True)
        )
        step[Column.DISJOINT] = covered and not any(layer.padding)
        self.numbers[-1] = (slope, 1.0 / math.prod(layer.kernel))

    def _bend(self, layer: Bending, before_product: bool) -> None:
        """In place where its numbers before are not needed: its derivative then follows from those after."""
        inside = before_product and layer.kind in MONOTONE and self.source >= 0
        step = self._step(Opcode.ACTIVATION, self.shape, self.source if inside else self._place(self.shape))
        step[Column.KIND] = layer.kind
        self.numbers[-1] = (layer.slope, 0.0)

    def _gradients(self, flow: int) -> None:
        """Where each gradient lies, from the last step to the first product."""
        place, first = self.source, next(i for i, s in enumerate(self.steps) if s[Column.OPCODE] == Opcode.PRODUCT)
        for i in range(len(self.steps) - 1, -1, -1):
            step = self.steps[i]
            step[Column.GRADIENT] = place
            step[Column.BACK] = i > first
            place = flow if step[Column.OPCODE] == Opcode.PRODUCT else int(step[Column.SOURCE])
