"""One vector instruction over all lanes, where a short inner loop would be unrolled into single numbers."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pluriform.infinite.engine.compile import LANES

__all__ = ["accumulate"]


def _accumulate(typing: Any, target: Any, t: Any, source: Any, s: Any, factor: Any) -> Any:
    """`target[t : t + LANES] += factor * source[s : s + LANES]`, arrays of float32 or of float64 (the target)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, _, second, _, _ = signature.args
        places = []
        for kind, array, index in ((first, arguments[0], arguments[1]), (second, arguments[2], arguments[3])):
            number = context.get_data_type(kind.dtype)
            data = context.make_array(kind)(context, builder, array).data
            pointer = builder.gep(data, [index])
            places.append(
                (builder.bitcast(pointer, ir.VectorType(number, LANES).as_pointer()), kind.dtype.bitwidth // 8)
            )
        old = builder.load(places[0][0], align=places[0][1])
        new = builder.load(places[1][0], align=places[1][1])
        lanes = ir.VectorType(new.type.element, LANES)
        one = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[4], ir.Constant(ir.IntType(32), 0))
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        scaled = builder.fmul(
            new, builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), spread), flags=("fast",)
        )
        if old.type != scaled.type:
            scaled = builder.fpext(scaled, old.type)
        builder.store(builder.fadd(old, scaled, flags=("fast",)), places[0][0], align=places[0][1])
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.float32), code


accumulate: Any = intrinsic(_accumulate)
