"""A compiled function on the threads that PyTorch computes with."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

__all__ = ["on_threads"]

_Function = Callable[[int], None]


def on_threads(address: int, data: int, threads: int) -> None:
    """Call the function at `address` with the address `data` on so many threads, and wait for all.

    After an operation of PyTorch its idle threads keep their cores busy for some milliseconds, since another operation
    may follow. Threads of ours would have to share those cores, so the work is given to PyTorch's own, through the
    entry that compilers use for OpenMP. Without that library a pool of our own serves.

    Args:
        address: Of a function that takes one address and gives nothing.
        data: What it is called with.
        threads: How many, this one included.
    """
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # Calls without the interpreter lock.
    function = kind(address)
    if threads == 1:
        function(data)
        return
    team = _team()
    if team is not None:
        team(ctypes.c_void_p(address), ctypes.c_void_p(data), ctypes.c_uint(threads), ctypes.c_uint(0))
        return
    others = [_pool(threads - 1).submit(function, data) for _ in range(threads - 1)]
    function(data)
    for other in others:
        other.result()


@cache
def _team() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP library that PyTorch has loaded."""
    from threadpoolctl import threadpool_info

    paths = [entry["filepath"] for entry in threadpool_info() if entry["user_api"] == "openmp"]
    for path in sorted(paths, key=lambda path: "torch" not in path)[:1]:
        function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if function is not None:
            function.restype = None
            return function
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fused")
