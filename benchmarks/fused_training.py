"""A training step of one convolutional network: fused kernels beside PyTorch, plain and with the channels last.

    OMP_NUM_THREADS=1 python benchmarks/fused_training.py [--threads 1] [--repeats 9]

Networks without normalisation, of 0.4 to 200 million multiplications a sample. Each way computes loss and gradients
of the same batch; the optimiser is left out. Times are wall seconds, the least of interleaved repeats; the largest
difference of a gradient, relative to its largest number, stands beside. Writes fused_training.json beside this file.
"""

import argparse
import copy
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.fused.run import fused_program
from pluriform.training import step as step_file
from pluriform.training.feed import Batch
from pluriform.training.layout import to_channels_last

BATCHES = (64, 128)


def lenet() -> nn.Module:
    """LeNet-5 with average pools."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def hypergan_mnist() -> nn.Module:
    """31,594 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def stack_of(*widths: int) -> nn.Module:
    """Two 3x3 convolutions a width on 32x32 pixels, pooled between."""
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


NETWORKS = {
    "LeNet-5": (lenet, (1, 28, 28)),
    "MNIST network of HyperGAN": (hypergan_mnist, (1, 28, 28)),
    "six convolutions, 16 to 64 channels": (lambda: stack_of(16, 32, 64), (3, 32, 32)),
    "four convolutions, 32 and 64 channels": (lambda: stack_of(32, 64), (3, 32, 32)),
    "four convolutions, 64 and 128 channels": (lambda: stack_of(64, 128), (3, 32, 32)),
}


def library(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Gradients by PyTorch."""
    net.zero_grad()
    F.cross_entropy(net(inputs), targets).backward()


def fused(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Gradients by the kernels."""
    net.zero_grad()
    step_file.fused_loss(net, Batch(inputs, targets)).backward()


def measure(name: str, batch: int, repeats: int) -> dict:
    """Milliseconds of the three ways."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    plain, inputs, targets = build().train(), torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
    last, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    to_channels_last(last, inputs[:2])
    turned = inputs.contiguous(memory_format=torch.channels_last)
    cases = {
        "plain": lambda: library(plain, inputs, targets),
        "channels_last": lambda: library(last, turned, targets),
        "fused": lambda: fused(ours, inputs, targets),
    }
    times: dict[str, list[float]] = {way: [] for way in cases}
    for repeat in range(repeats + 1):
        for way, case in cases.items():
            start = time.perf_counter()
            case()
            if repeat:
                times[way].append(1e3 * (time.perf_counter() - start))
    found = {way: round(min(taken), 2) for way, taken in times.items()}
    weights = {key: p.detach()[None] for key, p in ours.named_parameters()}
    pairs = zip(ours.parameters(), plain.parameters(), strict=True)
    products = fused_program(ours, weights, inputs).products
    return {
        "network": name,
        "batch": batch,
        "multiplications_a_sample": products,
        "milliseconds": found,
        "fastest_library_over_fused": round(min(found["plain"], found["channels_last"]) / found["fused"], 2),
        "taken": "fused" if products <= step_file.MOST_MULTIPLICATIONS else "library",
        "largest_relative_difference": float(f"{max(difference(a.grad, b.grad) for a, b in pairs):.2g}"),
    }


def difference(first: Tensor, second: Tensor) -> float:
    """The largest, relative to the largest number."""
    return float((first - second).abs().max() / second.abs().max())


def main() -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = []
    for name in NETWORKS:
        for batch in BATCHES:
            rows.append(measure(name, batch, chosen.repeats))
            print(rows[-1], flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "threads": chosen.threads,
        "repeats": chosen.repeats,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cases": rows,
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
