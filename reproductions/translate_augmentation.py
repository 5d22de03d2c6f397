"""Translation as augmentation: does a classifier that is trained on translated images hold up in the other domain?

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/translate_augmentation.py
        [--looks styles photographs] [--arms source shifted recoloured tsit tsit-features cyclegan ceiling]
        [--seeds 0 1] [--minutes 3] [--epochs 10] [--fits runs/translate_unpaired]
        [--out runs/translate_augmentation] [--figures docs/figures] [--assemble] [--tiny]

The source are 4,000 grey digits of MNIST with labels; the target are 4,000 others, without labels, either coloured and
textured in four styles or on photographs (MNIST-M), both made in code. A small convolutional network is trained on

- `source`: the grey digits alone;
- `shifted`: with ordinary augmentation, moved by up to 2 pixels and cut by 4;
- `recoloured`: half of them with a random colour for the stroke and one for the ground, which knows nothing of the
  target but that colours do not matter;
- `tsit`, `tsit-features`, `cyclegan`: half of them translated (`Translated.augment`), TSIT's each in the style of one
  of the target images; the translator was trained for `--minutes` on both sides without labels. `tsit` holds the
  content by edges, `tsit-features` by features of the classifier of `recoloured`, which knows digits
  in any colours and no target;
- `ceiling`: the target images with their labels.

Every arm makes equally many steps, where two versions of the training images are at hand in half the epochs. Judged on
4,000 test digits in the look of the target, and in grey, by the last weights; nothing is chosen by the target.
`content kept` is the share of translated training digits that the ceiling reads as their label, `moved` the share of
the way from source to ceiling. Gains are over `source` of the same seed; intervals are 95 % of the mean over seeds.

Translators lie in `--fits`, where translate_unpaired.py leaves its own: with the same `--minutes` they are read. Each
(look, arm, seed) leaves one part; the fits in between resume. Writes reproductions/translate_augmentation.json and the
first test digits in all looks.

References:
    Ganin, Lempitsky 2015, arXiv:1409.7495 (MNIST-M); Hoffman et al. 2018, CyCADA: Cycle-Consistent Adversarial Domain
    Adaptation, arXiv:1711.03213.
"""

import argparse
import copy
import statistics
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
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
from torch import Tensor
from translate_digits import LOOKS, labelled_digits, unpaired_digits
from translate_networks import (
    add_arguments,
    clock,
    cut,
    draw_grid,
    facts_of,
    run_folder,
    seconds_an_update,
    share,
    shrunk,
    small_network,
    timed_fit,
    updates_in,
)
from translate_unpaired import made

import pluriform as pf
from pluriform.data.data import Data
from pluriform.training.augmentation import Augmentation
from pluriform.translate.augmentation import mixed_with_translations
from pluriform.translate.translated import Translated

PLAIN = ("source", "shifted", "recoloured")
TRANSLATORS = ("tsit", "tsit-features", "cyclegan")
ARMS = (*PLAIN, *TRANSLATORS, "ceiling")
VERSIONS = {"recoloured": 2, "tsit": 2, "tsit-features": 2}
"""Copies of the training images, where draws differ; the others see one."""
ORIGINALS = 0.5
SHOWN = 8


@lru_cache(maxsize=3)
def labelled(look: str, limit: int | None) -> Data:
    """Digits in a look with their labels."""
    return cut(labelled_digits(look), limit)


@lru_cache(maxsize=1)
def sides(look: str, limit: int | None) -> Data:
    """Grey digits and those in a look, unpaired."""
    return cut(unpaired_digits(look), limit)


def recoloured(digits: Tensor, seed: int) -> Tensor:
    """Grey digits with one random colour for the stroke and one for the ground each."""
    colours = torch.rand(2, len(digits), 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    return digits * colours[0] + (1 - digits) * colours[1]


def task_of(look: str) -> str:
    """What translate_unpaired.py calls a look in the names of its fits."""
    return "digits" if look == "styles" else look


def folder_of(look: str, arm: str, seed: int, chosen: argparse.Namespace) -> Path:
    """Where a translator goes on."""
    place = copy.copy(chosen)
    place.out = chosen.fits
    read = f"-{chosen.epochs}" if arm == "tsit-features" else ""
    return run_folder(f"{task_of(look)}-{arm}-{seed}{read}", place)


def translator(look: str, arm: str, seed: int, chosen: argparse.Namespace) -> tuple[Translated, dict[str, Any]]:
    """A translator from grey to the look; fitted, resumed or read."""
    data, task = sides(look, chosen.limit), task_of(look)
    module = classifier_of(look, "recoloured", seed, chosen)[0] if arm == "tsit-features" else None
    seconds = seconds_an_update(f"{task}-{arm}-{chosen.limit or 'all'}", made(task, arm), module, data, chosen.fits)
    method = made(task, arm)(updates_in(chosen.minutes, seconds))
    form, spent = timed_fit(method, module, data, seed, folder_of(look, arm, seed, chosen))
    return form, facts_of(form, spent) | {"seconds_an_update": seconds}


def trained(arm: str, data: Data, seed: int, chosen: argparse.Namespace, run: Path | None) -> Any:
    """A classifier; as many steps whatever the arm."""
    augmentation = Augmentation(shift=2, crop=4) if arm == "shifted" else Augmentation()
    epochs = max(1, chosen.epochs // VERSIONS.get(arm, 1))
    method = pf.Training(epochs=epochs, batch_size=64, augmentation=augmentation)
    return method.fit(small_network(data, seed), data, seed=seed, run=run)


def classifier_of(look: str, arm: str, seed: int, chosen: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The classifier of an arm, and what is told of its making."""
    source, folder = labelled("grey", chosen.limit), chosen.out / "classifiers"
    name = f"{seed}-{chosen.epochs}-{chosen.limit or 'all'}"
    if arm == "ceiling":
        return trained(arm, labelled(look, chosen.limit), seed, chosen, folder / f"{look}-{name}"), {}
    if arm in PLAIN:
        if arm == "recoloured":
            source = mixed_with_translations(source, recoloured, ORIGINALS, VERSIONS[arm], seed)
        return trained(arm, source, seed, chosen, folder / f"{arm}-{name}"), {}
    form, facts = translator(look, arm, seed, chosen)
    begin, references = clock(), sides(look, chosen.limit).train.targets
    count = VERSIONS.get(arm, 1)
    mixed = form.augment(source, originals=ORIGINALS, versions=count, references=references, seed=seed)
    spent = clock() - begin
    changed = (mixed.train.inputs != source.train.inputs.repeat(count, 1, 1, 1)).flatten(1).any(1)
    ceiling, _ = classifier_of(look, "ceiling", seed, chosen)
    kept = share(ceiling, mixed.train.inputs[changed], mixed.train.targets[changed])
    told = {"content kept": kept, "translated": int(changed.sum()), "seconds_to_translate": spent}
    return trained(arm, mixed, seed, chosen, None), {"translator": facts, **told}


def key_of(look: str, arm: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a part is of."""
    minutes = chosen.minutes if arm in TRANSLATORS else None
    return {
        "look": look,
        "arm": arm,
        "seed": seed,
        "minutes": minutes,
        "epochs": chosen.epochs,
        "limit": chosen.limit,
    }


def compute(look: str, arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Train one classifier, judge it in both looks, write its part."""
    key, path = key_of(look, arm, seed, chosen), chosen.out / "parts" / f"{look}-{arm}-{seed}.json"
    if part_is_current(path, key):
        return
    begin = clock()
    form, facts = classifier_of(look, arm, seed, chosen)
    tests = {"target": labelled(look, chosen.limit).test, "source": labelled("grey", chosen.limit).test}
    figures = {name: share(form, test.inputs, test.targets) for name, test in tests.items()}
    facts |= {"test digits": len(tests["target"]), "work_seconds_of_last_sitting": clock() - begin}
    write_part(path, rounded({"key": key, "figures": figures, "facts": facts, **environment()}))
    print(look, arm, seed, rounded(figures, 4), rounded(facts.get("content kept")), flush=True)


def outcome(parts: list[dict]) -> dict[str, Any]:
    """The JSON that is committed."""
    found: dict[str, Any] = {"what": __doc__.splitlines()[0]}
    for look in LOOKS:
        own = [part for part in parts if part["key"]["look"] == look]
        arms = {arm: {p["key"]["seed"]: p for p in own if p["key"]["arm"] == arm} for arm in ARMS}
        known = {arm: fits for arm, fits in arms.items() if fits}
        if known:
            found[look] = {arm: _row(fits, arms["source"], arms["ceiling"]) for arm, fits in known.items()}
    return found | environment()


def _row(fits: dict[int, dict], source: dict[int, dict], ceiling: dict[int, dict]) -> dict[str, Any]:
    """Figures of an arm over its seeds, in percent and points."""
    target = {seed: part["figures"]["target"] for seed, part in sorted(fits.items())}
    row: dict[str, Any] = {
        "target": mean_and_sd(target.values()) | {"interval": interval_of_mean(list(target.values()))},
        "by_seed": {str(seed): value for seed, value in target.items()},
        "source": mean_and_sd(part["figures"]["source"] for part in fits.values()),
    }
    gains = [target[seed] - source[seed]["figures"]["target"] for seed in target if seed in source]
    if gains and source is not fits:
        row["gain over source"] = mean_and_sd(gains) | {"interval": interval_of_mean(gains)}
        whole = [
            ceiling[seed]["figures"]["target"] - source[seed]["figures"]["target"] for seed in source if seed in ceiling
        ]
        if whole and statistics.fmean(whole) > 0:
            row["moved"] = 100 * statistics.fmean(gains) / statistics.fmean(whole)
    first = next(iter(fits.values()))
    for name in ("minutes", "epochs"):
        row |= {name: first["key"][name]} if first["key"][name] else {}
    if "translator" in first["facts"]:
        row["content kept"] = mean_and_sd(part["facts"]["content kept"] for part in fits.values())
        row["translator"] = {name: first["facts"]["translator"][name] for name in ("generator_parameters", "updates")}
        row["seconds_to_translate"] = mean_and_sd(part["facts"]["seconds_to_translate"] for part in fits.values())
    return row | {"test digits": first["facts"]["test digits"]}


def draw(look: str, chosen: argparse.Namespace) -> None:
    """The first test digits in grey, recoloured and translated, beside those of the target."""
    data, seed = sides(look, chosen.limit), min(chosen.seeds)
    contents, references = data.test.inputs[:SHOWN], data.test.targets[:SHOWN]
    columns = {"source": contents, "recoloured": recoloured(contents, seed), "target": references}
    for arm, title in (("tsit", "TSIT"), ("tsit-features", "TSIT, features"), ("cyclegan", "CycleGAN")):
        folder = folder_of(look, arm, seed, chosen) / "form"
        if folder.is_dir():
            columns[title] = pf.load_form(folder).translate(contents, references)
    draw_grid(columns, chosen.figures / f"translate_augmentation_{look}.png", 3)


def main() -> None:
    """Train what is missing, then write JSON and pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--looks", nargs="+", default=LOOKS, choices=LOOKS)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--epochs", type=int, default=10, help="of every classifier, over one version of its images")
    parser.add_argument("--fits", type=Path, default=Path("runs/translate_unpaired"), help="where translators lie")
    add_arguments(parser, "translate_augmentation", 3.0)
    chosen = shrunk(parser.parse_args())
    if chosen.tiny:
        chosen.epochs, chosen.fits = 2, chosen.out
    for look in chosen.looks:
        for seed in [] if chosen.assemble else chosen.seeds:
            for arm in chosen.arms:
                compute(look, arm, seed, chosen)
        draw(look, chosen)
    parts = [part for part in read_parts(chosen.out) if part["key"] == key_of(*_names(part), chosen)]
    write_record(chosen.json, outcome(parts))


def _names(part: dict[str, Any]) -> tuple[str, str, int]:
    return part["key"]["look"], part["key"]["arm"], part["key"]["seed"]


if __name__ == "__main__":
    main()
