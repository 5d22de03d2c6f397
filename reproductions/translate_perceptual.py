"""Perceptual loss from a plain classifier, from a robust one, and from none: the same training time, the same judges.

    PLURIFORM_DATA=... OMP_NUM_THREADS=2 python reproductions/translate_perceptual.py
        [--tasks facades apples] [--arms none plain robust] [--seeds 0 1] [--minutes 20]
        [--out runs/translate_perceptual] [--figures docs/figures] [--assemble] [--tiny]

TSIT at 64 pixels from label maps of facades to photographs, and at 32 pixels from apples to oranges. The classifiers
are one network trained on 20,000 images of CIFAR-10 for the same number of passes, by PGD at 0.5 in L2 or plainly; both
have the same layers with the same weights in the loss. In facades every arm has L1 to the truth (weight 10), so that
the perceptual loss (weight 20) is the only difference; in apples to oranges it is all that holds the content (weight
1), and `none` has edges in its place. Each fit trains for `--minutes`; perceptual losses cost updates.

Judged as in translate_facades.py and translate_unpaired.py, by a plain and a robust classifier of other seeds and by
random features: each of the first two may favour the arm of its kind, which is why both stand here.

Every (task, arm, seed) is fitted in a run folder that resumes where it was killed, and leaves one part. Writes
reproductions/translate_perceptual.json and figures from all parts at hand.

References:
    Johnson, Alahi, Fei-Fei 2016, Perceptual Losses for Real-Time Style Transfer, arXiv:1603.08155.
    Engstrom et al. 2019,
    Adversarial Robustness as a Prior for Learned Representations, arXiv:1906.00945.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import translate_facades
import translate_unpaired
from records import environment, part_is_current, read_parts, rounded, write_part, write_record
from translate_networks import (
    EPS,
    add_arguments,
    classifier,
    draw_grid,
    facts_of,
    name_of_judges,
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
from pluriform.translate.translation import Translation

ARMS = {"none": None, "plain": 0.0, "robust": EPS}
"""Radius that the classifier of the loss was trained at; `None` for no classifier."""
TASKS = ("facades", "apples")
SIZE = 64
BATCH = {"facades": 8, "apples": 16}
JUDGES, LOSSES = 0, 1
"""Seeds of the classifiers that judge, and of those in losses."""
EXTRACTORS = ("plain CIFAR-10", "robust CIFAR-10", "random")
SHOWN = 8


def load(task: str, limit: int | None) -> Data:
    """The data of a task."""
    return translate_facades.load(SIZE, limit) if task == "facades" else translate_unpaired.load("apples", limit)


def made(task: str) -> Callable[[int], Translation]:
    """The method, by its number of updates."""

    def method(updates: int) -> Translation:
        recipe = GameRecipe(updates=updates, batch_size=BATCH[task])
        return TSIT(preset="small", l1=10.0 if task == "facades" else None, training=recipe)

    return method


def key_of(task: str, arm: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a part is of."""
    judges = [chosen.ruler_width, chosen.ruler_epochs, chosen.classifier_epochs, chosen.classifier_images, EPS]
    return {"task": task, "arm": arm, "seed": seed, "minutes": chosen.minutes, "limit": chosen.limit, "judges": judges}


def folder_of(task: str, arm: str, seed: int, chosen: argparse.Namespace) -> Path:
    """Where a fit goes on."""
    judged = "" if ARMS[arm] is None else f"-{name_of_judges(chosen)}"
    return run_folder(f"{task}-{arm}-{seed}{judged}", chosen)


def compute(task: str, arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one arm, judge it on test images, write its part."""
    key, path = key_of(task, arm, seed, chosen), chosen.out / "parts" / f"{task}-{arm}-{seed}.json"
    if part_is_current(path, key):
        return
    data, eps = load(task, chosen.limit), ARMS[arm]
    module = None if eps is None else classifier(eps, LOSSES, chosen)
    seconds = seconds_an_update(f"{task}-{arm}-{chosen.limit or 'all'}", made(task), module, data, chosen.out)
    method = made(task)(updates_in(chosen.minutes, seconds))
    form, spent = timed_fit(method, module, data, seed, folder_of(task, arm, seed, chosen))
    extractors = [classifier(0.0, JUDGES, chosen), classifier(EPS, JUDGES, chosen), random_judge(3)]
    labels = ruler(data, chosen) if task == "facades" else None
    found = measure_images(form, data, extractors=extractors, segmentation=labels, styles=0, seed=seed)
    figures = row_of(found, EXTRACTORS)
    if task == "apples":
        figures |= translate_unpaired.kept(task, form, data, seed, chosen)
    references = ("real training images", "real test images", "mean training image")
    part = {
        "figures": figures,
        **{images: row_of(found, EXTRACTORS, images) for images in references},
        "protocol": found.protocol["images"],
        "facts": facts_of(form, spent) | {"seconds_an_update": seconds},
    }
    write_part(path, rounded({"key": key, **part, **environment()}))
    print(task, arm, seed, rounded(figures, 3), flush=True)


def draw(task: str, chosen: argparse.Namespace) -> None:
    """The first test images, and what each arm makes of them."""
    data = load(task, chosen.limit)
    contents, targets = data.test.inputs[:SHOWN], data.test.targets[:SHOWN]
    shown = coloured(contents, len(data.classes)) if data.classes else contents
    columns = {"content": shown, "photograph" if data.paired else "reference": targets}
    for arm in ARMS:
        folder = folder_of(task, arm, min(chosen.seeds), chosen) / "form"
        if folder.is_dir():
            columns[arm] = pf.load_form(folder).translate(contents, None if data.paired else targets)
    draw_grid(columns, chosen.figures / f"translate_perceptual_{task}.png", 2)


def outcome(parts: list[dict]) -> dict[str, Any]:
    """The JSON that is committed."""
    found: dict[str, Any] = {"what": __doc__.splitlines()[0]}
    for task in sorted({part["key"]["task"] for part in parts}):
        own = [part for part in parts if part["key"]["task"] == task]
        arms = {arm: [part for part in own if part["key"]["arm"] == arm] for arm in ARMS}
        found[task] = {
            "ceiling: the ruler on real test photographs": own[0]["real test images"],
            "floor: real training images": own[0]["real training images"],
            "mean training image": own[0]["mean training image"],
            **{arm: row(fits) for arm, fits in arms.items() if fits},
            "protocol": own[0]["protocol"],
        }
    return found | environment()


def main() -> None:
    """Fit what is missing, then write JSON and figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    add_arguments(parser, "translate_perceptual", 20.0)
    chosen = shrunk(parser.parse_args())
    for task in chosen.tasks:
        for seed in [] if chosen.assemble else chosen.seeds:
            for arm in chosen.arms:
                compute(task, arm, seed, chosen)
        draw(task, chosen)
    parts = [part for part in read_parts(chosen.out) if part["key"] == key_of(*_names(part), chosen)]
    write_record(chosen.json, outcome(parts))


def _names(part: dict[str, Any]) -> tuple[str, str, int]:
    return part["key"]["task"], part["key"]["arm"], part["key"]["seed"]


if __name__ == "__main__":
    main()
