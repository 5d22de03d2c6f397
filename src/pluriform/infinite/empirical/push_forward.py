"""Forward-mode derivatives without the warnings of torch's own start."""

import warnings
from collections.abc import Callable
from typing import Any

from torch.func import jvp

__all__ = ["push_forward"]


def push_forward(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """Value and directional derivative; `torch.func.jvp`, whose first call compiles scripts that torch deprecates.

    Args:
        function: Of the primals.
        primals: Where.
        tangents: In which direction.

    Returns:
        The value and the derivative.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=DeprecationWarning)
        value, derivative, *_ = jvp(function, primals, tangents)
    return value, derivative
