"""Segmentation of facades on feature pyramids of standard and robust sources, and from scratch.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/robust_segmentation.py
        [--eps 0 0.25 1] [--seeds 0 1 2] [--size 64] [--passes 30] [--epochs 5] [--sources runs/robust_transfer]
        [--out runs/robust_segmentation] [--assemble] [--tiny]

500 photographs with label maps of 12 classes, 400 to train on (40 of them, drawn by seed, choose the learning rate),
100 to judge; photographs reduced bilinearly, label maps by majority. The backbone is `form.features()` of the sources
of robust_transfer.py, trained on CIFAR-10 at 32x32 and applied convolutionally at the size of the photographs. The head
is a 1x1 convolution of each map, bilinear upsampling to the finest, sum, ReLU, a 1x1 convolution, and upsampling.
Trained are the head alone or everything; the same network from scratch is the baseline. All fits have the same number
of passes with mirrored copies, two learning rates, AdamW and a cosine.

Sources are read from their run folders, or trained there. Every fit is a part: a killed run resumes. Writes
reproductions/robust_segmentation.json from all parts at hand.

References:
    Salman, Ilyas, Engstrom, Kapoor, Madry 2020, Do Adversarially Robust ImageNet Models Transfer Better?,
    arXiv:2007.08489: backbones for detection and segmentation gain +0.3 to +1.1 AP.
    Tylecek, Sara 2013, Spatial Pattern Templates for Recognition of Objects with Regular Structure, GCPR.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import robust_transfer
import torch
from PIL import Image
from records import environment, part_is_current, read_parts, rounded, write_part, write_record
from robust_table import SETTINGS, network
from robust_transfer_outcome import interval, verdict_of
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.data.data import Split
from pluriform.data.sources.locate import Files, locate
from pluriform.data.split import holdout
from pluriform.robust.pyramid import Pyramid

TRAIN, HELD = 400, 40
WIDTH, BATCH = 64, 16
RATES = {"head": (1e-2, 3e-3), "full": (3e-3, 1e-3), "scratch": (3e-3, 1e-3)}
"""Of everything that is trained, the head included."""


class Head(nn.Module):
    """Class scores of every pixel from feature maps.

    Args:
        channels: Of each map, by stride.
        classes: Scores of a pixel.
    """

    def __init__(self, channels: Mapping[int, int], classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(channels[stride], WIDTH, 1) for stride in sorted(channels))
        self.classifier = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, maps: Mapping[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Scores `(batch, classes, *size)`."""
        first, *rest = (level(maps[stride]) for level, stride in zip(self.levels, sorted(maps), strict=True))
        for other in rest:
            first = first + F.interpolate(other, first.shape[2:], mode="bilinear", align_corners=False)
        return F.interpolate(self.classifier(first.relu()), size, mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """A pyramid with a head; where the pyramid is frozen, no gradients are recorded through it.

    Args:
        pyramid: Gives feature maps.
        classes: Of a pixel.
        frozen: Whether only the head is trained.
    """

    def __init__(self, pyramid: Pyramid, classes: int, frozen: bool) -> None:
        super().__init__()
        self.pyramid, self.head, self.frozen = pyramid, Head(pyramid.channels, classes), frozen
        pyramid.requires_grad_(not frozen)

    def forward(self, photos: Tensor) -> Tensor:
        """Scores `(batch, classes, height, width)`."""
        return self.head(self.pyramid(photos), (photos.shape[2], photos.shape[3]))


@dataclass(frozen=True, eq=False)
class Facades:
    """Photographs with label maps.

    Attributes:
        train: Photographs `(N, 3, size, size)` in 0..1, labels `(N, size, size)`.
        validation: Chooses the learning rate.
        test: Judges.
        classes: Names.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]


@lru_cache(maxsize=1)
def facades(size: int, seed: int, limit: int | None) -> Facades:
    """Read the pairs at `size` pixels."""
    folder = locate(Files("facades_128px", ["classes.json"]))
    classes = tuple(json.loads((folder / "classes.json").read_text()))
    names = sorted(path.stem for path in (folder / "label").iterdir())
    photos = torch.stack([_photo(next((folder / "photo").glob(f"{name}.*")), size) for name in names])
    labels = torch.stack([_labels(next((folder / "label").glob(f"{name}.*")), size, len(classes)) for name in names])
    kept, held = holdout(TRAIN, None, HELD, seed)
    parts = (kept[:limit], held[:limit], torch.arange(TRAIN, len(names))[:limit])
    train, validation, test = (Split(photos[index], labels[index]) for index in parts)
    return Facades(train, validation, test, classes)


def _photo(path: Path, size: int) -> Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)


def _labels(path: Path, size: int, classes: int) -> Tensor:
    """The most frequent class of each square."""
    values = torch.from_numpy(np.array(Image.open(path)).astype(np.int64))
    squares = F.adaptive_avg_pool2d(F.one_hot(values, classes).permute(2, 0, 1).float(), size)
    return squares.argmax(0)


def pyramid_of(eps: float | None, seed: int, chosen: argparse.Namespace) -> Pyramid:
    """Of a source, or of an untrained network where eps is `None`."""
    if eps is None:
        data = robust_transfer.source_data("cifar10", seed, chosen.limit)
        return Pyramid(
            network(replace(SETTINGS["cifar10-l2"], data="cifar10"), data, seed),
            example=data.test.batch(torch.arange(2))[0],
        )
    options = argparse.Namespace(epochs=chosen.epochs, limit=chosen.limit, out=chosen.sources)
    return robust_transfer.fitted_source("cifar10", eps, seed, options).features()


def trained(net: Segmenter, data: Split, rate: float, passes: int, seed: int) -> None:
    """Minimise the cross-entropy of pixels."""
    generator = torch.Generator().manual_seed(seed)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    total = passes * math.ceil(len(data) / BATCH)
    optimizer = torch.optim.AdamW(weights, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / total)) / 2)
    net.train()
    for _ in range(passes):
        for index in torch.randperm(len(data), generator=generator).split(BATCH):
            photos, labels = data.batch(index)
            if torch.rand((), generator=generator) < 0.5:
                photos, labels = photos.flip(-1), labels.flip(-1)
            optimizer.zero_grad()
            F.cross_entropy(net(photos), labels).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def judged(net: Segmenter, data: Split, classes: int) -> dict[str, Any]:
    """Share of pixels that are right, and the mean over classes of intersection over union, in percent."""
    net.eval()
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for index in torch.arange(len(data)).split(BATCH):
        photos, labels = data.batch(index)
        pairs = labels * classes + net(photos).argmax(1)
        counts += torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)
    return scores(counts)


def scores(counts: Tensor) -> dict[str, Any]:
    """Of counts `(true class, predicted class)`; classes that occur nowhere are left out."""
    hits, union = counts.diag(), counts.sum(0) + counts.sum(1) - counts.diag()
    ratios = 100 * hits[union > 0] / union[union > 0]
    each = [100 * float(h) / int(u) if u else None for h, u in zip(hits, union, strict=True)]
    return {"pixel_accuracy": 100 * float(hits.sum() / counts.sum()), "mean_iou": float(ratios.mean()), "iou": each}


def compute(eps: float | None, mode: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one network at both learning rates, judge the better by validation, write its part."""
    source = None if eps is None else robust_transfer.source_key("cifar10", eps, seed, chosen)
    key = {
        "eps": eps,
        "mode": mode,
        "seed": seed,
        "source": source,
        "size": chosen.size,
        "passes": chosen.passes,
        "rates": list(RATES[mode]),
        "limit": chosen.limit,
    }
    label = mode if eps is None else f"{mode}-{eps:g}"
    path = chosen.out / "parts" / f"{label}-{seed}.json"
    if part_is_current(path, key):
        return
    data, rows = facades(chosen.size, seed, chosen.limit), []
    for rate in RATES[mode]:
        pyramid = pyramid_of(eps, seed, chosen)
        torch.manual_seed(seed)
        net = Segmenter(pyramid, len(data.classes), mode == "head")
        began = time.process_time()
        trained(net, data.train, rate, chosen.passes, seed)
        seconds = time.process_time() - began
        seen = judged(net, data.validation, len(data.classes))["mean_iou"]
        found = judged(net, data.test, len(data.classes))
        rows.append({"learning_rate": rate, "validation_mean_iou": seen, "training_seconds": seconds, "test": found})
    best = max(rows, key=lambda row: row["validation_mean_iou"])
    rates = [{name: value for name, value in row.items() if name != "test"} for row in rows]
    part = {**best["test"], "learning_rate": best["learning_rate"], "fits": rates, "classes": data.classes}
    write_part(path, {"key": key, **rounded(part), **environment()})
    print(label, seed, rounded({k: v for k, v in part.items() if k not in ("iou", "classes")}, 4), flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    rows: dict[str, Any] = {}
    for mode in RATES:
        for eps in sorted({part["key"]["eps"] for part in parts if part["key"]["mode"] == mode}, key=lambda e: e or 0):
            own = _by_seed(parts, mode, eps)
            plain = _by_seed(parts, mode, 0.0)
            row: dict[str, Any] = {
                name: interval(p[name] for p in own.values()) for name in ("pixel_accuracy", "mean_iou")
            }
            row["iou"] = {
                name: interval(part["iou"][place] for part in own.values())["mean"]
                for place, name in enumerate(next(iter(own.values()))["classes"])
            }
            row["training_seconds"] = interval(fit["training_seconds"] for p in own.values() for fit in p["fits"])[
                "mean"
            ]
            if eps and plain:
                gain = interval(own[seed]["mean_iou"] - plain[seed]["mean_iou"] for seed in own if seed in plain)
                row["gain"] = gain | {"verdict": verdict_of(gain), "words": _words(mode, eps, gain)}
            rows.setdefault(mode, {})["scratch" if eps is None else f"{eps:g}"] = row
    return {
        "what": str(__doc__).splitlines()[0],
        "protocol": {
            "scores": "in percent of test pixels; mean IoU over the classes that occur",
            "spread": "sd over seeds, n - 1; low and high end the 95 % t interval of the mean over seeds",
            "gain": "mean IoU above eps 0 on the same seed, in points; holds where its interval lies above 0",
            "learning_rate": "of two, by mean IoU of 40 validation photographs",
            "seconds": "processor time of one fit",
            "settings": [json.loads(text) for text in sorted({_settings(part) for part in parts})],
        },
        "results": rows,
        "machines": sorted({part["machine"] for part in parts}),
        "commit": environment()["commit"],
    }


def _words(mode: str, eps: float, gain: dict[str, Any]) -> str:
    """Whether the robust source is the better backbone, in plain words."""
    side = "above" if gain["mean"] >= 0 else "below"
    ends = "one seed" if gain["low"] is None else f"95 % interval {gain['low']:+.1f} to {gain['high']:+.1f}"
    what = "head alone" if mode == "head" else "full training"
    difference = f"{abs(gain['mean']):.1f} points of mean IoU {side} the standard one"
    return f"{what}, better from the source of eps {eps:g}: {verdict_of(gain)}; it is {difference} ({ends})"


def _by_seed(parts: list[dict], mode: str, eps: float | None) -> dict[int, dict]:
    return {p["key"]["seed"]: p for p in parts if p["key"]["mode"] == mode and p["key"]["eps"] == eps}


def _settings(part: dict) -> str:
    return json.dumps({name: part["key"][name] for name in ("size", "passes", "limit")})


def main() -> None:
    """Compute what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--eps", nargs="+", type=float, default=[0.0, 0.25, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=64, help="of the photographs, in pixels")
    parser.add_argument("--passes", type=int, default=30, help="over the photographs")
    parser.add_argument("--epochs", type=int, default=5, help="of the sources, as in robust_transfer.py")
    parser.add_argument("--limit", type=int, help="at most so many images of every split, to try the script out")
    parser.add_argument("--sources", type=Path, default=Path("runs/robust_transfer"))
    parser.add_argument("--out", type=Path, default=Path("runs/robust_segmentation"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    parser.add_argument("--tiny", action="store_true", help="a minute, in folders of its own")
    chosen = parser.parse_args()
    if chosen.tiny:
        chosen.sources, chosen.out = Path("runs/robust_transfer_tiny"), chosen.out.with_name(chosen.out.name + "_tiny")
        chosen.json = chosen.out / "robust_segmentation.json"
        chosen.eps, chosen.seeds, chosen.epochs, chosen.limit, chosen.passes = [0.0, 0.5], [0, 1], 1, 600, 1
    for seed in [] if chosen.assemble else chosen.seeds:
        compute(None, "scratch", seed, chosen)
        for eps in chosen.eps:
            for mode in ("head", "full"):
                compute(eps, mode, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
