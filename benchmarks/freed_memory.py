"""Training steps and predictions that keep freed memory, beside the same with the allocator as it is.

    OMP_NUM_THREADS=1 python benchmarks/freed_memory.py [--steps 12] [--cases convolutions-28 predict-28 ...]

Writes freed_memory.json beside this file. Every case is a loop by hand on noise of the size named, in a process of its
own, once with `pluriform.freed_memory` and once without; they take turns three times, and the medians are told.
Milliseconds of a step are CPU time of the process (`seconds of the system` among them), so that other work on the
machine counts less; `wall` is the clock's. Faults are pages that the system cleared; the peak is resident memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.freed_memory import keep_freed_memory
from pluriform.translate.discriminator import MultiScaleDiscriminator
from pluriform.translate.generator import TSITGenerator
from pluriform.translate.losses import hinge_discriminator, hinge_generator
from pluriform.translate.preset import PRESETS

sys.path.insert(0, str(Path(__file__).parents[1] / "reproductions"))

from records import environment, write_record

TURNS, WARM = 3, 3


def images(side: int, channels: int = 1) -> Data:
    """Noise; its content does not change the time."""
    torch.manual_seed(0)
    splits = [Split(torch.rand(512, channels, side, side), torch.arange(512) % 10) for _ in range(3)]
    return Data("noise", "classification", *splits, classes=tuple("0123456789"), bounds=(0.0, 1.0))


def convolutions() -> nn.Module:
    """Three layers of 64 channels, as a search starts with."""
    parts: list[nn.Module] = []
    for channels in (1, 64, 64):
        parts += [nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def training(network: nn.Module, data: Data) -> Callable[[], None]:
    """A step of 128 samples."""
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-3, fused=True)
    inputs, targets = data.train.batch(torch.arange(128))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()

    return step


def predicting(network: nn.Module, data: Data) -> Callable[[], None]:
    """512 samples in batches of 256."""
    network.eval()

    def step() -> None:
        with torch.no_grad():
            for part in data.test.inputs.split(256):
                network(part)

    return step


def translating(side: int) -> Callable[[], None]:
    """An update of the generator and one of the discriminator of the small TSIT, on 4 pairs."""
    torch.manual_seed(0)
    preset, draws = PRESETS["small"], torch.Generator().manual_seed(0)
    levels = preset.levels_for(side, side)
    painter = TSITGenerator(3, 3, 3, levels=levels, width=preset.width, cap=preset.cap, norm="batch")
    judge = MultiScaleDiscriminator(3, preset.discriminator_width, 3, 2)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-4, fused=True) for net in (painter, judge)]
    content, style = torch.rand(2, 4, 3, side, side) * 2 - 1

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        fake = painter(content, style, painter.draw_start(4, side, side, draws))
        hinge_generator(judge(fake)).backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        hinge_discriminator(judge(style), judge(fake.detach())).backward()
        optimizers[1].step()

    return step


CASES: dict[str, tuple[str, Callable[[], Callable[[], None]]]] = {
    "convolutions-8": ("training step, 64 channels, 8x8", lambda: training(convolutions(), images(8))),
    "convolutions-28": ("training step, 64 channels, 28x28", lambda: training(convolutions(), images(28))),
    "resnet-32": (
        "training step of resnet20, 32x32",
        lambda: training(pf.nets.build("resnet20", images(32, 3)), images(32, 3)),
    ),
    "predict-28": ("512 predictions, 64 channels, 28x28", lambda: predicting(convolutions(), images(28))),
    "translate-64": ("step of the small TSIT, 64x64", lambda: translating(64)),
    "translate-128": ("step of the small TSIT, 128x128", lambda: translating(128)),
}


def measure(case: str, kept: bool, steps: int) -> dict[str, float]:
    """Figures of one case in this process."""
    step = CASES[case][1]()
    with keep_freed_memory() if kept else nullcontext():
        for _ in range(WARM):
            step()
        before, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(steps):
            step()
        wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return {
        "milliseconds": 1000 * (after.ru_utime - before.ru_utime + system) / steps,
        "of the system": 1000 * system / steps,
        "wall": 1000 * wall / steps,
        "faults": (after.ru_minflt - before.ru_minflt) / steps,
        "peak MiB": after.ru_maxrss / 1024,
    }


def compared(case: str, steps: int) -> dict[str, Any]:
    """Both, in turns, each in its own process."""
    found: dict[str, list[dict]] = {"usual": [], "kept": []}
    for _ in range(TURNS):
        for way, rows in found.items():
            command = [sys.executable, __file__, "--case", case, "--way", way, "--steps", str(steps)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(printed.splitlines()[-1]))
    middle = {
        way: {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
        for way, rows in found.items()
    }
    ratio = middle["usual"]["milliseconds"] / middle["kept"]["milliseconds"]
    return {"what": CASES[case][0], **middle, "times as fast": round(ratio, 3)}


def main() -> None:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.way == "kept", args.steps)))
        return
    record: dict[str, Any] = {"steps": args.steps, "turns": TURNS, "cases": {}}
    for case in args.cases:
        record["cases"][case] = compared(case, args.steps)
        print(case, record["cases"][case], flush=True)
    write_record(args.json, {**record, **environment(), "threads": int(os.environ.get("OMP_NUM_THREADS", 0))})


if __name__ == "__main__":
    main()
