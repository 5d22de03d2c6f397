"""All 50,000 CIFAR-10 training images and an infinitely wide 5-layer perceptron: one exact kernel, one exact solve.

    PLURIFORM_DATA=... python reproductions/cifar10_mlp.py [--zca] [--samples 50000] [--out runs/cifar10-mlp]

Phases, each kept on disk so that a run that was stopped goes on with the one it was in: preprocess (`--zca`:
regularised whitening), tune (kernel, bias variance, regularisation and ridge on held-out training images), kernel
(float32, tile by tile into a store), solve (float64, packed Cholesky in memory), predict (10,000 test images, used
once).

The relative ridge r adds r * mean(diag K) to the diagonal. Whitening with covariance U D U' of the training images:

    x' = U (D / mean(D) + eps)^-1/2 U' (x - mean)

Writes reproductions/cifar10_mlp.json, where plain and whitened runs stand beside each other.

References:
    Lee, Schoenholz, Pennington, Adlam, Xiao, Novak, Sohl-Dickstein 2020. Finite Versus Infinite Neural Networks: an
    Empirical Study. arXiv:2007.15801 (regularised ZCA; 59.7 % for the best fully-connected NNGP and NTK).
    Shankar, Fang, Guo, Fridovich-Keil, Schmidt, Ragan-Kelley, Recht 2020. Neural Kernels Without Tangents.
    arXiv:2003.02237.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pluriform as pf
from pluriform.gaussian_process import condition
from pluriform.gaussian_process.tiled_cholesky import condition_tiled
from pluriform.gaussian_process.tiles import PackedTiles
from pluriform.infinite import kernel_of
from pluriform.infinite.kernel_function import KernelFunction
from pluriform.infinite.store import StoredMatrix, kernel_store

PUBLISHED = {"best fully-connected with ZCA, NNGP and NTK": 59.7, "best before, NNGP": 59.9, "the issue's goal": 57.0}
BIASES = (0.0, 0.03, 0.1, 0.3)
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1)
WHITENINGS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
KERNELS = ("nngp", "ntk")
TILE = 2000
CLASSES = 10


def perceptron(features: int) -> nn.Module:
    """Five layers of weights, ReLU between; the widths do not matter."""
    sizes = [features, 8, 8, 8, 8, 1]
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def kernel_function(inputs: Tensor, bias: float) -> KernelFunction:
    """The kernel of the perceptron at weight variance 2 over the fan-in."""
    return kernel_of(perceptron(inputs.shape[1]), inputs[:2], weight_var=2.0, bias_var=bias)


@dataclass(frozen=True)
class Setting:
    """What is tuned."""

    kernel: str
    bias: float
    ridge: float
    whitening: float | None = None


@dataclass(frozen=True, eq=False)
class Whitening:
    """Regularised ZCA fitted on training images.

    Attributes:
        mean: Of every feature.
        variance: Mean eigenvalue of the covariance.
        values: Eigenvalues over their mean.
        vectors: Eigenvectors, in columns.
    """

    mean: Tensor
    variance: float
    values: Tensor
    vectors: Tensor

    @staticmethod
    def fit(inputs: Tensor) -> "Whitening":
        """From `(n, features)`."""
        mean = inputs.mean(0)
        centred = inputs - mean
        values, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(inputs))
        values = values.clamp_min(0.0)
        return Whitening(mean, float(values.mean()), values / values.mean(), vectors)

    def apply(self, inputs: Tensor, eps: float) -> Tensor:
        """Whitened inputs, scaled to a mean square of one on the training images."""
        scale = (self.variance * float((self.values / (self.values + eps)).mean())) ** -0.5
        matrix = scale * (self.vectors * (self.values + eps).rsqrt()) @ self.vectors.T
        return (inputs - self.mean) @ matrix.float()


def standardised(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Each colour to mean 0 and deviation 1 over the training images; flat."""
    return ((images - mean) / deviation).flatten(1)


@dataclass(frozen=True, eq=False)
class Images:
    """Standardised training and test images, flat, with their labels; training ones in an order drawn once."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor


def read_images(samples: int, tests: int, seed: int) -> Images:
    """The first `samples` of the training images in a random order, and `tests` of the test images."""
    data = pf.load("cifar10", validation=5000, seed=seed)
    images = torch.cat([data.train.inputs, data.validation.inputs])
    labels = torch.cat([data.train.targets, data.validation.targets])
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)[:samples]
    chosen = torch.randperm(len(data.test.inputs), generator=generator)[:tests].sort().values
    images = images[order]
    mean, deviation = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    train, test = (standardised(part, mean, deviation) for part in (images, data.test.inputs[chosen]))
    return Images(train, labels[order], test, data.test.targets[chosen])


def coded(labels: Tensor) -> Tensor:
    """One-hot less its mean: -0.1 and 0.9, float64."""
    return nn.functional.one_hot(labels, CLASSES).double() - 1 / CLASSES


def wilson(right: int, count: int) -> list[float]:
    """The 95 % interval of a share, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return [round(100 * float(interval.low), 2), round(100 * float(interval.high), 2)]


def tune(images: Images, whitening: Whitening | None, samples: int, held_out: int, more: int) -> list[dict]:
    """Validation accuracy of all settings, best first: fitted on `samples` training images, judged on others.

    Whitened: first the regularisation, with one of the other settings and fitted on `more` images, since more images
    bear less of it; then the other settings.
    """
    inputs, whitenings, best = images.train[: samples + held_out], [], None
    if whitening is not None:
        for eps in WHITENINGS:
            one = whitening.apply(images.train[: more + held_out], eps), images.labels, more, held_out
            whitenings += _settings(*one, [Setting("ntk", 0.1, 1e-2, eps)])
        best = min(whitenings, key=_rank)["setting"]["whitening"]
        inputs = whitening.apply(inputs, best)
    grid = [Setting(kernel, b, r, best) for b in BIASES for kernel in KERNELS for r in RIDGES]
    return sorted(_settings(inputs, images.labels, samples, held_out, grid), key=_rank) + whitenings


def _rank(row: dict) -> float:
    return -row["accuracy"]


def _settings(inputs: Tensor, labels: Tensor, samples: int, held_out: int, grid: list[Setting]) -> Iterator[dict]:
    """Of kernels that are computed once for every bias variance."""
    targets, truth = coded(labels[:samples]), labels[samples : samples + held_out]
    for bias, settings in itertools.groupby(grid, lambda setting: setting.bias):
        function = kernel_function(inputs, bias)
        gram = function(inputs[:samples], dtype=torch.float32)
        cross = function(inputs[samples : samples + held_out], inputs[:samples], dtype=torch.float32)
        for setting in settings:
            square, beside = getattr(gram, setting.kernel).double(), getattr(cross, setting.kernel).double()
            mean = condition(square, targets, setting.ridge * float(square.diagonal().mean())).mean(beside)
            accuracy = 100 * float((mean.argmax(1) == truth).double().mean())
            yield {"accuracy": round(accuracy, 3), "setting": vars(setting)}


def packed(matrix: StoredMatrix, side: int) -> PackedTiles:
    """The lower triangle in memory, float64, from a store of the upper one."""
    made = PackedTiles.empty(len(matrix), side)
    for i in range(made.tiling.count):
        for j in range(i + 1):
            upper = matrix[made.tiling.rows(j), made.tiling.rows(i)]
            made.set(i, j, torch.from_numpy(np.ascontiguousarray(upper.T)).double())
    return made


def predict(function: KernelFunction, images: Images, weights: Tensor, kernel: str, folder: Path) -> Tensor:
    """Means at the test images, a thousand at a time, each thousand kept."""
    parts = []
    for start in range(0, len(images.test), TILE // 2):
        path = folder / f"means-{start}.npy"
        if not path.exists():
            rows = images.test[start : start + TILE // 2]
            mean = torch.zeros(len(rows), CLASSES, dtype=torch.float64)
            for first in range(0, len(images.train), 10 * TILE):
                columns = slice(first, first + 10 * TILE)
                cross = getattr(function(rows, images.train[columns], ntk=kernel == "ntk", dtype=torch.float32), kernel)
                mean += cross.double() @ weights[columns]
            _save(path, mean)
        parts.append(torch.from_numpy(np.load(path)))
    return torch.cat(parts)


def _save(path: Path, tensor: Tensor) -> None:
    draft = path.with_suffix(".part")
    with draft.open("wb") as file:
        np.save(file, tensor.numpy())
    os.replace(draft, path)


@dataclass(frozen=True)
class Phases:
    """Wall seconds and peak memory of every phase, kept in a file; a phase done in parts adds up."""

    path: Path

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            known = self.known()
            before = known.get(name, {"seconds": 0.0})["seconds"]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            known[name] = {"seconds": round(before + time.perf_counter() - begin, 1), "peak_gib": round(peak, 2)}
            self.path.write_text(json.dumps(known))

    def known(self) -> dict:
        """By name."""
        return json.loads(self.path.read_text()) if self.path.exists() else {}


def run(chosen: argparse.Namespace, folder: Path) -> dict:
    """All phases."""
    phase = Phases(folder / "phases.json")
    with phase("preprocess"):
        images = read_images(chosen.samples, chosen.tests, chosen.seed)
        whitening = Whitening.fit(images.train) if chosen.zca else None
    tuned = folder / "tuning.json"
    if not tuned.exists():
        with phase("tune"):
            tuned.write_text(json.dumps(tune(images, whitening, chosen.tuning, chosen.held_out, chosen.more_tuning)))
    ranking = json.loads(tuned.read_text())
    setting = Setting(**ranking[0]["setting"])
    print("setting", setting, ranking[0]["accuracy"], flush=True)
    if whitening is not None and setting.whitening is not None:
        with phase("preprocess"):
            parts = (whitening.apply(part, setting.whitening) for part in (images.train, images.test))
            images, whitening = Images(next(parts), images.labels, next(parts), images.test_labels), None
    function = kernel_function(images.train, setting.bias)
    with phase("kernel"):
        store = kernel_store(
            folder / "kernel.zarr", function, images.train, nngp=setting.kernel == "nngp", ntk=setting.kernel == "ntk",
            mirrored=False, tile=min(TILE, chosen.samples),
        )  # fmt: skip
    weights = folder / "weights.npy"
    if not weights.exists():
        with phase("solve"):
            gram = packed(getattr(store, setting.kernel), min(TILE, chosen.samples))
            scale = sum(float(gram.get(i, i).diagonal().sum()) for i in range(gram.tiling.count)) / chosen.samples
            targets = coded(images.labels)
            process = condition_tiled(gram, targets, setting.ridge * scale)
            _save(weights, process.weights)
            del gram, process
    with phase("predict"):
        means = predict(function, images, torch.from_numpy(np.load(weights)), setting.kernel, folder)
    right = int((means.argmax(1) == images.test_labels).sum())
    return {
        "accuracy": round(100 * right / len(means), 2),
        "interval_95": wilson(right, len(means)),
        "setting": vars(setting),
        "validation": {
            "fitted_on": chosen.tuning,
            "judged_on": chosen.held_out,
            "best": ranking[:8],
            "whitenings": {"fitted_on": chosen.more_tuning, "tried": ranking[-len(WHITENINGS) :] if chosen.zca else []},
        },
        "samples": chosen.samples,
        "tests": len(means),
        "seed": chosen.seed,
        "phases": (known := phase.known()),
        "minutes": round(sum(part["seconds"] for part in known.values()) / 60, 2),
        "peak_gib": max(part["peak_gib"] for part in known.values()),
    }


def main() -> None:
    """One run, plain or whitened; the JSON keeps the last of each at the largest number of samples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-mlp"))
    parser.add_argument("--zca", action="store_true")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--tuning", type=int, default=10_000, help="training images that settings are fitted on")
    parser.add_argument("--more-tuning", type=int, default=20_000, help="the same for the regularisation of whitening")
    parser.add_argument("--held-out", type=int, default=5_000, help="training images that settings are judged on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    torch.set_grad_enabled(False)
    folder = chosen.out / f"{'zca' if chosen.zca else 'plain'}-{chosen.samples}-{chosen.tests}-{chosen.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    found = run(chosen, folder)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    found["commit"] = commit
    known = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"runs": {}}
    outcome = {
        "what": __doc__.splitlines()[0],
        "published": PUBLISHED,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "runs": known["runs"] | {"zca" if chosen.zca else "plain": found},
    }
    chosen.json.write_text(json.dumps(outcome, indent=1) + "\n")
    print(
        json.dumps({key: found[key] for key in ("accuracy", "interval_95", "minutes", "peak_gib", "phases")}, indent=1)
    )


if __name__ == "__main__":
    main()
