"""Time neural-tangents on one network; run in the environment that `make bench-peers` makes.

    .venv-peers/bin/python benchmarks/peers/neural_tangents_kernels.py cnn-gap 4 4 --repeats 5 --values values.npz

NNGP and NTK together, jitted, float32, every call on inputs it has not seen; the first call compiles and is not timed.
Prints one JSON object; the values of the first timed call go to the file. Weight variance 2, no bias.
"""

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import neural_tangents as nt
import numpy as np
from inputs import SHAPES, WARM_UP, pair_of_batches
from neural_tangents import stax

STD = math.sqrt(2.0)
WIDTH = 8  # Kernels do not depend on it.


def conv(size: int = 3, stride: int = 1) -> tuple:
    """A convolution with padding that keeps the size."""
    return stax.Conv(WIDTH, (size, size), (stride, stride), "SAME", STD)


def layers(count: int) -> list[tuple]:
    """`count` times 3x3 convolution and ReLU."""
    return [part for _ in range(count) for part in (conv(), stax.Relu())]


def wide_block(stride: int, project: bool) -> tuple:
    """A pre-activation block; images are flipped, so that torch's padding of a stride of 2 becomes SAME.

    PyTorch pads (1, 1) and reads from -1 on, SAME pads (0, 1) and reads from 0 on: the same on the mirrored image.
    The 1x1 shortcut then reads the odd positions.
    """
    main = [conv(stride=stride), stax.Relu(), conv()]
    if not project:
        inner = stax.serial(stax.Relu(), *main)
        return stax.serial(stax.FanOut(2), stax.parallel(inner, stax.Identity()), stax.FanInSum())
    odd = stax.Index(stax.Slice[:, stride - 1 :: stride, stride - 1 :: stride]) if stride > 1 else stax.Identity()
    branches = stax.parallel(stax.serial(*main), stax.serial(odd, conv(1)))
    return stax.serial(stax.Relu(), stax.FanOut(2), branches, stax.FanInSum())


def head() -> list[tuple]:
    """Global average and the linear layer."""
    return [stax.GlobalAvgPool(), stax.Dense(1, STD)]


def myrtle5() -> tuple:
    """Blocks of 2, 1, 1 layers with 2x2 average pooling between them."""
    pool = stax.AvgPool((2, 2), (2, 2))
    return stax.serial(*layers(2), pool, *layers(1), pool, *layers(1), *head())


def wrn_10_1() -> tuple:
    """Three blocks, the second and third halving the image."""
    blocks = [wide_block(1, False), wide_block(2, True), wide_block(2, True)]
    return stax.serial(conv(), *blocks, stax.Relu(), *head())


def mlp() -> tuple:
    """Five linear layers with ReLU between them."""
    hidden = [part for _ in range(4) for part in (stax.Dense(WIDTH, STD), stax.Relu())]
    return stax.serial(*hidden, stax.Dense(1, STD))


NETWORKS: dict[str, Callable[[], tuple]] = {
    "cnn-gap": lambda: stax.serial(*layers(5), *head()),
    "myrtle5": myrtle5,
    "wrn-10-1": wrn_10_1,
    "cnn-flatten": lambda: stax.serial(*layers(5), stax.Flatten(), stax.Dense(1, STD)),
    "mlp": mlp,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(SHAPES))
    parser.add_argument("n1", type=int)
    parser.add_argument("n2", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--values", type=Path)
    chosen = parser.parse_args()
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _, _, kernel_fn = NETWORKS[chosen.network]()
    jitted = jax.jit(lambda x1, x2: kernel_fn(x1, x2, ("nngp", "ntk")))
    seconds, warm = [], WARM_UP.get(chosen.network, 1)
    for call in range(warm + chosen.repeats):
        x1, x2 = pair_of_batches(chosen.network, chosen.n1, chosen.n2, chosen.seed, call)
        if chosen.network == "wrn-10-1":
            x1, x2 = x1[:, ::-1, ::-1].copy(), x2[:, ::-1, ::-1].copy()
        start = time.perf_counter()
        found = jax.block_until_ready(jitted(x1, x2))
        seconds.append(time.perf_counter() - start)
        if call == 1 and chosen.values:
            np.savez(chosen.values, nngp=np.asarray(found.nngp), ntk=np.asarray(found.ntk))
    median = statistics.median(seconds[warm:])
    report = {
        "n1": chosen.n1,
        "n2": chosen.n2,
        "seconds": seconds[warm:],
        "median_seconds": median,
        "first_call_seconds": seconds[0],
        "pairs_per_second": chosen.n1 * chosen.n2 / median,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imported_mib": imported,
        "dtype": str(found.nngp.dtype),
        "neural_tangents": nt.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
