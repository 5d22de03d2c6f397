"""The exponential function as plain arithmetic, so that loops over it become vector code."""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["exp"]

FLOAT, SMALL = ir.FloatType(), ir.IntType(32)
LOW, HIGH = -87.0, 88.0
LN2 = math.log(2)
LN2_HIGH = 0.693145751953125  # 16 bits of log 2: products with integers up to 128 are exact.
TAYLOR = tuple(1 / math.factorial(n) for n in range(7, -1, -1))  # Error 6e-9 on half of log 2.


def _number(value: float) -> ir.Constant:
    return ir.Constant(FLOAT, value)


def _exp(typing: Any, x: Any) -> Any:
    """e^x of a float32 to 1.2e-7, relative; numbers below -87 count as -87, above 88 as 88."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (given,) = arguments

        def called(name: str, *values: Any) -> Any:
            kind = ir.FunctionType(FLOAT, [FLOAT] * len(values))
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.f32"), values)

        low, high = _number(LOW), _number(HIGH)
        value = builder.select(builder.fcmp_ordered("<", given, low), low, given)
        value = builder.select(builder.fcmp_ordered(">", value, high), high, value)
        power = called("rint", builder.fmul(value, _number(1 / LN2)))
        rest = called("fma", power, _number(-LN2_HIGH), value)
        rest = called("fma", power, _number(LN2_HIGH - LN2), rest)
        total = _number(TAYLOR[0])
        for term in TAYLOR[1:]:
            total = called("fma", total, rest, _number(term))
        power = builder.select(builder.fcmp_ordered("ord", power, power), power, _number(0.0))  # Not a number.
        bits = builder.shl(builder.add(builder.fptosi(power, SMALL), ir.Constant(SMALL, 127)), ir.Constant(SMALL, 23))
        return builder.fmul(total, builder.bitcast(bits, FLOAT))

    return types.float32(types.float32), generate


exp: Any = intrinsic(_exp)
