"""Speed of the tiled Cholesky factorisation beside the dense one of the same library, float64.

    python benchmarks/tiled_cholesky.py [--samples 8000] [--sides 1024 2048] [--threads 2] [--file PATH]

Writes benchmarks/tiled_cholesky.json: seconds and GFLOP/s (n^3 / 3 operations), medians of `--repeats`, both on the
same matrix, their relative difference, and the time that 50,000 samples would take at that speed.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from pluriform.gaussian_process.tiled_cholesky import tiled_cholesky
from pluriform.gaussian_process.tiles import PackedTiles


def gram_of(n: int) -> torch.Tensor:
    """A well-conditioned positive definite matrix."""
    features = torch.randn(n, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = features @ features.T / 64
    gram.diagonal().add_(1.0)
    return gram


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--file", help="keep the tiles in this mapped file instead of memory")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    n, work = chosen.samples, chosen.samples**3 / 3 / 1e9
    gram, rows = gram_of(n), []

    def timed(function) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    seconds = statistics.median(timed(lambda: torch.linalg.cholesky(gram)) for _ in range(chosen.repeats))
    dense = torch.linalg.cholesky(gram)
    rows.append({"how": "dense", "seconds": seconds, "gflops": work / seconds})
    print(rows[-1], flush=True)
    for side in chosen.sides:
        times, error = [], 0.0
        for _ in range(chosen.repeats):
            tiles = PackedTiles.of(gram, side, chosen.file)
            times.append(timed(lambda tiles=tiles: tiled_cholesky(tiles)))
        for i in range(tiles.tiling.count):
            for j in range(i + 1):
                block = dense[tiles.tiling.rows(i), tiles.tiling.rows(j)]
                error = max(error, float((tiles.get(i, j) - block).abs().max()))
        seconds = statistics.median(times)
        figures = {"how": "tiled", "side": side, "seconds": seconds, "gflops": work / seconds}
        largest = float(dense.abs().max())
        rows.append(figures | {"error": error / largest, "minutes_for_50000": 50_000**3 / n**3 * seconds / 60})
        print(rows[-1], flush=True)
    outcome = {
        "samples": n,
        "threads": chosen.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "store": "mapped file" if chosen.file else "memory",
        "rows": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(outcome, indent=1) + "\n")


if __name__ == "__main__":
    main()
