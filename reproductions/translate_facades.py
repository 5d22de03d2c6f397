"""Label maps of facades to photographs: TSIT, SPADE and pix2pix in the same training time, judged by one ruler.

    PLURIFORM_DATA=... OMP_NUM_THREADS=2 python reproductions/translate_facades.py
        [--sizes 64 128] [--arms tsit spade pix2pix] [--seeds 0 1] [--minutes 30] [--out runs/translate_facades]
        [--figures docs/figures] [--assemble] [--tiny]

400 pairs to train on, 100 to judge; own split and sizes, so figures compare with each other only. Generators are
matched in parameters (at 64 pixels 2.8, 2.7 and 2.9 million, at 128 pixels 4.0, 4.1 and 4.1). Every arm trains for
`--minutes`: what one update takes is measured once by two short trainings, in processor time over threads, and decides
the number of updates. TSIT and SPADE have hinge loss, feature matching and L1 to the truth (no network for a perceptual
loss is at hand), pix2pix cross-entropy and L1, each with its own rates and weights. Batches of 8 at 64 pixels, of 4 at
128; mirrored pairs; moving averages of weights; the last weights are judged. Discriminators are as published: TSIT and
SPADE have two of 32 channels, for two scales, pix2pix has one as wide as its generator.

Beside them stand `nearest`, the training photograph whose label map agrees in most pixels (the ruler has seen most of
these, and reads them better than new ones), and `mean`, the mean training photograph. The ruler of labels is a
segmentation network trained on the real pairs (360 to train on, 40 to choose its weights); its score on the real test
photographs is the ceiling, to be read beside every figure of it. Distances of features are those of a classifier of
CIFAR-10 and of a network with random weights: kernel distances and perceptual distances come first; Frechet distances
of 100 images rank noise and are marked so. The floor is the distance of the real training photographs. PSNR favours
blur: the mean photograph says how much.

Every (size, arm, seed) is fitted in a run folder that resumes where it was killed, and leaves one part. Writes
reproductions/translate_facades.json and figures of the first eight test images from all parts at hand.

References:
    Jiang et al. 2020, TSIT, arXiv:2007.12072; Park et al. 2019, SPADE, arXiv:1903.07291; Isola et al. 2017, pix2pix,
    arXiv:1611.07004. Tylecek, Sara 2013, Spatial Pattern Templates for Recognition of Objects with Regular Structure.
"""

import argparse
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from records import environment, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor
from translate_networks import (
    Given,
    add_arguments,
    classifier,
    cut,
    draw_grid,
    facts_of,
    row,
    row_of,
    ruler,
    run_folder,
    seconds_an_update,
    shrunk,
    timed_fit,
    updates_in,
)

import pluriform as pf
from pluriform.data.data import Data
from pluriform.evaluation.images import measure_images
from pluriform.evaluation.pictures import coloured
from pluriform.evaluation.random_judge import random_judge
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.pix2pix import Pix2Pix
from pluriform.translate.rivals.spade import SPADE
from pluriform.translate.translation import Translation

ARMS = ("tsit", "spade", "pix2pix")
BASELINES = ("nearest", "mean")
BATCH = {64: 8, 128: 4}
SPADE_WIDTH = {64: 20, 128: 13}
PIX2PIX_WIDTH = {64: 20, 128: 20}
SHOWN = 8
EXTRACTORS = ("CIFAR-10", "random")


@lru_cache(maxsize=2)
def load(size: int, limit: int | None) -> Data:
    """All 400 training pairs, and the test pairs."""
    return cut(pf.load("facades", task="translation", size=size, validation=0), limit)


def made(arm: str, size: int) -> Callable[[int], Translation]:
    """The method of an arm, by its number of updates."""

    def method(updates: int) -> Translation:
        recipe: dict[str, Any] = {"updates": updates, "batch_size": BATCH[size]}
        if arm == "tsit":
            return TSIT(preset="small", training=GameRecipe(**recipe))
        if arm == "spade":
            return SPADE(width=SPADE_WIDTH[size], training=GameRecipe(**recipe))
        rates = {"generator_rate": 2e-4, "discriminator_rate": 2e-4, "beta1": 0.5, "beta2": 0.999}
        return Pix2Pix(width=PIX2PIX_WIDTH[size], training=GameRecipe(**recipe, **rates))

    return method


def nearest(data: Data) -> Tensor:
    """For every test label map the photograph of the training map that agrees in most pixels."""
    train, test = data.train.inputs.to(torch.uint8), data.test.inputs.to(torch.uint8)
    places = [int((train == own).flatten(1).sum(1).argmax()) for own in test]
    return data.train.targets[torch.tensor(places)]


def key_of(arm: str, size: int, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a part is of."""
    judges = [chosen.ruler_width, chosen.ruler_epochs, chosen.classifier_epochs, chosen.classifier_images]
    minutes = chosen.minutes if arm in ARMS else None
    return {"arm": arm, "size": size, "seed": seed, "minutes": minutes, "limit": chosen.limit, "judges": judges}


def compute(arm: str, size: int, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one arm, judge it on test images, write its part."""
    key, path = key_of(arm, size, seed, chosen), chosen.out / "parts" / f"{arm}-{size}-{seed}.json"
    if part_is_current(path, key):
        return
    data, facts = load(size, chosen.limit), {}
    if arm in ARMS:
        method = made(arm, size)
        seconds = seconds_an_update(f"{arm}-{size}-{chosen.limit or 'all'}", method, None, data, chosen.out)
        updates = updates_in(chosen.minutes, seconds)
        form, spent = timed_fit(method(updates), None, data, seed, run_folder(f"{arm}-{size}-{seed}", chosen))
        facts = facts_of(form, spent) | {"seconds_an_update": seconds}
    else:
        mean = data.train.targets.mean(0, keepdim=True).expand_as(data.test.targets)
        form = Given(nearest(data) if arm == "nearest" else mean)
    extractors = [classifier(0.0, 0, chosen), random_judge(3)]
    found = measure_images(form, data, extractors=extractors, segmentation=ruler(data, chosen), styles=0, seed=seed)
    part = {
        "figures": row_of(found, EXTRACTORS),
        **{images: row_of(found, EXTRACTORS, images) for images in ("real training images", "real test images")},
        "protocol": found.protocol["images"],
        "facts": facts,
    }
    write_part(path, rounded({"key": key, **part, **environment()}))
    print(arm, size, seed, rounded(part["figures"], 3), flush=True)


def draw(size: int, chosen: argparse.Namespace) -> None:
    """The first test images: labels, photograph, and what each arm makes of the labels."""
    data = load(size, chosen.limit)
    contents = data.test.inputs[:SHOWN]
    columns = {"labels": coloured(contents, len(data.classes)), "photograph": data.test.targets[:SHOWN]}
    for arm in ARMS:
        folder = run_folder(f"{arm}-{size}-{min(chosen.seeds)}", chosen) / "form"
        if folder.is_dir():
            columns[{"tsit": "TSIT", "spade": "SPADE", "pix2pix": "pix2pix"}[arm]] = pf.load_form(folder).translate(
                contents
            )
    columns["nearest"] = nearest(data)[:SHOWN]
    draw_grid(columns, chosen.figures / f"translate_facades_{size}.png", max(1, 128 // size))


def outcome(parts: list[dict]) -> dict[str, Any]:
    """The JSON that is committed."""
    found: dict[str, Any] = {"what": __doc__.splitlines()[0]}
    for size in sorted({part["key"]["size"] for part in parts}):
        own = [part for part in parts if part["key"]["size"] == size]
        arms = {arm: [part for part in own if part["key"]["arm"] == arm] for arm in (*ARMS, *BASELINES)}
        first = own[0]
        found[f"{size} pixels"] = {
            "ceiling: the ruler on real test photographs": first["real test images"],
            "floor: real training photographs": first["real training images"],
            **{arm: row(fits) for arm, fits in arms.items() if fits},
            "protocol": first["protocol"],
        }
    return found | environment()


def main() -> None:
    """Fit what is missing, then write JSON and figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128], choices=sorted(BATCH))
    parser.add_argument("--arms", nargs="+", default=[*BASELINES, *ARMS], choices=[*BASELINES, *ARMS])
    add_arguments(parser, "translate_facades", 30.0)
    chosen = shrunk(parser.parse_args())
    for size in chosen.sizes:
        for seed in [] if chosen.assemble else chosen.seeds:
            for arm in chosen.arms:
                if arm in ARMS or seed == min(chosen.seeds):
                    compute(arm, size, seed, chosen)
        draw(size, chosen)
    parts = [part for part in read_parts(chosen.out) if part["key"] == key_of(*_names(part), chosen)]
    write_record(chosen.json, outcome(parts))


def _names(part: dict[str, Any]) -> tuple[str, int, int]:
    return part["key"]["arm"], part["key"]["size"], part["key"]["seed"]


if __name__ == "__main__":
    main()
