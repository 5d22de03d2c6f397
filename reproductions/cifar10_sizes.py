"""CIFAR-10 accuracy of infinitely wide networks against training size: perceptron, CNN with flatten, pooled networks.

    PLURIFORM_DATA=... python reproductions/cifar10_sizes.py [--nets mlp cnn myrtle5 wrn] [--out runs/cifar10-sizes]
    python reproductions/cifar10_sizes.py --figure

Kernels (NNGP and NTK, float32, weight variance 2 over the fan-in, no biases) go tile by tile into stores under OUT; a
run that was stopped goes on. Training images lie in an order drawn once; a part is a run of them, parts of a size are
disjoint, at most ten. Pooled networks use the first 1,000 images (`--small`), the others the first 10,000 (`--large`);
all are judged on the same test images. Kernel and ridge of every part are chosen by leave-one-out accuracy on that
part, never on test images.

Writes reproductions/cifar10_sizes.json and docs/figures/cifar10_sizes.png. Intervals are 95 %, over test images: of the
mean over parts, and of differences between networks on the same images and the parts that both have.

References:
    Novak et al. 2019, arXiv:1810.05148, and Arora et al. 2019, arXiv:1904.11955 (order of fully-connected,
    convolutional and pooled kernels).
    Shankar et al. 2020, Neural Kernels Without Tangents, arXiv:2003.02237 (Myrtle).
"""

import argparse
import itertools
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pluriform as pf
from pluriform.gaussian_process import condition, spectrum
from pluriform.infinite import kernel_of
from pluriform.infinite.store import StoredKernel, kernel_store
from pluriform.nets.myrtle import Myrtle
from pluriform.nets.resnet import WideResNet

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
KERNELS = ("nngp", "ntk")
CLASSES = 10
WHOLE_GRID = 2500
MOST_PARTS = 10
WIDTH = 4
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "cifar10_sizes.png"


def mlp() -> nn.Module:
    """Five layers of weights on pixels."""
    sizes = [3 * 32 * 32, *[WIDTH] * 4, 1]
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def cnn() -> nn.Module:
    """Five 3x3 convolutions with zero padding, flattened into a linear layer."""
    channels = [3, *[WIDTH] * 5]
    layers = [part for pair in itertools.pairwise(channels) for part in (nn.Conv2d(*pair, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH * 32 * 32, 1))


def myrtle5() -> nn.Module:
    """Four 3x3 convolutions with average pooling between and after them, and a linear layer."""
    return Myrtle((3, 32, 32), 1, width=WIDTH)


def wrn() -> nn.Module:
    """WRN-10-1 without normalisation, with global average pooling."""
    return WideResNet((3, 32, 32), 1, depth=10, widen=1, norm=False)


NETS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn, "myrtle5": myrtle5, "wrn": wrn}
LABELS = {
    "mlp": "perceptron, 5 layers",
    "cnn": "CNN, 5 layers, flatten",
    "myrtle5": "Myrtle-5, pooled",
    "wrn": "WRN-10-1, pooled",
}
POOLED = ("myrtle5", "wrn")
ORDER = (("mlp", "cnn"), ("cnn", "myrtle5"), ("cnn", "wrn"))


@dataclass(frozen=True, eq=False)
class Images:
    """Training images in an order drawn once, and test images; colours standardised over the training images."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor


def read_images(samples: int, tests: int, seed: int) -> Images:
    """So many of each."""
    data = pf.load("cifar10", validation=5000, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train.inputs), generator=generator)[:samples]
    chosen = torch.randperm(len(data.test.inputs), generator=generator)[:tests]
    mean, deviation = (part(data.train.inputs, (0, 2, 3), keepdim=True) for part in (torch.mean, torch.std))
    train, test = ((part - mean) / deviation for part in (data.train.inputs[order], data.test.inputs[chosen]))
    return Images(train, data.train.targets[order], test, data.test.targets[chosen])


def coded(labels: Tensor) -> Tensor:
    """One-hot less its mean, float64."""
    return nn.functional.one_hot(labels, CLASSES).double() - 1 / CLASSES


@dataclass(frozen=True)
class Chosen:
    """What leave-one-out chose."""

    kernel: str
    ridge: float
    leave_one_out: float


@dataclass(frozen=True, eq=False)
class Tried:
    """One kernel at one ridge: leave-one-out accuracy (among equals, less squared error), and the weights."""

    score: tuple[float, float]
    ridge: float
    weights: Tensor


def tries(gram: Tensor, labels: Tensor, ridges: tuple[float, ...]) -> Iterator[Tried]:
    """Relative ridges on one kernel: by one eigendecomposition, or a Cholesky factor each where that is cheaper."""
    targets, scale = coded(labels), float(gram.diagonal().double().mean())
    basis = spectrum(gram, targets) if len(ridges) > 3 else None
    for ridge in ridges:
        if basis is not None:
            left_out, weights = basis.leave_one_out(ridge * scale), basis.weights(ridge * scale)
        else:
            process = condition(gram, targets, ridge * scale)
            left_out, weights = process.leave_one_out(), process.weights
        accuracy = float((left_out.argmax(1) == labels).double().mean())
        yield Tried((accuracy, -float(((left_out - targets) ** 2).mean())), ridge, weights)


def best_of(gram: Tensor, labels: Tensor) -> Tried:
    """Over all ridges; beyond 2,500 samples over the best one of the first 2,500 and its two neighbours."""
    if len(gram) <= WHOLE_GRID:
        return max(tries(gram, labels, RIDGES), key=lambda tried: tried.score)
    start = RIDGES.index(best_of(gram[:WHOLE_GRID, :WHOLE_GRID], labels[:WHOLE_GRID]).ridge)
    return max(tries(gram, labels, RIDGES[max(start - 1, 0) : start + 2]), key=lambda tried: tried.score)


def choose(grams: dict[str, Tensor], labels: Tensor) -> tuple[Chosen, Tensor]:
    """Kernel and relative ridge by leave-one-out, and the weights."""
    found = {kernel: best_of(gram, labels) for kernel, gram in grams.items()}
    kernel = max(found, key=lambda name: found[name].score)
    return Chosen(kernel, found[kernel].ridge, round(100 * found[kernel].score[0], 2)), found[kernel].weights


def judge(train: StoredKernel, cross: StoredKernel, images: Images, part: slice) -> dict:
    """One training part: what was chosen on it, and which test images come out right."""
    rows = torch.from_numpy
    grams = {name: rows(matrix[part, part]) for name in KERNELS if (matrix := getattr(train, name)) is not None}
    chosen, weights = choose(grams, images.labels[part])
    mean = rows(getattr(cross, chosen.kernel)[:, part]).double() @ weights
    return vars(chosen) | {"right": (mean.argmax(1) == images.test_labels).int().tolist()}


def wilson(right: int, count: int) -> list[float]:
    """The 95 % interval of a share, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return [round(100 * float(interval.low), 2), round(100 * float(interval.high), 2)]


def over_images(values: np.ndarray) -> dict:
    """Mean in percent and its normal interval over test images, of per-image means over parts."""
    mean, half = 100 * values.mean(), 196 * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": round(float(mean), 2), "interval_95": [round(float(mean - half), 2), round(float(mean + half), 2)]}


def row(net: str, size: int, parts: list[dict]) -> dict:
    """Accuracy of a network at a size."""
    right = np.array([part["right"] for part in parts], dtype=float)
    shown = [
        {
            "kernel": part["kernel"],
            "ridge": part["ridge"],
            "leave_one_out": part["leave_one_out"],
            "accuracy": round(100 * float(np.mean(part["right"])), 2),
            "wilson_95": wilson(int(sum(part["right"])), len(part["right"])),
        }
        for part in parts
    ]
    spread = round(float(100 * right.mean(1).std(ddof=1)), 2) if len(parts) > 1 else None
    return {"net": net, "size": size} | over_images(right.mean(0)) | {"sd_over_parts": spread, "parts": shown}


def differences(scores: dict[tuple[str, int], list[dict]]) -> list[dict]:
    """Between neighbours in the published order, on the same images and the parts that both have."""
    found = []
    for size, (lower, higher) in itertools.product(sorted({size for _, size in scores}), ORDER):
        both = [scores.get((net, size), []) for net in (lower, higher)]
        parts = min(map(len, both))
        if parts:
            means = [np.array([part["right"] for part in one[:parts]], float).mean(0) for one in both]
            gain = over_images(means[1] - means[0])
            signs = {"order_holds": gain["mean"] > 0, "beyond_the_interval": gain["interval_95"][0] > 0}
            found.append({"size": size, "higher": higher, "lower": lower, "parts": parts} | gain | signs)
    return found


def scores_of(net: str, images: Images, sizes: list[int], folder: Path, dtype: torch.dtype) -> dict[int, list[dict]]:
    """All sizes of one network from one pair of stores, as large as the largest size."""
    pool = max(sizes)
    wanted = {size: folder / f"{net}-{pool}-{size}.json" for size in sizes}
    missing = [size for size, path in wanted.items() if not path.exists()]
    if missing:
        function = kernel_of(NETS[net](), images.train[:2], weight_var=2.0, bias_var=0.0)
        begin = time.perf_counter()
        samples = images.train[:pool]
        train = kernel_store(folder / f"{net}-{pool}-train.zarr", function, samples, mirrored=False, dtype=dtype)
        cross = kernel_store(folder / f"{net}-{pool}-test.zarr", function, images.test, samples, dtype=dtype)
        print(f"{net} {pool}: kernels {time.perf_counter() - begin:.0f} s", flush=True)
        for size in missing:
            parts = [slice(first, first + size) for first in range(0, pool - size + 1, size)][:MOST_PARTS]
            found = [judge(train, cross, images, part) for part in parts]
            wanted[size].write_text(json.dumps(found))
            print(net, row(net, size, found) | {"parts": len(found)}, flush=True)
    return {size: json.loads(path.read_text()) for size, path in wanted.items()}


def draw(outcome: dict, path: Path) -> None:
    """Accuracy against training size with bands, each line named at its end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    colours = {"mlp": "#4d4d4d", "cnn": "#0072b2", "myrtle5": "#d55e00", "wrn": "#009e73"}
    sizes = sorted({row["size"] for row in outcome["rows"]})
    for net, colour in colours.items():
        rows = sorted((row for row in outcome["rows"] if row["net"] == net), key=lambda row: row["size"])
        if rows:
            x, y = [row["size"] for row in rows], [row["mean"] for row in rows]
            low, high = zip(*(row["interval_95"] for row in rows), strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, y, color=colour, marker="o", markersize=4)
            ends_early = x[-1] < sizes[-1]  # Then other lines are beside the end: the name goes above the band.
            at, shift, side = ((x[-1], high[-1]), (0, 5), "center") if ends_early else ((x[-1], y[-1]), (8, 0), "left")
            upright = "bottom" if ends_early else "center"
            axes.annotate(LABELS[net], at, shift, textcoords="offset points", color=colour, ha=side, va=upright)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] * 0.9, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42)
    axes.set_xlabel("training images")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(f"CIFAR-10, infinitely wide networks, {outcome['tests']:,} test images, 95 % bands", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Compute what is missing, then write the JSON and the figure from all that is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-sizes"))
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--small", nargs="*", type=int, default=[250, 500, 1000])
    parser.add_argument("--large", nargs="*", type=int, default=[2500, 5000, 10000])
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float64", action="store_true", help="the plain engine instead of the fused one")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--png", type=Path, default=FIGURE)
    parser.add_argument("--figure", action="store_true", help="only draw from the JSON")
    chosen = parser.parse_args()
    if not chosen.figure:
        torch.set_grad_enabled(False)
        chosen.out.mkdir(parents=True, exist_ok=True)
        images = read_images(max(chosen.small + chosen.large), chosen.tests, chosen.seed)
        dtype = torch.float64 if chosen.float64 else torch.float32
        scores: dict[tuple[str, int], list[dict]] = {}
        for net in chosen.nets:
            sizes = chosen.small if net in POOLED else chosen.small + chosen.large
            found = scores_of(net, images, sizes, chosen.out, dtype)
            scores |= {(net, size): parts for size, parts in found.items()}
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        order = differences(scores)
        outcome = {
            "what": __doc__.splitlines()[0],
            "tests": chosen.tests,
            "seed": chosen.seed,
            "machine": f"{platform.machine()}, torch {torch.__version__}",
            "commit": commit,
            "rows": [row(net, size, parts) for (net, size), parts in scores.items()],
            "differences": order,
            "order_holds_everywhere": all(pair["order_holds"] for pair in order),
        }
        chosen.json.write_text(json.dumps(outcome, indent=1) + "\n")
    draw(json.loads(chosen.json.read_text()), chosen.png)


if __name__ == "__main__":
    main()
