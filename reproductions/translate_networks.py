"""What reproductions of translation share: judges trained once and kept on disk, budgets in time, rows of figures.

Judges are classifiers of CIFAR-10 (features for the distances of images), a segmentation network of the real pairs, and
a network with random weights as a second opinion. Each lies in a folder of its own and is trained where it is missing.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import environment, mean_and_sd, rounded, write_part
from torch import Tensor, nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.evaluation.findings import Findings
from pluriform.evaluation.subject import stratified_index
from pluriform.metrics.classification import accuracy
from pluriform.training.augmentation import Augmentation
from pluriform.training.recipe import Recipe
from pluriform.translate.segmentation import Segmentation, Segmented
from pluriform.translate.translation import Translation

EPS = 0.5
STEPS = 5
CALIBRATION = (12, 20)
"""Updates of the two short trainings whose difference is timed; both make as many pictures for the album."""
REPEATS = 3
"""Of the two, on a GPU, where one difference is as short as what disturbs it."""
FIGURES = {
    "pixel_accuracy": 100,
    "miou": 100,
    "kernel_distance": 1,
    "perceptual_distance": 1,
    "frechet_distance": 1,
    "diversity": 1,
    "content_kept": 100,
    "psnr": 1,
    "ssim": 1,
}
"""Figures of a row in this order, and by what they are multiplied."""


class Given:
    """Answers with images that are known: a baseline that nothing was trained for."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.place = images, 0

    def translate(self, content: Tensor, style: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """The next images in order."""
        del style, seed
        begin = self.place
        self.place += len(content)
        return self.images[begin : self.place]


def cut(data: Data, limit: int | None) -> Data:
    """At most so many images of every split, to try a script out."""
    if limit is None:
        return data
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    small = {
        name: Split(part.inputs[:limit], part.targets[:limit], None if part.styles is None else part.styles[:limit])
        for name, part in parts.items()
    }
    return replace(data, **small)


def classifier(eps: float, seed: int, chosen: Any) -> Any:
    """A classifier of CIFAR-10, plain or robust in L2; fitted, resumed or read."""
    data = pf.load("cifar10", validation=1000)
    if chosen.classifier_images:
        index = stratified_index(data.train.targets, chosen.classifier_images, 0)
        data = replace(data, train=Split(*data.train.batch(index)))
    recipe = Recipe(
        epochs=chosen.classifier_epochs,
        batch_size=128,
        augmentation=Augmentation(shift=4, flip=0.5),
        learning_rate=3e-3,
    )
    method: Any = pf.Training(**vars(recipe))
    if eps:
        method = pf.AdversarialTraining(
            "pgd", pf.Threat("l2", eps), recipe, steps=STEPS, step_size=2 * eps / STEPS, ramp=0.25
        )
    name = f"classifier-{eps:g}-{seed}-{name_of_judges(chosen)}"
    return method.fit(small_network(data, seed), data, seed=seed, run=chosen.out / "judges" / name)


def small_network(data: Data, seed: int) -> nn.Sequential:
    """Three 3x3 convolutions of 32, 64 and 128 channels with BatchNorm, each halved, then averaged: 128 features."""
    parts: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for before, after in pairwise((data.input_shape[0], 32, 64, 128)):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            parts += [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.AvgPool2d(2)]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, data.outputs))


def ruler(data: Data, chosen: Any) -> Segmented:
    """The segmentation network of the real training pairs; fitted, resumed or read."""
    own = pf.load(data.name, task="translation", size=data.input_shape[1:])
    recipe = Recipe(epochs=chosen.ruler_epochs, batch_size=16, learning_rate=3e-3)
    name = f"segmentation-{data.input_shape[1]}-{chosen.ruler_width}-{chosen.ruler_epochs}-{chosen.limit or 'all'}"
    method = Segmentation(width=chosen.ruler_width, training=recipe)
    return method.fit(None, cut(own, chosen.limit), run=chosen.out / "judges" / name)


def seconds_an_update(label: str, make: Callable[[int], Translation], module: Any, data: Data, out: Path) -> float:
    """Of one update, from two short trainings; measured once, kept on disk, so that a resumed fit has the same number.

    On the CPU it is processor time over threads, which other work on the machine does not count into.
    """
    path = out / "speed" / f"{label}-{place()}.json"
    if not path.exists():
        make(1).fit(module, data)  # Warms up.
        repeats = REPEATS if torch.cuda.is_available() else 1
        gaps = [float(np.subtract(*(_spent(make(n), module, data) for n in CALIBRATION))) for _ in range(repeats)]
        value = statistics.median(gaps) / (CALIBRATION[0] - CALIBRATION[1])
        if value <= 0:
            raise SystemExit(f"{label}: {CALIBRATION[1]} updates took no longer than {CALIBRATION[0]}; try again")
        write_part(path, {"seconds_an_update": value, **environment()})
    return float(json.loads(path.read_text())["seconds_an_update"])


def _spent(method: Translation, module: Any, data: Data) -> float:
    begin = clock()
    method.fit(module, data)
    return clock() - begin


def place() -> str:
    """Where an update takes that long: the GPU, or so many threads."""
    return "gpu" if torch.cuda.is_available() else f"{torch.get_num_threads()}-threads"


def clock() -> float:
    """Seconds of work so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def updates_in(minutes: float, seconds: float) -> int:
    """As many as fit, at least two."""
    return max(2, int(60 * minutes / seconds))


def run_folder(fit: str, chosen: argparse.Namespace) -> Path:
    """Where a fit of so many minutes on so many images goes on."""
    return chosen.out / "fits" / f"{fit}-{chosen.minutes:g}-{chosen.limit or 'all'}-{place()}"


def name_of_judges(chosen: argparse.Namespace) -> str:
    """What the run of a fit by a classifier is called after."""
    return f"{chosen.classifier_epochs}-{chosen.classifier_images or 'all'}"


def timed_fit(method: Translation, module: Any, data: Data, seed: int, run: Path) -> tuple[Any, float]:
    """The form, and seconds of work of this sitting."""
    begin = clock()
    form = method.fit(module, data, seed=seed, run=run)
    return form, clock() - begin


def share(form: Any, images: Tensor, labels: Tensor) -> float:
    """Percent of the images that are taken for their label."""
    return 100 * accuracy(form.predict(images).mean.cpu(), labels)


def row_of(findings: Findings, names: Sequence[str] = (), images: str | None = None) -> dict[str, Any]:
    """Figures by name, of the outputs or of other images.

    Args:
        findings: Of `measure_images`.
        names: Of its extractors, in order.
        images: As conditions name them.
    """
    told = findings.protocol["images"].get("extractors", [])
    short = {facts["name"]: name for facts, name in zip(told, names, strict=True)}
    row = {}
    for name, factor in FIGURES.items():
        for found in findings.measures:
            if found.name == name and found.condition.get("images") == images:
                extractor = found.condition.get("extractor")
                label = f"{name} [{short[extractor]}]" if extractor else name
                row[label + (" (unreliable)" if "unreliable" in found.condition else "")] = factor * found.value
    return row


def means_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of every figure."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: mean_and_sd(_finite(row.get(name)) for row in rows) for name in names}


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def row(fits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of an arm over its seeds, and what it took, from its parts."""
    facts = [part["facts"] for part in fits if part["facts"]]
    known: dict[str, Any] = {}
    if facts:
        known = {
            "minutes": fits[0]["key"]["minutes"],
            "seeds": sorted(part["key"]["seed"] for part in fits),
            "generator_parameters": facts[0]["generator_parameters"],
            "discriminator_parameters": facts[0].get("discriminator_parameters"),
            "updates": facts[0]["updates"],
            "wall_seconds": [fact["training_seconds"] for fact in facts],
            "work_seconds_of_last_sitting": [fact["work_seconds_of_last_sitting"] for fact in facts],
            "events": [fact["events"] for fact in facts],
        }
    return known | means_of([part["figures"] for part in fits])


def add_arguments(parser: argparse.ArgumentParser, name: str, minutes: float) -> None:
    """What the scripts on translation have in common."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--minutes", type=float, default=minutes, help="of training, for each fit")
    parser.add_argument("--ruler-width", type=int, default=12)
    parser.add_argument("--ruler-epochs", type=int, default=40)
    parser.add_argument("--classifier-epochs", type=int, default=10)
    parser.add_argument("--classifier-images", type=int, default=20000)
    parser.add_argument("--limit", type=int, help="images of every split")
    parser.add_argument("--out", type=Path, default=Path(f"runs/{name}"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_name(f"{name}.json"))
    parser.add_argument("--assemble", action="store_true", help="only write JSON and figures from what is there")
    parser.add_argument("--tiny", action="store_true", help="try the script out: few images, seconds of training")


def shrunk(chosen: argparse.Namespace) -> argparse.Namespace:
    """Everything small where the script is only tried out, in a folder of its own."""
    if chosen.tiny:
        chosen.limit, chosen.minutes, chosen.ruler_epochs, chosen.ruler_width = 24, 0.02, 2, 4
        chosen.classifier_epochs, chosen.classifier_images, chosen.seeds = 1, 300, [0]
        chosen.out = chosen.figures = chosen.out.with_name(f"{chosen.out.name}_tiny")
        chosen.json = chosen.out / "record.json"
    return chosen


def facts_of(form: Any, seconds: float) -> dict[str, Any]:
    """Size, updates and time of a fit."""
    kept = ("generator_parameters", "discriminator_parameters", "levels", "norm", "weights", "extractor")
    return rounded(
        {
            **{name: form.facts[name] for name in kept if name in form.facts},
            "updates": form.cost["updates"],
            "images": form.cost["images"],
            "training_seconds": form.cost["training_seconds"],
            "work_seconds_of_last_sitting": seconds,
            "events": form.events,
        }
    )


def draw_grid(columns: Mapping[str, Tensor], path: Path, scale: int = 1) -> None:
    """A PNG with the images of each column below its name, in rows.

    Args:
        columns: Images `(rows, channels, height, width)` in [0, 1] by title.
        path: To write.
        scale: Pixels of the drawing for one of the images.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = len(next(iter(columns.values())))
    height, width = next(iter(columns.values())).shape[2:]
    inches = scale * width / 100 + 0.08, scale * height / 100 + 0.08
    figure, axes = plt.subplots(
        rows, len(columns), figsize=(len(columns) * inches[0], rows * inches[1] + 0.3), squeeze=False
    )
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / (rows * inches[1] + 0.3), 0.03, 0.03)
    for column, (title, images) in enumerate(columns.items()):
        axes[0][column].set_title(title, fontsize=8)
        for row in range(rows):
            image = images[row].expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()
            axes[row][column].imshow(image, interpolation="nearest")
            axes[row][column].axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
