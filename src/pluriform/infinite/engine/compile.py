"""How the engine's functions are compiled: fast arithmetic, no interpreter lock, arrays that do not overlap.

Functions are unwrapped first: the test run wraps all functions to check annotations. Numba looks for compiled code on
disk by the file of a function alone; entry points take `STAMP` as a default argument, which is part of the key, so that
a change in any file of the engine is seen.
"""

import inspect
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.compiler import Compiler

__all__ = ["LANES", "STAMP", "compiled", "entry_point", "lanewise"]

LANES = 16
STAMP = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


class _NoAlias(Compiler):
    """Marks array arguments as not overlapping, without which the inner loops are not turned into vector code."""

    def define_pipelines(self) -> list[Any]:
        """The usual passes."""
        self.state.flags.noalias = True
        return super().define_pipelines()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of scalars and arrays on its first call."""
    return njit(fastmath=True, nogil=True, error_model="numpy")(inspect.unwrap(function))


def entry_point(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a function with a last argument `stamp=STAMP`; later processes find it on disk."""
    return njit(fastmath=True, nogil=True, error_model="numpy", cache=True)(inspect.unwrap(function))


def lanewise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose array arguments do not overlap."""
    return njit(fastmath=True, nogil=True, error_model="numpy", pipeline_class=_NoAlias)(inspect.unwrap(function))
