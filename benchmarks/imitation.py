"""An epoch of imitation beside a plain epoch of the thin network, and beside what it cannot do without.

    OMP_NUM_THREADS=1 python benchmarks/imitation.py [--repeats 9] [--samples 1024] [--out benchmarks/imitation.json]

Deep thin networks with a wide partner of four times the channels (three for the residual one), random images. An epoch
of imitation is one epoch of every unit, so the thin network is trained once from its first layer to its last.

`cached over plain`: epochs of all units on cached activations, over an epoch of ordinary training of the thin network.
`streamed over floor`: epochs of all units that compute every batch from its start, over the sum of their parts, each
measured alone at the same batch size: the wide network forward up to the end of the unit, the thin one forward up to
its start, and the unit's own step on tensors at hand. `filling` is what computing the cache takes once, in plain
epochs. Long trainings of chains take fused kernels, plain ones and units alike; `kernels` says which rows do.

CPU seconds of the process on one thread, so that other work on the machine counts less; medians of interleaved repeats
after one to warm up. All steps include optimiser, clipping and checks. Writes the JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pluriform.data.data import Data, Split
from pluriform.graph.gather import widen
from pluriform.graph.graph import Graph
from pluriform.method import FitContext
from pluriform.narrow import imitation as imitation_file
from pluriform.narrow.imitation import Imitation
from pluriform.narrow.plan import plan_units
from pluriform.narrow.source import Source, Streamed
from pluriform.narrow.wide import read
from pluriform.nets.resnet import ResNet
from pluriform.training import step as step_file
from pluriform.training.feed import Batch, Feed
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe

BATCH = 64
RECIPE = Recipe(epochs=1, batch_size=BATCH, clip_norm=1.0)
CPU = torch.device("cpu")


def images(count: int, shape: tuple[int, ...]) -> Data:
    """Noise, for timing only."""
    generator = torch.Generator().manual_seed(0)
    splits = [Split(torch.rand(n, *shape, generator=generator), torch.arange(n) % 10) for n in (count, BATCH, BATCH)]
    return Data("noise", "classification", *splits, classes=tuple("0123456789"), bounds=(0.0, 1.0))


def chain(channels: int, width: int) -> nn.Module:
    """20 convolutions behind one that halves the resolution."""
    parts: list[nn.Module] = [nn.Conv2d(channels, width, 2, stride=2), nn.ReLU()]
    for _ in range(20):
        parts += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Place:
    """One unit of an imitation, ready to be trained, behind units that are not."""

    def __init__(self, thin: Graph, wide: Graph, data: Data, place: int, cache_bytes: int | None) -> None:
        imitation = Imitation(thin, wide, plan_units(thin, wide), RECIPE, cache_bytes=cache_bytes)
        source, before = imitation._source(data), None
        for earlier in range(place):
            network = imitation._network(earlier, before, source)
            source, before = imitation._passed_on(earlier, network, source), network
        network = imitation._network(place, before, source)
        measure = imitation._measure(place, source)
        self.source: Source = source
        self.loop: Loop = imitation._loop(place, network, source, measure, FitContext(0, None, CPU))

    def epoch(self) -> None:
        """All steps of one epoch."""
        epoch(self.loop)

    def at_hand(self, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
        """As many steps on one pair of tensors, from a place whose pairs are held."""
        steps = self.loop.feed.steps

        def run() -> None:
            self.loop.network.train()
            for _ in range(steps):
                self.loop._step(Batch(inputs, targets))

        return run


def epoch(loop: Loop) -> None:
    """All steps of one epoch, without validation."""
    loop.network.train()
    for batch in loop.feed.batches(0):
        loop._step(batch)


def plain(network: nn.Module, data: Data) -> Loop:
    """Ordinary training."""
    feed = Feed(data, BATCH, 0, RECIPE.augmentation, CPU)
    step = step_file.training_step(network, Loss(data.task), feed, RECIPE, 1)
    return Loop(network, step, feed, RECIPE, seed=0, epochs=1)


def prefix(call: Callable[[torch.Tensor], Any], inputs: torch.Tensor, steps: int) -> Callable[[], None]:
    """A network forward, as often as an epoch has steps."""

    @torch.no_grad()
    def run() -> None:
        for _ in range(steps):
            call(inputs)

    return run


def medians(cases: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each case, in turns, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            begin = time.process_time()
            case()
            if repeat:
                found[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in found.items()}


def measured(name: str, network: nn.Module, factor: int, data: Data, least: float, repeats: int) -> dict[str, Any]:
    """One row: all cases of one network in turns."""
    for file in (imitation_file, step_file):
        file.LEAST_MULTIPLICATIONS = least
    thin = read(network.eval(), data)
    wide = widen(thin, factor)
    count = len(plan_units(thin, wide).units)
    cached = [Place(thin, wide, data, place, None) for place in range(count)]
    streamed = [Place(thin, wide, data, place, 0) for place in range(count)]
    ordinary = plain(network, data)
    steps, given = ordinary.feed.steps, data.train.inputs[:BATCH]
    cases: dict[str, Callable[[], Any]] = {"plain": lambda: epoch(ordinary)}
    cases["filling"] = lambda: Place(thin, wide, data, count - 1, None)
    for place in range(count):
        source = streamed[place].source
        if not isinstance(source, Streamed):
            raise TypeError("nothing may be held")
        inputs, targets = source.pair(given, given)
        cases |= {
            f"cached {place}": cached[place].epoch,
            f"streamed {place}": streamed[place].epoch,
            f"wide {place}": prefix(source.wide, given, steps),
            f"thin {place}": prefix(source.thin, given, steps),
            f"unit {place}": cached[place].at_hand(inputs, targets),
        }
    spent = medians(cases, repeats)
    total = {kind: sum(v for k, v in spent.items() if k.startswith(f"{kind} ")) for kind in ("cached", "streamed")}
    floor = {kind: sum(v for k, v in spent.items() if k.startswith(f"{kind} ")) for kind in ("wide", "thin", "unit")}
    return {
        "network": name,
        "units": count,
        "factor": factor,
        "kernels": "fused" if least == 0 else "library",
        "cpu_ms_an_image": {
            "plain": 1e3 * spent["plain"] / len(data.train),
            **{kind: 1e3 * value / len(data.train) for kind, value in (total | floor).items()},
        },
        "cached over plain": total["cached"] / spent["plain"],
        "streamed over floor": total["streamed"] / sum(floor.values()),
        "filling over plain": spent["filling"] / spent["plain"],
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    grey, colour = images(chosen.samples, (1, 28, 28)), images(chosen.samples, (3, 32, 32))
    never = float("inf")
    cases = [
        ("20 convolutions of 8 channels, 14x14", lambda: chain(1, 8), 4, grey, never),
        ("20 convolutions of 8 channels, 14x14", lambda: chain(1, 8), 4, grey, 0.0),
        ("20 convolutions of 16 channels, 16x16", lambda: chain(3, 16), 4, colour, 0.0),
        ("ResNet-20 of 8 channels, 32x32", lambda: ResNet((3, 32, 32), 10, width=8), 3, colour, never),
    ]  # fmt: skip
    rows = []
    for name, made, factor, data, least in cases:
        torch.manual_seed(0)
        rows.append(measured(name, made(), factor, data, least, chosen.repeats))
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "clock": "CPU seconds of the process, one thread, medians in turns",
        "batch": BATCH,
        "samples": chosen.samples,
        "repeats": chosen.repeats,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "targets": {"cached over plain": 1.5, "streamed over floor": 1.2},
        "rows": [{k: _short(v) for k, v in row.items()} for row in rows],
    }
    chosen.out.write_text(json.dumps(record, indent=1) + "\n")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
