"""Times of repeated calls."""

import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["REPEATS", "SECONDS", "repeated"]

REPEATS = 50
LEAST_REPEATS = 5
SLOW_REPEATS = 3
SECONDS = 0.5


def repeated(call: Callable[[], Any], device: torch.device, seconds: float = SECONDS) -> list[float]:
    """Milliseconds of up to 50 calls, for so many seconds, after warm-up; at least 5, or 3 of very slow ones."""

    def timed() -> float:
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) * 1e3

    # A call that takes long needs neither a second warm-up nor many repeats.
    slow = timed() > seconds * 1e3
    if not slow:
        timed()
    least = LEAST_REPEATS if not slow else SLOW_REPEATS
    spent: list[float] = []
    while len(spent) < least or (len(spent) < REPEATS and sum(spent) < seconds * 1e3):
        spent.append(timed())
    return spent
