"""Inner loops as vector instructions: outputs stay in registers while their sums run.

Numba's own loops would be turned into vector code along the wrong axis or not at all, so these are written as LLVM
instructions. Pointers are addresses, strides are counted in numbers (float32).
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "at",
    "call_address",
    "dot_tile",
    "error_tile",
    "load",
    "pointer_to",
    "product_tile",
    "run_sum",
    "spread",
    "store",
    "take_task",
    "transpose_tile",
    "vector",
    "view",
    "word",
    "words",
]

FLOAT, WORD = ir.FloatType(), ir.IntType(64)
FAST = ("contract", "reassoc", "nsz")


def vector(lanes: int) -> ir.VectorType:
    """Type of so many numbers."""
    return ir.VectorType(FLOAT, lanes)


def pointer_to(builder: Any, address: Any) -> Any:
    """An address as a pointer to numbers."""
    return builder.inttoptr(address, FLOAT.as_pointer())


def load(builder: Any, pointer: Any, lanes: int) -> Any:
    """Numbers that need not be aligned."""
    return builder.load(builder.bitcast(pointer, vector(lanes).as_pointer()), align=4)


def store(builder: Any, value: Any, pointer: Any) -> None:
    """Write a vector where it need not be aligned."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def _shuffle(builder: Any, one: Any, two: Any, order: Sequence[int]) -> Any:
    return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order)))


def spread(builder: Any, number: Any, lanes: int) -> Any:
    """A vector of one number."""
    blank = ir.Constant(vector(lanes), ir.Undefined)
    one = builder.insert_element(blank, number, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, one, blank, [0] * lanes)


def _fma(builder: Any, one: Any, two: Any, three: Any) -> Any:
    kind = three.type
    name = f"llvm.fma.v{kind.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [one, two, three])


def _fetch(builder: Any, pointer: Any, *, write: bool) -> None:
    """Have a line of memory brought near: to the second cache, or to the first for writing."""
    small, byte = ir.IntType(32), ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, small, small, small]), "llvm.prefetch.p0i8"
    )
    kinds = [ir.Constant(small, number) for number in ((1, 3, 1) if write else (0, 2, 1))]
    builder.call(function, [builder.bitcast(pointer, byte), *kinds])


def at(builder: Any, pointer: Any, *terms: tuple[Any, Any]) -> Any:
    """The pointer moved by the products of indices and strides."""
    for index, stride in terms:
        pointer = builder.gep(pointer, [builder.mul(index, stride)])
    return pointer


def word(number: int) -> ir.Constant:
    """A constant integer."""
    return ir.Constant(WORD, number)


def _widths(lanes: int) -> list[tuple[int, int]]:
    """Vectors that make up the lanes, as (offset, length)."""
    return [(start, min(16, lanes - start)) for start in range(0, lanes, 16)]


def product_tile(rows: int, lanes: int) -> Any:
    """`C[r, :] = start + sum_ijk A[r, i, j, k] B[i, j, k, :]` for `rows` rows of `lanes` numbers.

    Arguments of the result: address of `A`, its strides of r, i, j, k; address of `B`, its strides of i, j, k; the
    three lengths; address of `C`, its stride of r; address of one starting number a row, and where to start: 0 at zero,
    1 at those numbers, 2 at `C`, 3 at zero where `C` is far in memory; an address that will soon be read, and the
    numbers to go on there with each step of the last axis.
    """
    parts = _widths(lanes)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, row_a, *rest = arguments
        steps_a, b, steps_b, lengths = rest[0:3], rest[3], rest[4:7], rest[7:10]
        c, row_c, starts, mode, ahead, pace = rest[10:16]
        a, b, c, starts, ahead = (pointer_to(builder, address) for address in (a, b, c, starts, ahead))
        sums = [[cgutils.alloca_once(builder, vector(n)) for _, n in parts] for _ in range(rows)]
        targets = [builder.gep(c, [builder.mul(word(r), row_c)]) for r in range(rows)]
        for r in range(rows):
            for place, (_, n) in enumerate(parts):
                builder.store(ir.Constant(vector(n), [0.0] * n), sums[r][place])
        with builder.if_then(builder.icmp_signed("==", mode, word(3))):
            for r in range(rows):
                for start, _ in parts:
                    _fetch(builder, builder.gep(targets[r], [word(start)]), write=True)
        with builder.if_then(builder.icmp_signed("==", mode, word(1))):
            for r in range(rows):
                number = builder.load(builder.gep(starts, [word(r)]), align=4)
                for place, (_, n) in enumerate(parts):
                    builder.store(spread(builder, number, n), sums[r][place])
        with builder.if_then(builder.icmp_signed("==", mode, word(2))):
            for r in range(rows):
                for place, (start, n) in enumerate(parts):
                    old = load(builder, builder.gep(targets[r], [word(start)]), n)
                    builder.store(old, sums[r][place])
        with cgutils.for_range(builder, lengths[0]) as one:
            a1 = at(builder, a, (one.index, steps_a[0]))
            b1 = at(builder, b, (one.index, steps_b[0]))
            with cgutils.for_range(builder, lengths[1]) as two:
                a2 = at(builder, a1, (two.index, steps_a[1]))
                b2 = at(builder, b1, (two.index, steps_b[1]))
                with cgutils.for_range(builder, lengths[2]) as three:
                    a3 = at(builder, a2, (three.index, steps_a[2]))
                    b3 = at(builder, b2, (three.index, steps_b[2]))
                    many = [load(builder, builder.gep(b3, [word(start)]), n) for start, n in parts]
                    with builder.if_then(builder.icmp_signed("!=", pace, word(0))):
                        _fetch(builder, at(builder, ahead, (three.index, pace)), write=False)
                    for r in range(rows):
                        number = builder.load(builder.gep(a3, [builder.mul(word(r), row_a)]), align=4)
                        for place, (_, n) in enumerate(parts):
                            old = builder.load(sums[r][place])
                            factor = spread(builder, number, n)
                            builder.store(_fma(builder, factor, many[place], old), sums[r][place])
        for r in range(rows):
            for place, (start, _) in enumerate(parts):
                store(builder, builder.load(sums[r][place]), builder.gep(targets[r], [word(start)]))
        return context.get_dummy_value()

    def typed(
        typing: Any, a: Any, row_a: Any, a0: Any, a1: Any, a2: Any, b: Any, b0: Any, b1: Any, b2: Any,
        n0: Any, n1: Any, n2: Any, c: Any, row_c: Any, starts: Any, mode: Any, ahead: Any, pace: Any,
    ) -> Any:  # fmt: skip
        return types.void(*[types.intp] * 18), code

    return intrinsic(typed)


def dot_tile(rows: int, taps: int) -> Any:
    """`C[r, t] (+)= sum over two axes and a run of numbers of A[r] B[t]`: sums over samples and positions.

    Arguments of the result: address of `A`, its strides of r and of the two axes; address of `B`, address of `taps`
    offsets into it and their unit; its strides of the two axes; both lengths, and that of the run, a multiple of 8;
    address of `C`, its stride of r, address of the offsets of t; whether to add to `C`.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, row_a, a0, a1, b, offsets, unit, b0, b1, n0, n1, run, c, row_c, places, add = arguments
        a, b, c = (pointer_to(builder, address) for address in (a, b, c))
        offsets, places = (builder.inttoptr(word, WORD.as_pointer()) for word in (offsets, places))
        starts = [builder.mul(builder.load(builder.gep(offsets, [word(t)])), unit) for t in range(taps)]
        many = [builder.gep(b, [start]) for start in starts]
        kind = vector(16)
        zero = ir.Constant(kind, [0.0] * 16)
        sums = [[cgutils.alloca_once(builder, kind) for _ in range(taps)] for _ in range(rows)]
        for row in sums:
            for place in row:
                builder.store(zero, place)

        def accumulate(shift_a: Any, shift_b: Any, lanes: int) -> None:
            def read(pointer: Any) -> Any:
                value = load(builder, pointer, lanes)
                return value if lanes == 16 else _shuffle(builder, value, ir.Constant(value.type, [0.0] * 8), range(16))

            right = [read(builder.gep(pointer, [shift_b])) for pointer in many]
            for r in range(rows):
                left = read(builder.gep(builder.gep(a, [shift_a]), [builder.mul(word(r), row_a)]))
                for t in range(taps):
                    old = builder.load(sums[r][t])
                    builder.store(_fma(builder, left, right[t], old), sums[r][t])

        whole = builder.ashr(run, word(4))
        tail = builder.shl(whole, word(4))
        with cgutils.for_range(builder, n0) as one, cgutils.for_range(builder, n1) as two:
            at_a = builder.add(builder.mul(one.index, a0), builder.mul(two.index, a1))
            at_b = builder.add(builder.mul(one.index, b0), builder.mul(two.index, b1))
            with cgutils.for_range(builder, whole) as three:
                shift = builder.shl(three.index, word(4))
                accumulate(builder.add(at_a, shift), builder.add(at_b, shift), 16)
            with builder.if_then(builder.icmp_signed("<", tail, run)):
                accumulate(builder.add(at_a, tail), builder.add(at_b, tail), 8)
        total = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOAT, [FLOAT, kind]), "llvm.vector.reduce.fadd.v16f32"
        )
        keep = builder.icmp_signed("!=", add, word(0))
        for r in range(rows):
            for t in range(taps):
                place = builder.gep(c, [builder.mul(word(r), row_c)])
                place = builder.gep(place, [builder.load(builder.gep(places, [word(t)]))])
                old = builder.select(keep, builder.load(place, align=4), ir.Constant(FLOAT, 0.0))
                value = builder.call(total, [ir.Constant(FLOAT, -0.0), builder.load(sums[r][t])], fastmath=FAST)
                builder.store(builder.fadd(old, value), place, align=4)
        return context.get_dummy_value()

    def typed(
        typing: Any, a: Any, row_a: Any, a0: Any, a1: Any, b: Any, offsets: Any, unit: Any, b0: Any, b1: Any,
        n0: Any, n1: Any, run: Any, c: Any, row_c: Any, places: Any, add: Any,
    ) -> Any:  # fmt: skip
        return types.void(*[types.intp] * 16), code

    return intrinsic(typed)


def _sum_of_eight(builder: Any) -> Any:
    """The instruction that adds the numbers of a register to one number."""
    kind = ir.FunctionType(FLOAT, [FLOAT, vector(8)])
    return cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v8f32")


def _run_sum(typing: Any, source: Any, count: Any) -> Any:
    """Sum of `count` numbers, a multiple of 8."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, count = pointer_to(builder, arguments[0]), arguments[1]
        kind = vector(8)
        sums = [cgutils.alloca_once(builder, kind) for _ in range(4)]
        for total in sums:
            builder.store(ir.Constant(kind, [0.0] * 8), total)

        def add(total: Any, place: Any) -> None:
            part = load(builder, builder.gep(source, [place]), 8)
            builder.store(builder.fadd(builder.load(total), part, flags=FAST), total)

        whole = builder.shl(builder.ashr(count, word(5)), word(5))
        with cgutils.for_range(builder, builder.ashr(count, word(5))) as loop:
            for k, total in enumerate(sums):
                add(total, builder.add(builder.shl(loop.index, word(5)), word(8 * k)))
        with cgutils.for_range(builder, builder.ashr(builder.sub(count, whole), word(3))) as loop:
            add(sums[0], builder.add(whole, builder.shl(loop.index, word(3))))
        one, two, three, four = (builder.load(total) for total in sums)
        both = builder.fadd(builder.fadd(one, two), builder.fadd(three, four))
        return builder.call(_sum_of_eight(builder), [ir.Constant(FLOAT, -0.0), both], fastmath=FAST)

    return types.float32(types.intp, types.intp), code


run_sum: Any = intrinsic(_run_sum)


def _turned(builder: Any, lines: list[Any]) -> list[Any]:
    """Eight registers of eight numbers as a matrix, transposed."""
    for half in (1, 2, 4):
        low = [j if not j & half else 8 + j - half for j in range(8)]
        high = [j + half if not j & half else 8 + j for j in range(8)]
        made: list[Any] = list(lines)
        for i in range(8):
            if not i & half:
                made[i] = _shuffle(builder, lines[i], lines[i + half], low)
                made[i + half] = _shuffle(builder, lines[i], lines[i + half], high)
        lines = made
    return lines


def _transpose_tile(typing: Any, source: Any, row_in: Any, target: Any, row_out: Any) -> Any:
    """`target[j, i] = source[i, j]` for 8 rows of 8 numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, row_in, end, row_out = arguments
        start, end = pointer_to(builder, start), pointer_to(builder, end)
        lines = _turned(builder, [load(builder, at(builder, start, (word(i), row_in)), 8) for i in range(8)])
        for j in range(8):
            store(builder, lines[j], builder.gep(end, [builder.mul(word(j), row_out)]))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), code


transpose_tile: Any = intrinsic(_transpose_tile)


def _error_tile(typing: Any, values: Any, row: Any, targets: Any, row_in: Any, scale: Any) -> Any:
    """`E[i, j] = values[i, j] - targets[j, i]`, 8 by 8: its sum of squares; `values` becomes `scale E`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, row, given, row_in, scale = arguments
        start, given = pointer_to(builder, start), pointer_to(builder, given)
        wanted = _turned(builder, [load(builder, at(builder, given, (word(i), row_in)), 8) for i in range(8)])
        scales, total = spread(builder, scale, 8), ir.Constant(vector(8), [0.0] * 8)
        for i, own in enumerate(wanted):
            place = at(builder, start, (word(i), row))
            error = builder.fsub(load(builder, place, 8), own)
            total = _fma(builder, error, error, total)
            store(builder, builder.fmul(error, scales), place)
        return builder.call(_sum_of_eight(builder), [ir.Constant(FLOAT, -0.0), total], fastmath=FAST)

    return types.float32(*[types.intp] * 4, types.float32), code


error_tile: Any = intrinsic(_error_tile)


def _take_task(typing: Any, counter: Any) -> Any:
    """The next number of a counter that several threads share."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], WORD.as_pointer())
        return builder.atomic_rmw("add", pointer, word(1), "monotonic")

    return types.intp(types.intp), code


take_task: Any = intrinsic(_take_task)


def _array_at(kind: Any) -> Any:
    """Items at an address, as an array of unknown length."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = signature.return_type
        made = context.make_array(result)(context, builder)
        length, size = context.get_constant(types.intp, 2**40), context.get_constant(types.intp, kind.bitwidth // 8)
        made.data = builder.inttoptr(arguments[0], made.data.type)
        made.shape = cgutils.pack_array(builder, [length])
        made.strides = cgutils.pack_array(builder, [size])
        made.itemsize, made.nitems = size, length
        made.meminfo = ir.Constant(made.meminfo.type, None)
        made.parent = ir.Constant(made.parent.type, None)
        return made._getvalue()

    def typed(typing: Any, address: Any) -> Any:
        return types.Array(kind, 1, "C")(types.intp), code

    return intrinsic(typed)


view: Any = _array_at(types.float32)
words: Any = _array_at(types.int64)


def _call_address(typing: Any, address: Any, arguments: Any) -> Any:
    """Call a function of integers that lies at an address."""
    count = arguments.count

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [WORD] * count)
        function = builder.inttoptr(given[0], kind.as_pointer())
        builder.call(function, [builder.extract_value(given[1], i) for i in range(count)])
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, count)), code


call_address: Any = intrinsic(_call_address)
