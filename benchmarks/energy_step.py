"""Cost of one step of JEM in forward passes: counted 2 K + 9, measured with and without fused kernels, and by hand.

    OMP_NUM_THREADS=1 python benchmarks/energy_step.py [--threads 1] [--repeats 7] [--networks mlp lenet wrn]

The unit is a forward pass of one batch without gradients, a backward pass of weights and inputs counts 2, one of inputs
alone 1. K = 20 chain steps then are 40, and loss and gradients of a labelled batch, a batch of p(x) and the chains 9.
`by_hand` is the loop as it was published, written plainly: chains of `torch.autograd.grad` with the graph retained,
three forward passes, `backward`, an optimiser. Times are wall seconds, least of interleaved repeats. Writes
energy_step.json beside this file.

References:
    Grathwohl et al. 2020. Your Classifier is Secretly an Energy Based Model. arXiv:1912.03263.
"""

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.data.data import Data, Split
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.joint import Joint, Terms
from pluriform.energy.langevin import Langevin
from pluriform.energy.normalisation import prepared
from pluriform.energy.space import Space
from pluriform.energy.start import UniformStart
from pluriform.energy.streams import Cycle
from pluriform.nets.zoo import build
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch, Feed
from pluriform.training.loss import Loss

K = 20
COUNTED = 2 * K + 9
BATCH = 64
MOST = 1.15


class Block(nn.Module):
    """A pre-activation residual block without normalisation, as in the WRN of JEM."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, channels, 3, stride, 1)
        self.two = nn.Conv2d(channels, channels, 3, 1, 1)
        self.pass_by = nn.Conv2d(before, channels, 1, stride) if stride > 1 or before != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        return self.pass_by(x) + self.two(F.leaky_relu(self.one(F.leaky_relu(x, 0.2)), 0.2))


def wrn() -> nn.Module:
    """WRN-10-1 on 32x32 colour images, 78,000 parameters."""
    blocks = (Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
    head = (nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *blocks, *head)


SHAPES = {"mlp": (1, 8, 8), "lenet": (1, 28, 28), "wrn": (3, 32, 32)}


def data_of(name: str) -> Data:
    """Noise of the size of digits, MNIST or CIFAR-10; its content does not change the time."""
    generator = torch.Generator().manual_seed(0)
    splits = [
        Split(torch.rand(n, *SHAPES[name], generator=generator), torch.arange(n) % 10) for n in (4096, BATCH, BATCH)
    ]
    return Data(name, "classification", *splits, classes=tuple("0123456789"), bounds=(0.0, 1.0))


def network_of(name: str, data: Data) -> nn.Module:
    """With smooth nonlinearities, but for the WRN."""
    torch.manual_seed(0)
    return wrn() if name == "wrn" else prepared(build(name, data, seed=0), "refuse", smooth=True)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    """The same for all."""
    return torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0, fused=True)


def ours(network: nn.Module, data: Data, *, fused: bool) -> Callable[[], None]:
    """A step of `JEM`."""
    space = Space.of(data)
    buffer = ReplayBuffer(UniformStart(space, data.input_shape), 10_000, 10)
    device = torch.device("cpu")
    joint = Joint(
        network,
        Terms(),
        Langevin(K),
        buffer,
        Cycle(Feed(data, BATCH, 1, Augmentation(), device)),
        Loss("classification"),
        labelled_first=True,
        renewed=0.05,
        input_noise=0.03,
        density_noise=True,
        conditional=False,
        policy="refuse",
        rho=0.0,
        fused=fused,
    )
    batches, optimizer = Cycle(Feed(data, BATCH, 0, Augmentation(), device)), optimizer_of(network)
    count = iter(range(10**9))

    def step() -> None:
        figures = joint(batches.at(next(count)))
        joint.watch.check(figures)
        optimizer.zero_grad()
        figures["loss"].backward()
        optimizer.step()

    return step


def by_hand(network: nn.Module, data: Data) -> Callable[[], None]:
    """The loop as published, in [-1, 1]."""
    samples = torch.rand(10_000, *data.input_shape) * 2 - 1
    inputs, labels = data.train.inputs * 2 - 1, data.train.targets
    optimizer = optimizer_of(network)

    def chains() -> Tensor:
        network.eval()
        index = torch.randint(0, len(samples), (BATCH,))
        kept, fresh = samples[index], torch.rand(BATCH, *data.input_shape) * 2 - 1
        choose = (torch.rand(BATCH) < 0.05).float()[:, None, None, None]
        x = (choose * fresh + (1 - choose) * kept).requires_grad_()
        for _ in range(K):
            gradient = torch.autograd.grad(network(x).logsumexp(1).sum(), [x], retain_graph=True)[0]
            x.data += gradient + 0.01 * torch.randn_like(x)
        network.train()
        samples[index] = x.detach()
        return x.detach()

    def step() -> None:
        one, two = (torch.randint(0, len(inputs), (BATCH,)) for _ in range(2))
        x = inputs[one] + 0.03 * torch.randn(BATCH, *data.input_shape)
        noisy = inputs[two] + 0.03 * torch.randn(BATCH, *data.input_shape)
        fake = chains()
        gap = network(x).logsumexp(1).mean() - network(fake).logsumexp(1).mean()
        loss = F.cross_entropy(network(noisy), labels[two]) - gap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def forward_pass(network: nn.Module, data: Data) -> Callable[[], None]:
    """The unit."""
    batch = Batch(data.train.inputs[:BATCH].clone(), data.train.targets[:BATCH])

    @torch.no_grad()
    def step() -> None:
        network.eval()
        network(batch.inputs)

    return step


def measure(name: str, repeats: int) -> dict:
    """Seconds of all, and in forward passes."""
    data = data_of(name)
    network = network_of(name, data)
    cases = {
        "forward": forward_pass(copy.deepcopy(network), data),
        "ours": ours(copy.deepcopy(network), data, fused=False),
        "ours_fused": ours(copy.deepcopy(network), data, fused=True),
        "by_hand": by_hand(copy.deepcopy(network), data),
    }
    times: dict[str, list[float]] = {way: [] for way in cases}
    for repeat in range(repeats + 1):
        for way, case in cases.items():
            calls = COUNTED if way == "forward" else 1
            start = time.perf_counter()
            for _ in range(calls):
                case()
            if repeat:
                times[way].append((time.perf_counter() - start) / calls)
    least = {way: min(taken) for way, taken in times.items()}
    passes = {way: round(taken / least["forward"], 1) for way, taken in least.items() if way != "forward"}
    return {
        "network": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch": BATCH,
        "chain_steps": K,
        "counted_forward_passes": COUNTED,
        "milliseconds": {way: round(1e3 * taken, 2) for way, taken in least.items()},
        "measured_forward_passes": passes,
        "over_count": {way: round(found / COUNTED, 3) for way, found in passes.items()},
        "by_hand_over_ours": round(least["by_hand"] / least["ours_fused"], 2),
        "within": min(passes["ours"], passes["ours_fused"]) <= MOST * COUNTED,
    }


def main() -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = []
    for name in chosen.networks:
        rows.append(measure(name, chosen.repeats))
        print(rows[-1], flush=True)
    record = {
        "what": __doc__.splitlines()[0],
        "threads": chosen.threads,
        "repeats": chosen.repeats,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cases": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
