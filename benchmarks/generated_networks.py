"""Networks drawn by a generator, computed in every way, beside a plain loop over modules and a counted floor.

    python benchmarks/generated_networks.py

Writes benchmarks/generated_networks.json: median wall-clock milliseconds on a machine that does nothing else. The floor
is the larger of two counts: twice the multiplications of the forward pass, and of both gradients but that of the
inputs, over the measured rate of matrix products; and the weights read, and gradients written, over the measured rate
of copying.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.ensemble.calling import Calling, by_count, call_members, multiplications, takes_channels_last
from pluriform.ensemble.hypergan.gradients import CHUNK, gradients_of, measured_calling
from pluriform.errors import GraphError
from pluriform.graph.parameters import stack
from pluriform.nets.lenet import LeNet
from pluriform.nets.mlp import MLP
from pluriform.nets.resnet import ResNet
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss


def mnist() -> nn.Module:
    """The target network of the paper: 31,594 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


class Transformer(nn.Module):
    """Patches of 4 x 4, one pre-norm block of 4 heads, mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, 3, height, width)` to `(batch, 10)`."""
        return self.out(self.block(self.patches(x).flatten(2).mT).mean(1))


@dataclass(frozen=True)
class Case:
    """What is measured; `train` asks for losses and gradients, else outputs."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    members: int
    train: bool = True


CASES = {
    "LeNet, batch 100": Case(lambda: LeNet((1, 28, 28), 10), (1, 28, 28), 100, 16),
    "digits MLP 64-256-256-10, batch 32": Case(lambda: MLP((1, 8, 8), 10), (1, 8, 8), 32, 32),
    "prediction: 100 draws of the digits MLP, 8 images": Case(lambda: MLP((1, 8, 8), 10), (1, 8, 8), 8, 100, False),
    "MNIST target of HyperGAN, batch 64": Case(mnist, (1, 28, 28), 64, 8),
    "ResNet-20, batch 16": Case(lambda: ResNet((3, 32, 32), 10), (3, 32, 32), 16, 4),
    "transformer block, batch 16": Case(Transformer, (3, 32, 32), 16, 4),
}


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, measured in turn, so that a drift of the machine meets all; two rounds warm up."""
    rounds = [{name: seconds(work) for name, work in ways.items()} for _ in range(repeats + 2)][2:]
    return {name: 1e3 * statistics.median(row[name] for row in rounds) for name in ways}


def rates(repeats: int) -> tuple[float, float]:
    """Operations a second of a matrix product, and bytes a second (read and written) of a copy."""
    a, source = torch.rand(2048, 2048), torch.rand(2**26)
    target = torch.empty_like(source)
    found = in_turn({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, repeats)
    return 2 * 2048**3 / found["product"] * 1e3, 2 * 4 * 2**26 / found["copy"] * 1e3


def first_layer(module: nn.Module, x: Tensor) -> int:
    """Multiplications a sample of the first layer, whose inputs need no gradient."""
    layer = next(part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    found: list[int] = []
    handle = layer.register_forward_hook(lambda _, __, out: found.append(out[0].numel() * layer.weight[0].numel()))
    with torch.no_grad():
        module(x)
    handle.remove()
    return found[0]


def floor(case: Case, module: nn.Module, x: Tensor, bytes_: int, rate: tuple[float, float]) -> dict[str, float]:
    """Milliseconds that operations and bytes take at least."""
    one = multiplications(module, x[:1])
    count = 3 * one - first_layer(module, x[:1]) if case.train else one
    operations = 2 * count * case.samples * case.members / rate[0] * 1e3
    moved = (2 if case.train else 1) * bytes_ / rate[1] * 1e3
    return {"operations_ms": operations, "bytes_ms": moved}


def measure(case: Case, repeats: int, rate: tuple[float, float]) -> dict[str, Any]:
    """All ways of one case."""
    torch.manual_seed(0)
    modules = [case.make().train(case.train) for _ in range(case.members)]
    template = modules[0]
    weights = {name: part.detach() for name, part in stack(modules).parameters.items()}
    x, y = torch.randn(case.samples, *case.shape), torch.randint(0, 10, (case.samples,))
    batch, loss = Batch(x, y), Loss("classification")

    def compute(calling: Calling) -> list[Tensor]:
        if case.train:
            found = gradients_of(template, weights, batch, loss, calling, False)
            return [found.losses, *(found.drawn[name] for name in weights)]
        with torch.no_grad():
            return [call_members(template, weights, x, calling)]

    def plain() -> None:
        for module in modules:
            if case.train:
                module.zero_grad()
                nn.functional.cross_entropy(module(x), y).backward()
            else:
                with torch.no_grad():
                    module(x)

    callings = {"loop": Calling("loop", 1), "vmap": Calling("vmap", case.members)}
    callings |= {"chunk": Calling("chunk", CHUNK), "fused": Calling("fused", CHUNK)}
    if takes_channels_last(template, x[:2]):
        callings["loop, channels last"] = Calling("loop", 1, True)
    chosen = measured_calling(template, weights, batch, loss, False) if case.train else None
    chosen = chosen or by_count(template, weights, x, case.members)
    results: dict[str, list[Tensor]] = {}
    for name, calling in list(callings.items()):
        try:
            results[name] = compute(calling)
        except GraphError as error:
            results.pop(name, None)
            callings.pop(name)
            refused = f"{name}: {error}"
    work = {name: lambda calling=calling: compute(calling) for name, calling in callings.items()}
    took = in_turn({"modules": plain, **work}, repeats)
    bytes_ = sum(part.numel() * 4 for part in weights.values())
    low = floor(case, template, x, bytes_, rate)
    choice = chosen.way + (", channels last" if chosen.channels_last and chosen.way == "loop" else "")
    best, least = took[choice], max(low.values())
    row = {
        "members": case.members,
        "milliseconds": {name: round(value, 3) for name, value in took.items()},
        "chosen": choice,
        "fastest": min(callings, key=lambda name: took[name]),
        "floor": {name: round(value, 3) for name, value in low.items()},
        "chosen_over_floor": round(best / least, 3),
        "modules_over_chosen": round(took["modules"] / best, 3),
        "samples_per_ms": round(case.samples * case.members / best, 2),
        "difference_from_loop": {name: difference(found, results["loop"]) for name, found in results.items()},
    }
    return row | ({} if "fused" in callings else {"refused": refused})


def difference(found: list[Tensor], known: list[Tensor]) -> float:
    """Norm of the difference of all numbers over their norm."""
    one, two = (torch.cat([part.flatten() for part in parts]) for parts in (found, known))
    return float((one - two).norm() / two.norm())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.backends.mha.set_fastpath_enabled(False)  # Its operation is not counted.
    rate = rates(asked.repeats)
    rows = {name: measure(case, asked.repeats, rate) for name, case in CASES.items() if asked.only in name}
    outcome = {
        "what": f"losses and gradients (or outputs) of drawn networks, median of {asked.repeats}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "product_gflops": round(rate[0] / 1e9, 1),
        "copy_gb_a_second": round(rate[1] / 1e9, 1),
        "cases": rows,
    }
    asked.out.write_text(json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))
