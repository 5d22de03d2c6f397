"""Kernels of infinitely wide networks beside neural-tangents 0.6.5: pairs of inputs a second, memory, error, floor.

    make bench-peers
    python benchmarks/infinite_kernels.py               # all networks, some ten minutes on an idle machine
    python benchmarks/infinite_kernels.py --quick       # small sizes; writes nothing

NNGP and NTK together, in float32, both cores. Each side runs in processes of its own, network by network in turns; a
process calls once (short calls five times) to compile and warm up, then times calls on inputs it has not seen, and
medians are compared. Values
are checked against float64 on a sample of pairs, and against the peer's on the same inputs. Writes
infinite_kernels.json beside this file. The `floor` is the time that the counted operations would take at the measured
peak of the machine (a matrix product in float32), `times_the_floor` how far above it we are.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pluriform.infinite import kernel_of
from pluriform.nets.myrtle import Myrtle
from pluriform.nets.resnet import WideResNet

HERE = Path(__file__).parent
PEER = HERE.parent / ".venv-peers" / "bin" / "python"
sys.path.insert(0, str(HERE / "peers"))
from inputs import WARM_UP, pair_of_batches  # noqa: E402

WIDTH, CORES, SEED = 4, 2, 0
ROOT, ARCTANGENT = (
    4,
    24,
)  # An estimate and a Newton step; a quotient, the octant, a polynomial of degree 7.
CONV = 4 + 1 + 4 + 2  # Two separable sums of three and a scale for the NNGP; the same and a sum for the NTK.
RELU = 3 + ROOT + ARCTANGENT + 2 + 3 + 1  # The determinant, s and theta, the derivative, the NNGP, the NTK.


def stack(count: int, *head: nn.Module) -> nn.Module:
    """`count` 3x3 convolutions with ReLU."""
    layers = [part for i in range(count) for part in (nn.Conv2d(WIDTH if i else 3, WIDTH, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, *head)


def mlp() -> nn.Module:
    """Five linear layers."""
    hidden = [part for i in range(4) for part in (nn.Linear(WIDTH if i else 784, WIDTH), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1))


@dataclass(frozen=True)
class Case:
    """One network, the sizes it is timed at, and the operations that a pair of inputs needs at least.

    Attributes:
        build: Makes the module.
        ours: `(n1, n2)` of a call of ours.
        peer: The same for the peer, so large that more pairs at once do not speed it up.
        operations: Additions and multiplications a pair, roots and arctangents as above.
        wanted: How many times the peer's pairs a second are asked for.
    """

    build: Callable[[], nn.Module]
    ours: tuple[int, int]
    peer: tuple[int, int]
    operations: int
    wanted: float


def positions(side: int, stride: int = 1) -> int:
    """Pairs of positions of two images whose displacements are multiples of `stride`, all that a stride asks for."""
    return sum(side - abs(shift) for shift in range(1 - side, side) if shift % stride == 0) ** 2


def wrn_operations() -> int:
    """WRN-10-1: below a total stride of 4, 2 and 1 at sides 32, 16 and 8."""
    block = 2 * RELU + 2 * CONV + 2
    first = positions(32, 4) * (6 + CONV + block + RELU)
    second = positions(16, 2) * (2 * CONV + RELU + 3 + 2 + RELU)
    return first + second + positions(8) * (2 * CONV + RELU + 3 + 2 + RELU + 2)


def myrtle_operations() -> int:
    """Myrtle-5: 2, 1 and 1 layers at sides 32, 16 and 8; pooling adds each entry of both kernels once."""
    layer = CONV + RELU + 2
    return positions(32) * (6 + CONV + RELU + layer) + positions(16) * layer + positions(8) * layer


CASES = {
    "cnn-gap": Case(
        lambda: stack(5, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 1)),
        (16, 32), (4, 4), positions(32) * (6 + 5 * (CONV + RELU) + 2), 100,
    ),
    "myrtle5": Case(lambda: Myrtle((3, 32, 32), 1, width=WIDTH), (32, 32), (4, 4), myrtle_operations(), 40),
    "wrn-10-1": Case(
        lambda: WideResNet((3, 32, 32), 1, depth=10, widen=1, norm=False), (64, 64), (4, 4), wrn_operations(), 50
    ),
    "cnn-flatten": Case(
        lambda: stack(5, nn.Flatten(), nn.Linear(WIDTH * 1024, 1)),
        (256, 256), (128, 128), 1024 * (6 + 5 * (CONV + RELU) + 2), 5,
    ),
    "mlp": Case(mlp, (4000, 4000), (4000, 4000), 2 * 784 + 4 * (RELU + 3), 4),
}  # fmt: skip
QUICK = {"cnn-gap": (2, 2), "myrtle5": (2, 2), "wrn-10-1": (2, 2), "cnn-flatten": (16, 16), "mlp": (500, 500)}
SAMPLE = {"cnn-gap": 4, "myrtle5": 4, "wrn-10-1": 4, "cnn-flatten": 32, "mlp": 256}  # Rows and columns checked.


def inputs(network: str, n1: int, n2: int, call: int) -> tuple[Tensor, Tensor]:
    """Fresh inputs, channels first."""
    first, second = pair_of_batches(network, n1, n2, SEED, call)
    return tuple(torch.from_numpy(part).movedim(-1, 1).contiguous() for part in (first, second))  # type: ignore[return-value]


def distance(found: Any, wanted: Any) -> dict[str, float]:
    """Relative Frobenius distance of both kernels."""
    pairs = {name: (torch.as_tensor(found[name]).double(), torch.as_tensor(wanted[name]).double()) for name in wanted}
    return {name: float((a - b).norm() / b.norm()) for name, (a, b) in pairs.items()}


def kernels(function: Any, first: Tensor, second: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Both kernels of every pair."""
    with torch.no_grad():
        found = function(first, second, dtype=dtype)
    return {"nngp": found.nngp, "ntk": found.ntk}


def ours(network: str, size: tuple[int, int], repeats: int, peer_size: tuple[int, int], values: Path) -> dict[str, Any]:
    """Time this library; check a sample against float64, and against the peer where its values are there."""
    torch.set_num_threads(CORES)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    function = kernel_of(CASES[network].build(), inputs(network, 2, 2, 0)[0])
    seconds, sample, most, warm = [], {}, SAMPLE[network], WARM_UP.get(network, 1)
    for call in range(warm + repeats):
        first, second = inputs(network, *size, call)
        start = time.perf_counter()
        found = kernels(function, first, second, torch.float32)
        seconds.append(time.perf_counter() - start)
        if call == 1:
            sample = {name: part[:most, :most].clone() for name, part in found.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Before the checks, which need more.
    first, second = inputs(network, *size, 1)
    exact = kernels(function, first[:most], second[:most], torch.float64)
    report = summary(size, seconds, warm, peak) | {
        "imported_mib": imported,
        "error_to_float64": distance(sample, exact),
    }
    if values.exists():
        on_peers = kernels(function, *inputs(network, *peer_size, 1), torch.float32)
        report["distance_to_peer"] = distance(on_peers, dict(np.load(values)))
    return report


def summary(size: tuple[int, int], seconds: list[float], warm: int, peak: float) -> dict[str, Any]:
    """The figures of one side; the first `warm` calls are the warm-up."""
    median = statistics.median(seconds[warm:])
    figures = {"n1": size[0], "n2": size[1], "seconds": seconds[warm:], "median_seconds": median}
    return figures | {
        "first_call_seconds": seconds[0],
        "pairs_per_second": size[0] * size[1] / median,
        "peak_mib": peak,
    }


def peak_rate() -> float:
    """Operations a second of both cores in a float32 matrix product, the best of ten."""
    torch.set_num_threads(CORES)
    a = torch.randn(3072, 3072, generator=torch.Generator().manual_seed(SEED))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 3072**3 / best


def in_process(words: list[str]) -> dict[str, Any]:
    """Run a side on all cores and read the JSON of its last line."""
    threads = {"OMP_NUM_THREADS": str(CORES), "NUMBA_NUM_THREADS": str(CORES)}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(network: str, case: Case, repeats: int, rate: float, folder: Path) -> dict[str, Any]:
    """Both sides of one network."""
    values = folder / f"{network}.npz"
    sizes = [str(side) for side in (*case.ours, *case.peer)]
    peer = None
    if PEER.exists():
        script = str(HERE / "peers" / "neural_tangents_kernels.py")
        size = [str(side) for side in case.peer]
        command = [str(PEER), script, network, *size, "--repeats", str(repeats), "--seed", str(SEED)]
        peer = in_process([*command, "--values", str(values)])
    command = [sys.executable, __file__, "--side", network, *sizes, "--repeats", str(repeats), "--values", str(values)]
    own = in_process(command)
    floor = case.operations / rate
    report = {"ours": own, "peer": peer, "operations_a_pair": case.operations, "floor_seconds_a_pair": floor}
    report["times_the_floor"] = 1 / own["pairs_per_second"] / floor
    if peer:
        report["ratio"] = own["pairs_per_second"] / peer["pairs_per_second"]
        report["ratio_wanted"] = case.wanted
        report["memory_ratio"] = own["peak_mib"] / peer["peak_mib"]
    return report


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"some of {', '.join(CASES)}; all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--values", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        a, b, c, d = (int(word) for word in chosen.side[1:])
        print(json.dumps(ours(chosen.side[0], (a, b), chosen.repeats, (c, d), chosen.values)))
        return
    if not PEER.exists():
        print("no .venv-peers, so nothing to compare with (make bench-peers); our side only, nothing is written")
    rate = peak_rate()
    report: dict[str, Any] = {
        "what": "NNGP and NTK of every pair of two batches, float32, median of calls on fresh inputs",
        "repeats": chosen.repeats,
        "cores": CORES,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "peak_operations_a_second": rate,
        "networks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for network in chosen.networks or CASES:
            case = CASES[network]
            if chosen.quick:
                case = replace(case, ours=QUICK[network], peer=QUICK[network])
            found = measured(network, case, chosen.repeats, rate, Path(folder))
            report["networks"][network] = found
            print(json.dumps({network: found}, indent=1), flush=True)
    if PEER.exists() and not chosen.quick:
        target = Path(__file__).with_suffix(".json")
        if chosen.networks and target.exists():
            report["networks"] = json.loads(target.read_text())["networks"] | report["networks"]
        target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
