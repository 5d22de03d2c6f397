"""Thin translators: size and latency against quality, each trained alone and by the images of a wide one.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/translate_thin.py
        [--families pix2pix] [--arms alone half whole] [--seeds 0 1] [--passes 30] [--judges runs/translate_facades]
        [--out runs/translate_thin] [--time] [--assemble] [--tiny]

Label maps of facades to photographs at 64 pixels, 400 pairs to train on, 100 to judge. A wide translator of a family
and thin ones, narrower throughout, all for `--passes` over the pairs, 8 a step, with the losses of the family:

- `alone`: by the game of the family, with L1 to the truth;
- `half`, `whole`: the same passes, but half or all of the weight of that L1 goes to the images of the wide translator
  of the same seed (`DistilledTranslation`). The passes of the wide one come on top.

In pix2pix the discriminator is as thin as the generator; in SPADE and TSIT it is that of the preset. Judged as in
translate_facades.py: labels by a segmentation network of the real pairs, kernel and perceptual distance by a classifier
of CIFAR-10 and by random features, PSNR beside the mean photograph. Costs are parameters, multiply-accumulates of one
image, and the median latency of `translate` with 1 and 16 images; `--time` measures latencies of all fits again, on a
quiet machine, and trains nothing.

Judges lie in `--judges`, where translate_facades.py leaves its own. Every (family, width, arm, seed) is fitted in a run
folder that resumes where it was killed, and leaves one part. Writes reproductions/translate_thin.json, which
translate_figures.py draws.

References:
    Li et al. 2020, GAN Compression, arXiv:2003.08936; Isola et al. 2017, pix2pix, arXiv:1611.07004.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import (
    environment,
    interval_of_mean,
    mean_and_sd,
    part_is_current,
    read_parts,
    rounded,
    write_part,
    write_record,
)
from translate_facades import load
from translate_networks import add_arguments, classifier, facts_of, means_of, row_of, ruler, shrunk, timed_fit

import pluriform as pf
from pluriform.data.data import Data
from pluriform.evaluation.images import measure_images, measure_translator_cost
from pluriform.evaluation.random_judge import random_judge
from pluriform.translate.distilled import DistilledTranslation
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.pix2pix import Pix2Pix
from pluriform.translate.rivals.spade import SPADE
from pluriform.translate.translation import Translation

SIZE, BATCH = 64, 8
WIDTHS = {"pix2pix": ("32", "16", "8", "4"), "spade": ("20", "10", "5"), "tsit": ("small", "tiny")}
"""The wide one first; presets of TSIT."""
TRUTH = {"pix2pix": 100.0, "spade": 10.0, "tsit": 10.0}
"""Weight of L1."""
SHARES = {"alone": 0.0, "half": 0.5, "whole": 1.0}
"""What part of it goes to the images of the wide one."""
EXTRACTORS = ("CIFAR-10", "random")
KINDS = {"ceiling": "real test images", "floor": "real training images", "mean": "mean training image"}


def made(family: str, width: str, share: float, updates: int) -> Translation:
    """A translator of that family and width, with the rest of the weight on the truth."""
    truth = (1 - share) * TRUTH[family]
    if family == "tsit":
        preset: Any = width
        return TSIT(preset=preset, l1=truth, training=GameRecipe(updates=updates, batch_size=BATCH))
    if family == "spade":
        return SPADE(width=int(width), l1=truth, training=GameRecipe(updates=updates, batch_size=BATCH))
    rates = {"generator_rate": 2e-4, "discriminator_rate": 2e-4, "beta1": 0.5, "beta2": 0.999}
    return Pix2Pix(width=int(width), l1=truth, training=GameRecipe(updates=updates, batch_size=BATCH, **rates))


def method_of(family: str, width: str, arm: str, seed: int, data: Data, chosen: argparse.Namespace) -> Translation:
    """The method of an arm; the wide translator of that seed must be there where it teaches."""
    updates = max(2, chosen.passes * len(data.train) // BATCH)
    thin, share = made(family, width, SHARES[arm], updates), SHARES[arm]
    if not share:
        return thin
    wide = folder_of(family, WIDTHS[family][0], "alone", seed, chosen) / "form"
    return DistilledTranslation(str(wide), thin, weight=share * TRUTH[family])


def folder_of(family: str, width: str, arm: str, seed: int, chosen: argparse.Namespace) -> Path:
    """Where a fit goes on."""
    return chosen.out / "fits" / f"{family}-{width}-{arm}-{seed}-{chosen.passes}-{chosen.limit or 'all'}"


def part_of(family: str, width: str, arm: str, seed: int, chosen: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """What a part is of, and where it lies."""
    judges = [chosen.ruler_width, chosen.ruler_epochs, chosen.classifier_epochs, chosen.classifier_images]
    key = {"family": family, "width": width, "arm": arm, "seed": seed, "passes": chosen.passes, "judges": judges}
    return key | {"limit": chosen.limit}, chosen.out / "parts" / f"{family}-{width}-{arm}-{seed}.json"


def compute(family: str, width: str, arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one translator, judge and time it, write its part."""
    key, path = part_of(family, width, arm, seed, chosen)
    if part_is_current(path, key):
        return
    data, place = load(SIZE, chosen.limit), copy.copy(chosen)
    place.out = chosen.judges
    method = method_of(family, width, arm, seed, data, chosen)
    form, spent = timed_fit(method, None, data, seed, folder_of(family, width, arm, seed, chosen))
    extractors = [classifier(0.0, 0, place), random_judge(3)]
    found = measure_images(form, data, extractors=extractors, segmentation=ruler(data, place), styles=0, seed=seed)
    part = {
        "figures": row_of(found, EXTRACTORS),
        **{name: row_of(found, EXTRACTORS, images) for name, images in KINDS.items()},
        "protocol": found.protocol["images"],
        "facts": facts_of(form, spent),
        "cost": cost_of(form, data),
    }
    write_part(path, rounded({"key": key, **part, **environment()}))
    print(family, width, arm, seed, rounded(part["figures"], 3), rounded(part["cost"], 3), flush=True)


def cost_of(form: Any, data: Data) -> dict[str, float]:
    """Parameters, multiply-accumulates and latencies in ms."""
    found = {}
    for each in measure_translator_cost(form, data).measures:
        if each.name != "training_seconds":
            batch = each.condition.get("batch")
            found[f"{each.name}, batch {batch}" if batch else each.name] = each.value
    return found


def time_again(family: str, width: str, arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Measure what a fitted translator costs, into its part."""
    key, path = part_of(family, width, arm, seed, chosen)
    if not part_is_current(path, key):
        return
    form = pf.load_form(folder_of(family, width, arm, seed, chosen) / "form")
    part = json.loads(path.read_text()) | {"cost": cost_of(form, load(SIZE, chosen.limit))}
    write_part(path, rounded(part))
    print(family, width, arm, seed, rounded(part["cost"], 3), flush=True)


def outcome(parts: Sequence[dict]) -> dict[str, Any]:
    """The JSON that is committed."""
    found: dict[str, Any] = {"what": __doc__.splitlines()[0]}
    for family, (wide, *thin) in WIDTHS.items():
        own = [part for part in parts if part["key"]["family"] == family]
        arms = {
            (width, arm): {p["key"]["seed"]: p for p in own if (p["key"]["width"], p["key"]["arm"]) == (width, arm)}
            for width in (wide, *thin)
            for arm in SHARES
        }
        if not arms[wide, "alone"]:
            continue
        first = next(iter(arms[wide, "alone"].values()))
        found[family] = {
            **{name: first[name] for name in ("ceiling", "floor", "mean")},
            "passes": first["key"]["passes"],
            "wide": {"width": wide} | _row(arms[wide, "alone"]),
            "thin": {
                width: {
                    arm: _row(arms[width, arm], None if arm == "alone" else arms[width, "alone"])
                    for arm in SHARES
                    if arms[width, arm]
                }
                for width in thin
            },
            "protocol": first["protocol"],
        }
    return found | environment()


def _row(fits: dict[int, dict], alone: dict[int, dict] | None = None) -> dict[str, Any]:
    """Figures over seeds, costs (medians), and the differences to the same width alone."""
    parts = [part for _, part in sorted(fits.items())]
    row: dict[str, Any] = {
        "seeds": sorted(fits),
        "updates": parts[0]["facts"]["updates"],
        "cost": {name: statistics.median(part["cost"][name] for part in parts) for name in parts[0]["cost"]},
        "training_seconds": [part["facts"]["training_seconds"] for part in parts],
        **means_of([part["figures"] for part in parts]),
        "by_seed": {str(part["key"]["seed"]): part["figures"] for part in parts},
    }
    shared = sorted(set(fits) & set(alone or {}))
    if alone and shared:
        row["less alone"] = {}
        for name in parts[0]["figures"]:
            pairs = [(fits[seed]["figures"][name], alone[seed]["figures"][name]) for seed in shared]
            gaps = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
            row["less alone"][name] = mean_and_sd(gaps) | {"interval": interval_of_mean(gaps)}
    return row


def main() -> None:
    """Fit what is missing, then write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="+", default=["pix2pix"], choices=list(WIDTHS))
    parser.add_argument("--widths", nargs="+", help="only these of the thin ones")
    parser.add_argument("--arms", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--passes", type=int, default=30)
    parser.add_argument("--judges", type=Path, default=Path("runs/translate_facades"), help="where judges lie")
    parser.add_argument("--time", action="store_true", help="only measure costs again")
    add_arguments(parser, "translate_thin", 0.0)
    chosen = shrunk(parser.parse_args())
    if chosen.tiny:
        chosen.passes, chosen.judges = 1, chosen.out
    step = time_again if chosen.time else compute
    for seed in [] if chosen.assemble else chosen.seeds:
        for family in chosen.families:
            wide, *thin = WIDTHS[family]
            step(family, wide, "alone", seed, chosen)
            for width in thin:
                for arm in chosen.arms:
                    if chosen.widths is None or width in chosen.widths:
                        step(family, width, arm, seed, chosen)
    parts = [part for part in read_parts(chosen.out) if part["key"] == part_of(*_names(part), chosen)[0]]
    write_record(chosen.json, outcome(parts))


def _names(part: dict[str, Any]) -> tuple[str, str, str, int]:
    return part["key"]["family"], part["key"]["width"], part["key"]["arm"], part["key"]["seed"]


if __name__ == "__main__":
    main()
