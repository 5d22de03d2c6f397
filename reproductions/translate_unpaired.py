"""Unpaired translation: apples to oranges, and digits to coloured and textured digits; TSIT, CycleGAN and MUNIT.

    PLURIFORM_DATA=... OMP_NUM_THREADS=2 python reproductions/translate_unpaired.py
        [--tasks apples digits] [--arms copy tsit tsit-perceptual cyclegan munit] [--seeds 0 1] [--minutes 20]
        [--out runs/translate_unpaired] [--figures docs/figures] [--assemble] [--tiny]

Apples: the 500 and 500 training photographs of apples and of oranges in CIFAR-100, 100 and 100 to test, 32 pixels.
Digits: 4,000 grey digits of MNIST and 4,000 others in four styles made in code (stripes, checks, speckles, a gradient,
each with colours of its own), 500 and 500 to test. Every arm trains for `--minutes`, of which one update takes what two
short trainings say, with its published losses and rates (apples and oranges are mirrored, digits are not); generators
have about the same number of parameters, in CycleGAN and MUNIT both directions together. `tsit` holds the content by
edges, `tsit-perceptual` by features of a classifier of CIFAR-10; `copy` leaves the content as it is.

`taken for the target`: a classifier of the real training images of both sides says how many outputs are oranges (of
digits: have a style); real oranges and apples (copy) say what that is worth. `content kept`: of digits, a classifier of
digits in all styles reads the outputs; its score on real styled digits is the ceiling. `style taken`: of digits, the
output has the style of the reference, by a classifier of styles. Several styles: 10 draws of each of 64 contents, their
perceptual diversity, and how many of all these keep their digit. Kernel distances to the real test images of the target
side, beside their floor; Frechet distances of so few images rank noise and are marked so.

Every (task, arm, seed) is fitted in a run folder that resumes where it was killed, and leaves one part. Writes
reproductions/translate_unpaired.json and figures from all parts at hand.

References:
    Jiang et al. 2020, TSIT, arXiv:2007.12072; Zhu et al. 2017, CycleGAN, arXiv:1703.10593; Huang et al. 2018, MUNIT,
    arXiv:1804.04732.
"""

import argparse
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from records import environment, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor
from translate_digits import STYLES, digit_images, styled, styles_of, unpaired_digits
from translate_networks import (
    Given,
    add_arguments,
    classifier,
    cut,
    draw_grid,
    facts_of,
    name_of_judges,
    row,
    row_of,
    run_folder,
    seconds_an_update,
    share,
    shrunk,
    small_network,
    timed_fit,
    updates_in,
)

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError
from pluriform.evaluation.images import measure_images
from pluriform.evaluation.random_judge import random_judge
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.cyclegan import CycleGAN
from pluriform.translate.rivals.munit import MUNIT
from pluriform.translate.translation import Translation

ARMS = ("copy", "tsit", "tsit-perceptual", "cyclegan", "munit")
EXTRACTORS = ("CIFAR-10", "random")
DRAWS, DRAWN = 10, 64
SHOWN = 8
RATES = {"beta1": 0.5, "beta2": 0.999}


@lru_cache(maxsize=2)
def load(task: str, limit: int | None) -> Data:
    """Both sides, unpaired."""
    return cut(_apples() if task == "apples" else unpaired_digits("styles"), limit)


def _apples() -> Data:
    whole = pf.load("cifar100-part", validation=0)

    def of(name: str) -> list[Tensor]:
        label = whole.classes.index(name)
        return [split.inputs[split.targets == label] for split in (whole.train, whole.test)]

    (apples, more_apples), (oranges, more_oranges) = of("apple"), of("orange")
    empty = Split(apples[:0], oranges[:0])
    splits = (Split(apples, oranges), empty, Split(more_apples, more_oranges))
    return Data("apples to oranges", "translation", *splits, (), whole.bounds, paired=False)


def judge(task: str, of: str, chosen: argparse.Namespace) -> Any:
    """A classifier of `sides` (content or target), of `digits` in all styles, or of `styles`; fitted or read."""
    data = load(task, chosen.limit)
    if of == "sides":
        inputs = torch.cat([data.train.inputs, data.train.targets])
        labels = torch.cat([torch.zeros(len(data.train.inputs)), torch.ones(len(data.train.targets))]).long()
        classes: tuple[str, ...] = ("content", "target")
    else:
        digits, labels = digit_images()["target"]
        if of == "digits":  # Every digit in every style.
            every = torch.arange(len(STYLES)).repeat(len(digits))
            inputs = styled(digits.repeat_interleave(len(STYLES), 0), every, 2)
            labels, classes = labels.repeat_interleave(len(STYLES)), tuple(map(str, range(10)))
        else:
            inputs, labels, classes = styled(digits, styles_of("target"), 3), styles_of("target"), STYLES
        if chosen.limit:
            inputs, labels = inputs[: 20 * chosen.limit], labels[: 20 * chosen.limit]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    splits = [Split(inputs[at], labels[at]) for at in (order[len(order) // 10 :], order[: len(order) // 10])]
    named = Data(f"{of} of {task}", "classification", *splits, Split(inputs[:0], labels[:0]), classes, (0.0, 1.0))
    epochs = 1 if chosen.tiny else 20 if of == "sides" else 5
    run = chosen.out / "judges" / f"{task}-{of}-{epochs}-{chosen.limit or 'all'}"
    return pf.Training(epochs=epochs, batch_size=64).fit(small_network(named, 0), named, run=run)


def made(task: str, arm: str) -> Callable[[int], Translation]:
    """The method of an arm, by its number of updates; only fruit is mirrored."""
    flip = 0.5 if task == "apples" else 0.0

    def method(updates: int) -> Translation:
        recipe: dict[str, Any] = {"updates": updates, "flip": flip}
        if arm.startswith("tsit"):
            return TSIT(preset="small", training=GameRecipe(**recipe, batch_size=16))
        rate = 2e-4 if arm == "cyclegan" else 1e-4
        game = GameRecipe(**recipe, batch_size=4, generator_rate=rate, discriminator_rate=rate, **RATES)
        return CycleGAN(width=22, training=game) if arm == "cyclegan" else MUNIT(width=20, training=game)

    return method


def key_of(task: str, arm: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a part is of."""
    judges = [chosen.classifier_epochs, chosen.classifier_images]
    minutes = None if arm == "copy" else chosen.minutes
    return {"task": task, "arm": arm, "seed": seed, "minutes": minutes, "limit": chosen.limit, "judges": judges}


def folder_of(task: str, arm: str, seed: int, chosen: argparse.Namespace) -> Path:
    """Where a fit goes on."""
    judged = f"-{name_of_judges(chosen)}" if arm == "tsit-perceptual" else ""
    return run_folder(f"{task}-{arm}-{seed}{judged}", chosen)


def compute(task: str, arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one arm, judge it on test images, write its part."""
    key, path = key_of(task, arm, seed, chosen), chosen.out / "parts" / f"{task}-{arm}-{seed}.json"
    if part_is_current(path, key):
        return
    data, facts = load(task, chosen.limit), {}
    form: Any = Given(data.test.inputs)
    if arm != "copy":
        module = classifier(0.0, 1, chosen) if arm == "tsit-perceptual" else None
        label = f"{task}-{arm}-{chosen.limit or 'all'}"
        seconds = seconds_an_update(label, made(task, arm), module, data, chosen.out)
        method = made(task, arm)(updates_in(chosen.minutes, seconds))
        form, spent = timed_fit(method, module, data, seed, folder_of(task, arm, seed, chosen))
        facts = facts_of(form, spent) | {"seconds_an_update": seconds}
    extractors = [classifier(0.0, 0, chosen), random_judge(3)]
    found = measure_images(form, data, extractors=extractors, styles=DRAWS, seed=seed)
    figures = row_of(found, EXTRACTORS) | kept(task, form, data, seed, chosen)
    part = {
        "figures": figures,
        "real training images": row_of(found, EXTRACTORS, "real training images"),
        "protocol": found.protocol["images"],
        "facts": facts,
    }
    write_part(path, rounded({"key": key, **part, **environment()}))
    print(task, arm, seed, rounded(figures, 3), flush=True)


def kept(task: str, form: Any, data: Data, seed: int, chosen: argparse.Namespace) -> dict[str, float]:
    """What classifiers say of the outputs, and of the real images of the target side."""
    contents, targets = data.test.inputs, data.test.targets
    count = min(len(contents), len(targets))
    contents, references = contents[:count], targets[:count]
    if isinstance(form, Given):
        form = Given(contents)
    outputs = form.translate(contents, references, seed=seed)
    sides = judge(task, "sides", chosen)
    found = {
        "taken for the target": share(sides, outputs, torch.ones(count).long()),
        "taken for the target, real": share(sides, targets, torch.ones(len(targets)).long()),
    }
    if task == "apples":
        return found
    digits, styles = judge(task, "digits", chosen), judge(task, "styles", chosen)
    labels, wanted = digit_images()["test content"][1][:count], styles_of("test target")[:count]
    real = digit_images()["test target"][1][: len(targets)]
    found |= {
        "content kept": share(digits, outputs, labels),
        "content kept, real": share(digits, targets, real),
        "style taken": share(styles, outputs, wanted),
        "style taken, real": share(styles, targets, styles_of("test target")[: len(targets)]),
    }
    try:
        drawn = torch.cat(form.draw(contents[:DRAWN], DRAWS, seed=seed))
        found["content kept, 10 styles"] = share(digits, drawn, labels[:DRAWN].repeat(DRAWS))
    except (AttributeError, ConfigError):
        pass  # It knows one translation.
    return found


def draw(task: str, chosen: argparse.Namespace) -> None:
    """The first test images with their references and translations; one of TSIT's contents a row in ten styles."""
    data = load(task, chosen.limit)
    contents, references = data.test.inputs[:SHOWN], data.test.targets[:SHOWN]
    columns = {"content": contents, "reference": references}
    for arm in ARMS[1:]:
        folder = folder_of(task, arm, min(chosen.seeds), chosen) / "form"
        if folder.is_dir():
            form = pf.load_form(folder)
            columns[arm] = form.translate(contents, references)
            if arm == "tsit" and task == "digits":
                drawn = {str(place + 1): images for place, images in enumerate(form.draw(contents, DRAWS))}
                draw_grid({"content": contents, **drawn}, chosen.figures / "translate_unpaired_styles.png", 2)
    draw_grid(columns, chosen.figures / f"translate_unpaired_{task}.png", 3)


def outcome(parts: list[dict]) -> dict[str, Any]:
    """The JSON that is committed."""
    found: dict[str, Any] = {"what": __doc__.splitlines()[0]}
    for task in sorted({part["key"]["task"] for part in parts}):
        own = [part for part in parts if part["key"]["task"] == task]
        arms = {arm: [part for part in own if part["key"]["arm"] == arm] for arm in ARMS}
        found[task] = {
            "floor: real training images": own[0]["real training images"],
            **{arm: row(fits) for arm, fits in arms.items() if fits},
            "protocol": own[0]["protocol"],
        }
    return found | environment()


def main() -> None:
    """Fit what is missing, then write JSON and figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", default=["apples", "digits"], choices=["apples", "digits"])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    add_arguments(parser, "translate_unpaired", 20.0)
    chosen = shrunk(parser.parse_args())
    for task in chosen.tasks:
        for seed in [] if chosen.assemble else chosen.seeds:
            for arm in chosen.arms:
                if arm != "copy" or seed == min(chosen.seeds):
                    compute(task, arm, seed, chosen)
        draw(task, chosen)
    parts = [part for part in read_parts(chosen.out) if part["key"] == key_of(*_names(part), chosen)]
    write_record(chosen.json, outcome(parts))


def _names(part: dict[str, Any]) -> tuple[str, str, int]:
    return part["key"]["task"], part["key"]["arm"], part["key"]["seed"]


if __name__ == "__main__":
    main()
