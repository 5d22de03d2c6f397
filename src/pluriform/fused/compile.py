"""How the functions of this engine are compiled: no interpreter lock, fused multiply-add, kept on disk.

Numba looks for compiled code by the file of a function alone; entry points take `STAMP` as a default argument, which is
part of the key, so that a change in any file of the engine is seen.
"""

import inspect
import types as kinds
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba import cfunc, njit, types

__all__ = ["LANES", "STAMP", "WIDE", "compiled", "entry_point", "standalone"]

WIDE = bool(binding.get_host_cpu_features().get("avx512f", False))
"""Whether a register holds 16 numbers, and there are 32 of them."""

LANES = (8, 16, 32, 40) if WIDE else (8, 16)
"""Samples that a block may have: accumulators of 8 outputs for all of them fit in the registers."""

STAMP = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on its first call; annotations that the test run checks are taken off first."""
    return njit(fastmath={"contract", "reassoc", "nsz"}, nogil=True, error_model="numpy")(inspect.unwrap(function))


def entry_point(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a function with a last argument `stamp=STAMP`; later processes find it on disk."""
    flags = {"contract", "reassoc", "nsz"}
    return njit(fastmath=flags, nogil=True, error_model="numpy", cache=True)(inspect.unwrap(function))


def standalone(function: Callable[..., Any], name: str, words: int, **values: Any) -> int:
    """Compile a function of `words` integers by itself and give its address.

    Numba optimises a function again with each that calls it, which would take minutes here; called by address it is
    compiled once. The name under which it is kept on disk holds the checksum of the engine.

    Args:
        function: Takes integers, gives nothing; may use the names of `values`.
        name: Of this variant.
        words: Number of arguments.
        values: What its free names stand for.
    """
    plain = inspect.unwrap(function)
    made = kinds.FunctionType(plain.__code__, plain.__globals__ | values, f"{name}_{STAMP}")
    made.__qualname__ = made.__name__
    made.__module__ = plain.__module__
    signature = types.void(*[types.intp] * words)
    return int(cfunc(signature, cache=True, error_model="numpy")(made).address)  # type: ignore[arg-type]
