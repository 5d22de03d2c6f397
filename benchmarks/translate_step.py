"""One training step of TSIT beside the plain convolutions that it is made of; memory; images a second in use.

    OMP_NUM_THREADS=2 python benchmarks/translate_step.py [--steps published-256 large-128 small-64] [--repeats 3]
        [--batch 1] [--no-inference] [--out benchmarks/translate_step.json]

A step is what training does for one batch of unpaired images: forward and backward through generator and both
discriminators with hinge loss and feature matching, Adam, the fake drawn again without gradients, forward and backward
through the discriminators, Adam. Every convolution and convolution gradient of that step is recorded by its shapes as
PyTorch is asked for it, and the same list is run again on plain tensors, in order, gradients of weights kept until the
end, as an optimiser needs them. `ratio` is the time of the step over
that of the list; both take turns, and the medians are told. `network_ratio` leaves Adam out, which plain convolutions
have no part in. Time is process time over threads, so that other work on the machine matters less; `seconds` is the
clock's. MACs are those of forward convolutions; the generator's are beside the sheet's 96.9 billion at 256 pixels.
Inference is in evaluation mode with spectral norms folded, batch 1. Each step is measured in a process of its own,
whose peak of resident memory is told; figures in the file that are not asked for are kept.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pluriform.translate.discriminator import MultiScaleDiscriminator
from pluriform.translate.generator import TSITGenerator
from pluriform.translate.losses import feature_matching, hinge_discriminator, hinge_generator
from pluriform.translate.preset import PRESETS
from pluriform.translate.spectral_norm import fold_spectral_norm

FORWARD, BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
USED = {"tiny": (32, 64, 128), "small": (32, 64, 128, 256), "medium": (64, 128, 256), "large": (64, 128, 256)}
USED["published"] = (256,)


class Recorder(TorchDispatchMode):
    """Remembers every convolution by its shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (FORWARD, BACKWARD):
            self.calls.append((func, tuple(Shape(a.shape) if isinstance(a, Tensor) else a for a in args)))
        return func(*args, **(kwargs or {}))


class Shape(tuple):
    """Shape of a tensor that was an argument."""


def macs(calls: list[tuple[Any, tuple]]) -> int:
    """Multiply-accumulates of the forward convolutions in a list."""
    total = 0
    for func, args in calls:
        if func is FORWARD:
            (batch, _, *sides), weight, stride, padding = args[0], args[1], args[3], args[4]
            pixels = batch
            for side, kernel, step, pad in zip(sides, weight[2:], stride, padding, strict=True):
                pixels *= (side + 2 * pad - kernel) // step + 1
            total += pixels * weight[0] * weight[1] * weight[2] * weight[3]
    return total


def replay(calls: list[tuple[Any, tuple]]) -> Callable[[], None]:
    """A function that runs the list on plain tensors, one for each shape and place."""
    pool: dict[tuple, Tensor] = {}

    def tensor(place: int, shape: Shape) -> Tensor:
        key = (place, *shape)
        if key not in pool:
            pool[key] = torch.randn(tuple(shape))
        return pool[key]

    ready = [
        (func, [tensor(at, a) if isinstance(a, Shape) else a for at, a in enumerate(args)]) for func, args in calls
    ]

    def run() -> None:
        kept = []
        with torch.no_grad():
            for func, args in ready:
                found = func(*args)
                if func is BACKWARD:
                    kept.append(found[1])

    return run


class Step:
    """Everything that one training step of a configuration needs."""

    def __init__(self, preset_name: str, side: int, batch: int) -> None:
        torch.manual_seed(0)
        preset = PRESETS[preset_name]
        levels = preset.levels_for(side, side)
        norm = "batch" if batch >= 4 else "joint"
        self.generator = TSITGenerator(3, 3, 3, levels=levels, width=preset.width, cap=preset.cap, norm=norm)
        self.discriminator = MultiScaleDiscriminator(3, preset.discriminator_width, 3, 2 if side >= 64 else 1)
        self.optimisers = [
            torch.optim.Adam(net.parameters(), rate, (0.0, 0.9), fused=True)
            for net, rate in ((self.generator, 1e-4), (self.discriminator, 4e-4))
        ]
        self.draws = torch.Generator().manual_seed(0)
        self.content, self.style = torch.rand(2, batch, 3, side, side, generator=self.draws) * 2 - 1
        self.facts = {"preset": preset_name, "side": side, "batch": batch, "levels": levels, "norm": norm}

    def fake(self) -> Tensor:
        """Translated images."""
        side = self.content.shape[-1]
        noise = self.generator.draw_start(len(self.content), side, side, self.draws)
        return self.generator(self.content, self.style, noise)

    def networks(self) -> tuple[float, float]:
        """A step; seconds that the two updates of Adam took, by process time and by the clock."""
        self.discriminator.requires_grad_(False)
        fake = self.fake()
        joined = self.discriminator(torch.cat((fake, self.style)))
        ours = [[part[: len(fake)] for part in scale] for scale in joined]
        real = [[part[len(fake) :] for part in scale] for scale in joined]
        (hinge_generator(ours) + feature_matching(real, ours)).backward()
        spent = [self.update(0)]
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self.fake()
        joined = self.discriminator(torch.cat((fake, self.style)))
        ours = [[part[: len(fake)] for part in scale] for scale in joined]
        real = [[part[len(fake) :] for part in scale] for scale in joined]
        hinge_discriminator(real, ours).backward()
        spent.append(self.update(1))
        return sum(one for one, _ in spent), sum(two for _, two in spent)

    def update(self, place: int) -> tuple[float, float]:
        """One update, and its seconds."""
        begun = time.process_time(), time.perf_counter()
        self.optimisers[place].step()
        self.optimisers[place].zero_grad()
        return time.process_time() - begun[0], time.perf_counter() - begun[1]


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Process time, clock time and result of a call."""
    begun = time.process_time(), time.perf_counter()
    result = call()
    return time.process_time() - begun[0], time.perf_counter() - begun[1], result


def measure_step(preset: str, side: int, batch: int, repeats: int) -> dict[str, Any]:
    """Figures of one configuration."""
    step = Step(preset, side, batch)
    with Recorder() as recorder:
        step.networks()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with Recorder() as of_generator, torch.no_grad():
        step.fake()
    plain = replay(recorder.calls)
    plain()
    rows = []
    for _ in range(repeats):
        process, clock, adam = timed(step.networks)
        plain_process, plain_clock, _ = timed(plain)
        rows.append((process, clock, *adam, plain_process, plain_clock))
    process, clock, adam, _, plain_process, plain_clock = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    return {
        **step.facts,
        "parameters": sum(p.numel() for p in step.generator.parameters()),
        "generator_gmacs": macs(of_generator.calls) / 1e9 / batch,
        "forward_gmacs_of_step": macs(recorder.calls) / 1e9,
        "convolutions_of_step": len(recorder.calls),
        "step_seconds": clock,
        "plain_seconds": plain_clock,
        "ratio": process / plain_process,
        "network_ratio": (process - adam) / plain_process,
        "ratios": [round(row[0] / row[4], 3) for row in rows],
        "memory_mib_of_step": memory,
        "repeats": repeats,
    }


def measure_inference(preset_name: str, side: int, seconds: float = 2.0) -> dict[str, Any]:
    """Images a second at batch 1."""
    preset = PRESETS[preset_name]
    levels = preset.levels_for(side, side)
    torch.manual_seed(0)
    made = TSITGenerator(3, 3, 3, levels=levels, width=preset.width, cap=preset.cap, norm="joint").eval()
    net: Any = fold_spectral_norm(made)
    draws = torch.Generator().manual_seed(0)
    images, noise = torch.rand(1, 3, side, side, generator=draws), net.draw_start(1, side, side, draws)
    spent = []
    with torch.inference_mode():
        net(images, images, noise)
        while sum(spent) < seconds or len(spent) < 3:
            spent.append(timed(lambda: net(images, images, noise))[1])
    parameters = sum(p.numel() for p in net.parameters() if isinstance(p, nn.Parameter))
    return {
        "preset": preset_name,
        "side": side,
        "parameters": parameters,
        "images_per_second": 1 / statistics.median(spent),
        "calls": len(spent),
    }


def main() -> None:
    """Measure what is asked for, each in a process of its own, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", nargs="*", default=["published-256", "large-128", "small-64"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--no-inference", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if given.one:
        kind, preset, side = given.one.split("-")
        found = (
            measure_step(preset, int(side), given.batch, given.repeats)
            if kind == "step"
            else measure_inference(preset, int(side))
        )
        print(json.dumps(found))
        return
    asked = [f"step-{name}" for name in given.steps]
    if not given.no_inference:
        asked += [f"use-{preset}-{side}" for preset, sides in USED.items() for side in sides]
    document = json.loads(given.out.read_text()) if given.out.exists() else {}
    document["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    for name in asked:
        call = [sys.executable, __file__, "--one", name, "--repeats", str(given.repeats), "--batch", str(given.batch)]
        answer = subprocess.run(call, check=True, capture_output=True, text=True)
        document.setdefault("figures", {})[name] = json.loads(answer.stdout.splitlines()[-1])
        print(name, answer.stdout.splitlines()[-1], flush=True)
        given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
