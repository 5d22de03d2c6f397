"""How the engine's functions are compiled: fast arithmetic, no interpreter lock, arrays that do not overlap.

Functions are unwrapped first: the test run wraps all functions to check annotations.
"""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.compiler import Compiler

__all__ = ["LANES", "compiled", "lanewise"]

LANES = 16


class _NoAlias(Compiler):
    """Marks array arguments as not overlapping, without which the inner loops are not turned into vector code."""

    def define_pipelines(self) -> list[Any]:
        """The usual passes."""
        self.state.flags.noalias = True
        return super().define_pipelines()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of scalars and arrays on its first call; later processes find it on disk."""
    return njit(fastmath=True, nogil=True, error_model="numpy", cache=True)(inspect.unwrap(function))


def lanewise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose array arguments do not overlap."""
    return njit(fastmath=True, nogil=True, error_model="numpy", cache=True, pipeline_class=_NoAlias)(
        inspect.unwrap(function)
    )
