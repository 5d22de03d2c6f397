"""A plan as engine steps on nodes: which of the engine's operations serves each rule, or that one has none."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pluriform.infinite.activation.erf import Erf
from pluriform.infinite.activation.gelu import Gelu
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.rule import activation
from pluriform.infinite.activation.trigonometric import Sine
from pluriform.infinite.branch import concatenate, identity, product, residual_sum, scale
from pluriform.infinite.dropout import dropout
from pluriform.infinite.engine.code import Number, Opcode
from pluriform.infinite.linear import LayerVariances, linear
from pluriform.infinite.norm import affine, layer_norm
from pluriform.infinite.plan import Plan, Step
from pluriform.infinite.spatial import Window, convolution, flatten, pad, pooling, respatial, transpose

__all__ = ["Extent", "Instruction", "NotFused", "Reading", "read"]

Extent = tuple[int, int]
POINT: Extent = (1, 1)


class NotFused(Exception):  # noqa: N818
    """The engine has no operation for a rule; the plain propagation has. Never leaves this room."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """One engine step on named nodes.

    Attributes:
        opcode: What to do.
        out: Name of the result.
        inputs: Names that it reads.
        windows: Of a convolution, rows first.
        matrices: Of a pooling, `(out, in)`, rows first.
        numbers: Real parameters.
        whole: Over all positions (norms), or all positions alike (dropout).
        centre: A sum over equal positions only.
    """

    opcode: Opcode
    out: str
    inputs: tuple[str, ...]
    windows: tuple[Window, ...] = ()
    matrices: tuple[Tensor, ...] = ()
    numbers: dict[Number, float] = field(default_factory=dict)
    whole: bool = False
    centre: bool = False


@dataclass(frozen=True, eq=False)
class Reading:
    """All instructions in order, with the extent of every node; vectors have the extent `(1, 1)`.

    Attributes:
        instructions: In order.
        extents: Rows and columns of every node.
        features: Channels of the deterministic nodes.
        channel_axes: Where those have their channels, 1 or -1; 0 for vectors.
        output: The node that all is for.
    """

    instructions: tuple[Instruction, ...]
    extents: dict[str, Extent]
    features: dict[str, int]
    channel_axes: dict[str, int]
    output: str


def read(plan: Plan, shapes: dict[str, tuple[int, ...]]) -> Reading:
    """Read every step of a plan.

    Args:
        plan: The network.
        shapes: Shapes of the deterministic nodes on an example, the axis of samples left out.

    Raises:
        NotFused: A rule, one of its facts, or more than two spatial axes have no counterpart here.
    """
    reader = _Reader(plan, shapes)
    for step in plan.steps:
        reader.step(step)
    name = reader.alias.get(plan.steps[-1].name, plan.steps[-1].name)
    if reader.extents[name] != POINT:
        raise NotFused("output with positions")
    return Reading(tuple(reader.instructions), reader.extents, reader.features, reader.axes, name)


class _Reader:
    """Instructions so far, and what is known of nodes."""

    def __init__(self, plan: Plan, shapes: dict[str, tuple[int, ...]]) -> None:
        self.instructions: list[Instruction] = []
        self.extents: dict[str, Extent] = {}
        self.alias: dict[str, str] = {}
        self.features: dict[str, int] = {}
        self.axes: dict[str, int] = {}
        self.mixed: set[str] = set()
        for step in plan.steps:
            for name in step.inputs:
                if name in shapes and name not in self.features:
                    self._feature(name, shapes[name], step.channel_axis or 1)

    def _feature(self, name: str, shape: tuple[int, ...], axis: int) -> None:
        spatial = shape[1:] if axis == 1 else shape[:-1]
        self.extents[name], self.axes[name] = _extent(spatial), axis if spatial else 0
        self.features[name] = shape[0] if axis == 1 else shape[-1]

    def step(self, step: Step) -> None:
        """Read one step."""
        function, facts = (step.rule.func, step.rule.keywords) if isinstance(step.rule, partial) else (step.rule, {})
        reading = READINGS.get(function)
        if reading is None or (isinstance(step.rule, partial) and step.rule.args):
            raise NotFused(getattr(function, "__name__", "a rule"))
        inputs = tuple(self.alias.get(name, name) for name in step.inputs)
        if any(self.axes.get(name, 0) not in (0, step.channel_axis or 1) for name in inputs):
            raise NotFused("channels at two places")
        if step.bends and any(name in self.mixed for name in inputs):
            raise NotFused("a nonlinearity of units that are not alike")
        if not step.weighted and any(name in self.mixed for name in inputs):
            self.mixed.add(step.name)
        try:
            reading(self, step.name, inputs, **facts)
        except TypeError as error:  # a fact that this reading does not know
            raise NotFused(str(error)) from error

    def add(self, opcode: Opcode, out: str, inputs: tuple[str, ...], extent: Extent, **facts: Any) -> None:
        """Append an instruction."""
        self.extents[out] = extent
        self.instructions.append(Instruction(opcode, out, inputs, **facts))

    def same(self, out: str, inputs: tuple[str, ...]) -> None:
        """The output is the input."""
        self.alias[out] = inputs[0]

    def affine(self, out: str, inputs: tuple[str, ...], *amounts: float | Tensor) -> None:
        """`K' = w K + b`, `T' = w_T T + g K + g_b`."""
        numbers = [_number(amount) for amount in amounts]
        names = (Number.WEIGHT, Number.BIAS, Number.TANGENT_WEIGHT, Number.RATE, Number.BIAS_RATE)
        self.add(Opcode.AFFINE, out, inputs, self.extents[inputs[0]], numbers=dict(zip(names, numbers, strict=True)))


def _extent(spatial: Sequence[int]) -> Extent:
    if math.prod(spatial) == 1:
        return POINT
    if len(spatial) > 2:
        raise NotFused("more than two spatial axes")
    rows, columns = (1, *spatial)[-2:]
    return rows, columns


def _number(amount: float | Tensor) -> float:
    if isinstance(amount, Tensor) and amount.requires_grad:
        raise NotFused("a variance with gradients")
    return float(amount)


def _linear(reader: _Reader, out: str, inputs: tuple[str, ...], layer: LayerVariances) -> None:
    reader.affine(out, inputs, layer.weight, layer.bias, layer.weight, layer.weight_rate, layer.bias_rate)


def _convolution(
    reader: _Reader, out: str, inputs: tuple[str, ...], windows: tuple[Window, ...], layer: LayerVariances
) -> None:
    extent = reader.extents[inputs[0]]
    windows = windows if len(windows) == 2 else (Window(1), *windows)
    if len(windows) != 2 or any(w.mode != "zeros" and any(w.padding) for w in windows):
        raise NotFused("padding that is not zero")
    after = tuple(
        (size + sum(w.padding) - w.dilation * (w.size - 1) - 1) // w.stride + 1
        for size, w in zip(extent, windows, strict=True)
    )
    if all(w.size == 1 and w.stride == 1 and not any(w.padding) for w in windows):
        _linear(reader, out, inputs, layer)
        return
    if extent == POINT:
        raise NotFused("a window on a single position")
    taps = windows[0].size * windows[1].size
    weight, bias, rate, bias_rate = map(_number, (layer.weight, layer.bias, layer.weight_rate, layer.bias_rate))
    numbers = {
        Number.WEIGHT: weight / taps,
        Number.BIAS: bias,
        Number.TANGENT_WEIGHT: weight / taps,
        Number.RATE: rate / taps,
        Number.BIAS_RATE: bias_rate,
    }
    _to_positions(reader, Opcode.CONVOLUTION, out, inputs, after, windows=windows, numbers=numbers)


def _to_positions(reader: _Reader, opcode: Opcode, out: str, inputs: tuple[str, ...], after: Any, **facts: Any) -> None:
    """Append a step whose output keeps its positions: one that ends in a single position is left to the plain path."""
    if math.prod(after) == 1:
        raise NotFused("a window that leaves a single position")
    reader.add(opcode, out, inputs, (after[0], after[1]), **facts)


def _pad(reader: _Reader, out: str, inputs: tuple[str, ...], padding: tuple[tuple[int, int], ...], mode: str) -> None:
    sides = padding if len(padding) == 2 else ((0, 0), *padding)
    if mode != "zeros" or len(sides) != 2:
        raise NotFused("padding that is not zero")
    extent = reader.extents[inputs[0]]
    after = tuple(size + sum(pair) for size, pair in zip(extent, sides, strict=True))
    windows = tuple(Window(1, 1, 1, pair) for pair in sides)
    numbers = {Number.WEIGHT: 1.0, Number.TANGENT_WEIGHT: 1.0}
    _to_positions(reader, Opcode.CONVOLUTION, out, inputs, after, windows=windows, numbers=numbers)


def _pooling(
    reader: _Reader,
    out: str,
    inputs: tuple[str, ...],
    matrices: tuple[Tensor, ...],
    spatial: tuple[int, ...] | None = None,
) -> None:
    extent = reader.extents[inputs[0]]
    both = matrices if len(matrices) == 2 else (torch.ones(1, 1, dtype=torch.float64), *matrices)
    if extent == POINT:
        weight = math.prod(float(matrix.sum()) for matrix in both) ** 2
        if any(matrix.shape != (1, 1) for matrix in both):
            raise NotFused("a pooling that repeats a position")
        reader.affine(out, inputs, weight, 0.0, weight, 0.0, 0.0)
        return
    after = tuple(len(matrix) for matrix in both)
    if len(both) != 2 or (spatial is not None and math.prod(spatial) > 1 and _extent(spatial) != after):
        raise NotFused("a pooling over other axes")
    if math.prod(after) > 1:
        reader.add(Opcode.POOL, out, inputs, (after[0], after[1]), matrices=both)
        return
    if any(bool((matrix != matrix[0, 0]).any()) for matrix in both):
        raise NotFused("a weighted mean")
    weight = math.prod(float(matrix[0, 0]) for matrix in both) ** 2
    reader.add(Opcode.MEAN, out, inputs, POINT, numbers={Number.SCALE: weight})


def _flatten(reader: _Reader, out: str, inputs: tuple[str, ...]) -> None:
    extent = reader.extents[inputs[0]]
    if extent == POINT:
        reader.same(out, inputs)
        return
    reader.add(Opcode.MEAN, out, inputs, POINT, numbers={Number.SCALE: 1 / math.prod(extent)}, centre=True)


def _respatial(reader: _Reader, out: str, inputs: tuple[str, ...], spatial: tuple[int, ...]) -> None:
    if _extent(spatial) != reader.extents[inputs[0]]:
        raise NotFused("rows for columns")
    reader.same(out, inputs)


def _transpose(reader: _Reader, out: str, inputs: tuple[str, ...], dims: tuple[int, ...], where: str) -> None:
    del where
    if [dim for dim in dims if dim not in (1, dims[-1])] != sorted(dim for dim in dims if dim not in (1, dims[-1])):
        raise NotFused("positions in another order")
    if dims != (0, *range(2, len(dims)), 1) and dims != (0, len(dims) - 1, *range(1, len(dims) - 1)):
        raise NotFused("positions in another order")
    reader.same(out, inputs)


def _activation(reader: _Reader, out: str, inputs: tuple[str, ...], dual: Any) -> None:
    extent = reader.extents[inputs[0]]
    if isinstance(dual, Abrelu):
        a, b = dual.negative, dual.positive
        numbers = {Number.TURN: (a - b) ** 2 / (2 * math.pi), Number.HALF: (a * a + b * b) / 2}
        numbers |= {Number.WEIGHT: 1.0, Number.TANGENT_WEIGHT: 1.0}
        reader.add(Opcode.BEND, out, inputs, extent, numbers=numbers)
    elif dual == Erf():
        reader.add(Opcode.ERF, out, inputs, extent)
    elif dual == Gelu():
        reader.add(Opcode.GELU, out, inputs, extent)
    elif isinstance(dual, Sine) and dual == Sine(phase=dual.phase):
        reader.add(Opcode.SINE, out, inputs, extent, numbers={Number.PHASE: math.cos(2 * dual.phase)})
    else:
        raise NotFused(type(dual).__name__)


def _chain(reader: _Reader, opcode: Opcode, out: str, inputs: tuple[str, ...], shares: list[float]) -> None:
    """A join of several branches, two at a time."""
    if len({reader.extents[name] for name in inputs}) > 1:
        raise NotFused("branches of different extents")
    left, extent = inputs[0], reader.extents[inputs[0]]
    for position, right in enumerate(inputs[1:], 1):
        name = out if position == len(inputs) - 1 else f"{out}:{position}"
        weight = shares[0] if position == 1 else 1.0
        numbers = {Number.WEIGHT: weight, Number.BIAS: shares[position]}
        reader.add(opcode, name, (left, right), extent, numbers=numbers)
        left = name


def _sum(reader: _Reader, out: str, inputs: tuple[str, ...]) -> None:
    _chain(reader, Opcode.ADD, out, inputs, [1.0] * len(inputs))


def _product(reader: _Reader, out: str, inputs: tuple[str, ...]) -> None:
    _chain(reader, Opcode.MULTIPLY, out, inputs, [1.0] * len(inputs))


def _concatenate(reader: _Reader, out: str, inputs: tuple[str, ...], widths: Sequence[int]) -> None:
    reader.mixed.add(out)
    _chain(reader, Opcode.MIX, out, inputs, [width / sum(widths) for width in widths])


def _layer_norm(
    reader: _Reader,
    out: str,
    inputs: tuple[str, ...],
    eps: float,
    over_positions: bool,
    weight_rate: float = 0.0,
    bias_rate: float = 0.0,
) -> None:
    numbers = {Number.SCALE: eps, Number.RATE: weight_rate, Number.BIAS_RATE: bias_rate}
    reader.add(Opcode.NORMALISE, out, inputs, reader.extents[inputs[0]], numbers=numbers, whole=over_positions)


def _affine(reader: _Reader, out: str, inputs: tuple[str, ...], square: float, shift: float, alike: bool) -> None:
    del alike
    reader.affine(out, inputs, square, shift, square, 0.0, 0.0)


def _scale(reader: _Reader, out: str, inputs: tuple[str, ...], factor: float) -> None:
    reader.affine(out, inputs, factor**2, 0.0, factor**2, 0.0, 0.0)


def _dropout(reader: _Reader, out: str, inputs: tuple[str, ...], keep: float, whole_channels: bool = False) -> None:
    extent = reader.extents[inputs[0]]
    reader.add(Opcode.DROPOUT, out, inputs, extent, numbers={Number.WEIGHT: 1 / keep}, whole=whole_channels)


READINGS: dict[Callable[..., Any], Callable[..., None]] = {
    linear: _linear,
    convolution: _convolution,
    pad: _pad,
    pooling: _pooling,
    flatten: _flatten,
    respatial: _respatial,
    transpose: _transpose,
    activation: _activation,
    residual_sum: _sum,
    product: _product,
    concatenate: _concatenate,
    layer_norm: _layer_norm,
    affine: _affine,
    scale: _scale,
    dropout: _dropout,
    identity: _Reader.same,
}
