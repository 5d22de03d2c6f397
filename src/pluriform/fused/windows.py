"""Pooling windows as vector instructions over the samples of a block, 16 or 8 at a time."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pluriform.fused.registers import at, load, pointer_to, spread, store, word

__all__ = ["average", "average_back", "largest", "largest_back"]


def _in_parts(builder: Any, lanes: Any, emit: Callable[[Any, int], None]) -> None:
    whole = builder.ashr(lanes, word(4))
    tail = builder.shl(whole, word(4))
    with cgutils.for_range(builder, whole) as loop:
        emit(builder.shl(loop.index, word(4)), 16)
    with builder.if_then(builder.icmp_signed("<", tail, lanes)):
        emit(tail, 8)


def _constant(number: float, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.FloatType(), lanes), [number] * lanes)


def _bent(builder: Any, value: Any, slope: Any) -> Any:
    """Times the slope where it is not above zero."""
    lanes = value.type.count
    above = builder.fcmp_ordered(">", value, _constant(0.0, lanes))
    return builder.select(above, value, builder.fmul(value, spread(builder, slope, lanes)))


def _positions(builder: Any, base: Any, strides: Any, lengths: Any, body: Callable[[Any], None]) -> None:
    with cgutils.for_range(builder, lengths[0]) as one, cgutils.for_range(builder, lengths[1]) as two:
        body(at(builder, base, (one.index, strides[0]), (two.index, strides[1])))


def _average(
    typing: Any, source: Any, row: Any, step: Any, rows: Any, columns: Any, target: Any, lanes: Any, scale: Any,
    slope: Any,
) -> Any:  # fmt: skip
    """`target = scale * sum of the window`, each number times the slope where it is negative."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, row, step, rows, columns, target, lanes, scale, slope = arguments
        source, target = pointer_to(builder, source), pointer_to(builder, target)

        def emit(shift: Any, n: int) -> None:
            total = cgutils.alloca_once_value(builder, _constant(0.0, n))
            builder.store(_constant(0.0, n), total)

            def add(place: Any) -> None:
                value = _bent(builder, load(builder, place, n), slope)
                builder.store(builder.fadd(builder.load(total), value), total)

            _positions(builder, builder.gep(source, [shift]), (row, step), (rows, columns), add)
            store(builder, builder.fmul(builder.load(total), spread(builder, scale, n)), builder.gep(target, [shift]))

        _in_parts(builder, lanes, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7, types.float32, types.float32), code


def _average_back(
    typing: Any, source: Any, target: Any, row: Any, step: Any, rows: Any, columns: Any, gradient: Any, lanes: Any,
    add: Any, scale: Any, slope: Any,
) -> Any:  # fmt: skip
    """`target (+)= scale * gradient`, times the slope where the source is not above zero."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, row, step, rows, columns, gradient, lanes, add, scale, slope = arguments
        source, target, gradient = (pointer_to(builder, address) for address in (source, target, gradient))
        keep = builder.icmp_signed("!=", add, word(0))
        apart = builder.sub(builder.ptrtoint(target, word(0).type), builder.ptrtoint(source, word(0).type))
        apart = builder.ashr(apart, word(2))

        def emit(shift: Any, n: int) -> None:
            flow = builder.fmul(load(builder, builder.gep(gradient, [shift]), n), spread(builder, scale, n))
            low = builder.fmul(flow, spread(builder, slope, n))

            def write(place: Any) -> None:
                above = builder.fcmp_ordered(">", load(builder, place, n), _constant(0.0, n))
                end = builder.gep(place, [apart])
                new = builder.select(above, flow, low)
                old = builder.select(keep, load(builder, end, n), _constant(0.0, n))
                store(builder, builder.fadd(old, new), end)

            _positions(builder, builder.gep(source, [shift]), (row, step), (rows, columns), write)

        _in_parts(builder, lanes, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9, types.float32, types.float32), code


def _maximum(builder: Any, base: Any, strides: Any, lengths: Any, n: int) -> Any:
    top = cgutils.alloca_once_value(builder, _constant(float("-inf"), n))
    builder.store(_constant(float("-inf"), n), top)

    def compare(place: Any) -> None:
        value, old = load(builder, place, n), builder.load(top)
        # Not-a-number wins, as in PyTorch.
        above = builder.fcmp_unordered(">", value, old)
        builder.store(builder.select(above, value, old), top)

    _positions(builder, base, strides, lengths, compare)
    return builder.load(top)


def _largest(typing: Any, source: Any, row: Any, step: Any, rows: Any, columns: Any, target: Any, lanes: Any) -> Any:
    """The largest of the window."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, row, step, rows, columns, target, lanes = arguments
        source, target = pointer_to(builder, source), pointer_to(builder, target)

        def emit(shift: Any, n: int) -> None:
            top = _maximum(builder, builder.gep(source, [shift]), (row, step), (rows, columns), n)
            store(builder, top, builder.gep(target, [shift]))

        _in_parts(builder, lanes, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), code


def _largest_back(
    typing: Any, source: Any, target: Any, row: Any, step: Any, rows: Any, columns: Any, gradient: Any, lanes: Any,
    add: Any,
) -> Any:  # fmt: skip
    """The gradient goes to the first of the largest numbers, the others get (or keep) zero."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, row, step, rows, columns, gradient, lanes, add = arguments
        source, target, gradient = (pointer_to(builder, address) for address in (source, target, gradient))
        keep = builder.icmp_signed("!=", add, word(0))
        apart = builder.sub(builder.ptrtoint(target, word(0).type), builder.ptrtoint(source, word(0).type))
        apart = builder.ashr(apart, word(2))

        def emit(shift: Any, n: int) -> None:
            base = builder.gep(source, [shift])
            top = _maximum(builder, base, (row, step), (rows, columns), n)
            left = cgutils.alloca_once_value(builder, _constant(0.0, n))
            builder.store(load(builder, builder.gep(gradient, [shift]), n), left)

            def write(place: Any) -> None:
                hit = builder.fcmp_unordered("==", load(builder, place, n), top)
                end, flow = builder.gep(place, [apart]), builder.load(left)
                builder.store(builder.select(hit, _constant(0.0, n), flow), left)
                old = builder.select(keep, load(builder, end, n), _constant(0.0, n))
                store(builder, builder.fadd(old, builder.select(hit, flow, _constant(0.0, n))), end)

            _positions(builder, base, (row, step), (rows, columns), write)

        _in_parts(builder, lanes, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9), code


average: Any = intrinsic(_average)
average_back: Any = intrinsic(_average_back)
largest: Any = intrinsic(_largest)
largest_back: Any = intrinsic(_largest_back)
