"""Inputs of the kernel benchmarks, the same on both sides: NumPy only, so that every environment can import it."""

import numpy as np

__all__ = ["SHAPES", "WARM_UP", "pair_of_batches"]

IMAGE = (32, 32, 3)
SHAPES = {"cnn-gap": IMAGE, "myrtle5": IMAGE, "wrn-10-1": IMAGE, "cnn-flatten": IMAGE, "mlp": (784,)}

WARM_UP = {"cnn-flatten": 5, "mlp": 5}
"""Calls before the clock starts, 1 elsewhere: short ones wait at first for memory that no process has touched."""


def pair_of_batches(network: str, n1: int, n2: int, seed: int, call: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal float32 inputs of one call, channels last; another `call` gives others."""
    generator = np.random.default_rng([seed, call])
    shape = SHAPES[network]
    first = generator.standard_normal((n1, *shape), dtype=np.float32)
    return first, generator.standard_normal((n2, *shape), dtype=np.float32)
