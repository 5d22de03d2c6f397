"""Cost of the training loop beside a bare PyTorch loop by hand, and of stacked members beside one by one.

    python benchmarks/training_loop.py [--threads 1] [--repeats 7]

Writes training_loop.json beside this file. Times are CPU seconds of the process on one thread (so that other work on
the machine counts less) as the least of interleaved repeats; wall seconds stand beside.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Data, Split

EPOCHS, BATCH = 10, 64


def bare(data: Data, fused: bool, cosine: bool) -> None:
    """The loop that one writes by hand."""
    net = pf.nets.build("mlp", data)
    inputs, targets = data.train.inputs, data.train.targets
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=fused)
    steps = EPOCHS * -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None
    for _ in range(EPOCHS):
        order = torch.randperm(len(inputs))
        for index in order.split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[index]), targets[index]).backward()
            optimizer.step()
            if schedule:
                schedule.step()


def ours(data: Data, run: bool) -> None:
    """`Training` with all it does: schedule, checks, validation, and in a run log and checkpoints."""
    net = pf.nets.build("mlp", data)
    method = pf.Training(epochs=EPOCHS, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        method.fit(net, data, run=f"{folder}/run" if run else None)


def ensemble(data: Data, name: str, members: int, together: str, epochs: int) -> None:
    """Members one way or the other."""
    net = pf.nets.build(name, data)
    method = pf.DeepEnsemble(members, training=pf.Training(epochs=epochs, batch_size=BATCH), together=together)
    method.fit(net, data)


def least(cases: dict[str, Callable[[], None]], repeats: int) -> dict[str, dict[str, float]]:
    """Least CPU and wall seconds of each case, interleaved, after one call to warm up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            cpu, wall = time.process_time(), time.perf_counter()
            case()
            if repeat:
                found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {"cpu_seconds": min(cpu for cpu, _ in times), "wall_seconds": min(wall for _, wall in times)}
        for name, times in found.items()
    }


def images(count: int) -> Data:
    """Noise of the size of fashion-mnist, for timing only."""
    generator = torch.Generator().manual_seed(0)
    splits = [Split(torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n) % 10) for n in (count, BATCH, BATCH)]
    return Data("noise", "classification", *splits, classes=tuple("0123456789"), bounds=(0.0, 1.0))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    digits, noise = pf.load("digits"), images(10 * BATCH)
    loop = least(
        {
            "bare": lambda: bare(digits, False, False),
            "bare, fused AdamW": lambda: bare(digits, True, False),
            "bare, fused AdamW, cosine": lambda: bare(digits, True, True),
            "Training": lambda: ours(digits, False),
            "Training in a run": lambda: ours(digits, True),
        },
        chosen.repeats,
    )
    stacks = {}
    for name, data, epochs in (("mlp", digits, 2), ("lenet", noise, 1)):
        for members in (5, 10):
            cases = {
                f"{name}, {members} members, {'together' if together == 'yes' else 'one by one'}": (
                    lambda name=name, data=data, members=members, together=together, epochs=epochs: ensemble(
                        data, name, members, together, epochs
                    )
                )
                for together in ("yes", "no")
            }
            stacks |= least(cases, max(2, chosen.repeats // 2))
    steps = EPOCHS * -(-len(digits.train) // BATCH)
    report = {
        "what": f"MLP 64-256-256-10 on digits, batch {BATCH}, {EPOCHS} epochs, {steps} steps; ensembles as named",
        "threads": chosen.threads,
        "repeats": chosen.repeats,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "loop": loop,
        "cpu_ratio_to_bare": {name: times["cpu_seconds"] / loop["bare"]["cpu_seconds"] for name, times in loop.items()},
        "ensembles": stacks,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
