"""Deep thin networks: trained alone, distilled, hinted, pruned from a wide one, and by wide-then-narrow.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/narrow_table.py [--data fashion-mnist cifar10]
        [--seeds 0 1 2 3 4] [--arms ...] [--places table curves] [--out runs/narrow_table] [--assemble]

The thin network is plain: a stem of 4x4 patches, `depth` 3x3 convolutions of `width` channels with ReLU on the 7x7
positions that are left (8x8 of CIFAR-10), average pooling, a linear layer; weights from He's initialisation. 20,000
training images, 1,000 others for validation, the official test images. Its wide partner has three times the channels
and is trained once a seed; all arms learn from the same one. Sizes were chosen on validation images in trials that are
not kept: with 4,000 images the wide network was hardly better than the thin one. They are what two CPU cores
carry: about three hours of one core for both data sets and the curves of one.

The table: depth 20, width 8, five seeds, all arms. The curves: depths 8 and 32 at width 8, widths 4 and 12 at depth 20,
three seeds, the arms `alone`, `distillation`, `wide-then-narrow`.

Every arm gives the thin network 6 passes over the training images. Units of wide-then-narrow, and the guided half of
FitNets, count as their share of it by multiply-accumulates, maps included; `thin passes` says what it came to. The
wide network's training is not in this budget. `alone-long` is training alone with it: as many more passes as the
training of the wide network costs in multiply-accumulates. Each arm has its learning rate chosen from three on the
validation images of another seed, at every depth and width anew (`alone-long` has that of `alone`); test images are
looked at once.

Every (data, depth, width, arm, seed) leaves one part; a later run goes on where this one was stopped. Writes
reproductions/narrow_table.json from all parts at hand.

References:
    Zhou et al. 2020, Go Wide, Then Narrow, arXiv:2007.00811. Hinton et al. 2015, arXiv:1503.02531.
    Romero et al. 2014, FitNets, arXiv:1412.6550. Li et al. 2016, arXiv:1608.08710.
"""

import argparse
import json
from dataclasses import replace
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
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.evaluation.subject import stratified_index
from pluriform.method import Method
from pluriform.metrics.calibration import ece
from pluriform.metrics.classification import accuracy, nll
from pluriform.narrow.fitnets import FitNets
from pluriform.narrow.pruned import PrunedWide
from pluriform.narrow.wide import macs_of
from pluriform.narrow.wide_then_narrow import WideThenNarrow
from pluriform.training.recipe import Recipe

IMAGES, FACTOR = 20000, 3
WIDE_EPOCHS, EPOCHS = 5, 6
DEPTH, WIDTH = 20, 8
CURVES = ((8, WIDTH), (32, WIDTH), (DEPTH, 4), (DEPTH, 12))
CURVE_SEEDS, CURVE_ARMS = (0, 1, 2), ("alone", "distillation", "wide-then-narrow")
RATES = (7e-4, 1.5e-3, 3e-3)
WIDE_RATE = 2e-3
TUNED = 100  # The seed that learning rates are chosen on.
ARMS = ("alone", "alone-long", "distillation", "fitnets", "pruned", "wide-then-narrow")


def load(name: str, seed: int, images: int) -> Data:
    """Training images by class share, 1,000 others for validation, the official test images."""
    data = pf.load(name, validation=1000, seed=seed)
    return replace(data, train=Split(*data.train.batch(stratified_index(data.train.targets, images, seed))))


def network(data: Data, depth: int, width: int, seed: int) -> nn.Module:
    """The plain deep network, He's initialisation."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = [nn.Conv2d(data.input_shape[0], width, 4, stride=4), nn.ReLU()]
    for _ in range(depth):
        parts += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    made = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, data.outputs))
    for part in made.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
    return made


def recipe(epochs: float, rate: float) -> Recipe:
    """AdamW with cosine decay; batches of 64."""
    return Recipe(epochs=max(1, round(epochs)), batch_size=64, learning_rate=rate, weight_decay=1e-4, clip_norm=1.0)


def method(arm: str, rate: float, wide: str, epochs: int, extra: float) -> Method:
    """The method of an arm, within the budget of passes."""
    if arm in ("alone", "alone-long"):
        whole = epochs + (extra if arm == "alone-long" else 0)
        return pf.Training(**vars(recipe(whole, rate)))
    if arm == "distillation":
        return pf.Distillation(wide=wide, training=recipe(epochs, rate))
    if arm == "fitnets":  # The guided half costs half a pass.
        return FitNets(wide=wide, hint_training=recipe(epochs / 2, rate), training=recipe(3 * epochs / 4, rate))
    if arm == "pruned":
        return PrunedWide(wide=wide, training=recipe(epochs, rate))
    return WideThenNarrow(  # With its maps a pass through all units costs 1.11 of one through the network.
        wide=wide,
        imitation=recipe(epochs / 6, rate),
        logits=recipe(epochs / 2, rate),
        training=recipe(epochs / 3, rate / 3),
    )


def passes_of(form: Any, images: int) -> float:
    """Passes of the thin network over the training images, forward and backward."""
    facts, cost = form.facts if hasattr(form, "facts") else {}, form.cost
    if "cost" in facts:
        return facts["cost"]["thin_passes"]["all"] / images
    hint = cost.get("hint_sample_passes", 0)
    return (cost["sample_passes"] - hint / 2) / images


def wide_partner(name: str, depth: int, width: int, seed: int, data: Data, chosen: argparse.Namespace) -> str:
    """Folder of the trained wide network of a seed; trained once."""
    folder = chosen.out / "wide" / f"{name}-{depth}-{width}-{seed}-{chosen.wide_epochs}-{chosen.images}"
    wide = network(data, depth, FACTOR * width, seed + 1000)
    pf.Training(**vars(recipe(chosen.wide_epochs, WIDE_RATE))).fit(wide, data, seed=seed, run=folder)
    return str(folder / "form")


def fitted(
    name: str, depth: int, width: int, arm: str, seed: int, rate: float, data: Data, chosen: argparse.Namespace
) -> tuple[Any, dict[str, Any]]:
    """One training: the form, and its figures on validation images."""
    thin = network(data, depth, width, seed)
    wide = wide_partner(name, depth, width, seed, data, chosen)
    sample = data.train.inputs[:1]
    extra = chosen.wide_epochs * macs_of(network(data, depth, FACTOR * width, 0), sample) / macs_of(thin, sample)
    form = method(arm, rate, wide, chosen.epochs, extra).fit(thin, data, seed=seed)
    known = form.predict(data.validation.inputs).mean
    return form, {"validation": 100 * accuracy(known, data.validation.targets)}


def key_of(name: str, depth: int, width: int, arm: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a part is of."""
    budget = {"epochs": chosen.epochs, "wide_epochs": chosen.wide_epochs, "images": chosen.images, "factor": FACTOR}
    return {"data": name, "depth": depth, "width": width, "arm": arm, "seed": seed, **budget}


def best_rate(name: str, depth: int, width: int, arm: str, chosen: argparse.Namespace) -> float:
    """The learning rate of an arm: the best of three on the validation images of a seed of its own."""
    arm, found = "alone" if arm == "alone-long" else arm, {}
    for rate in RATES:
        path = chosen.out / "tuning" / f"{name}-{depth}-{width}-{arm}-{rate:g}.json"
        key = key_of(name, depth, width, arm, TUNED, chosen) | {"rate": rate}
        if not part_is_current(path, key):
            data = load(name, TUNED, chosen.images)
            _, figures = fitted(name, depth, width, arm, TUNED, rate, data, chosen)
            write_part(path, {"key": key, **figures})
            print("tuned", name, depth, width, arm, rate, figures, flush=True)
        found[rate] = json_of(path)["validation"]
    return max(found, key=lambda rate: found[rate])


def json_of(path: Path) -> dict[str, Any]:
    """A part."""
    return json.loads(path.read_text())


def compute(name: str, depth: int, width: int, arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one arm, judge it on test images, write its part."""
    key = key_of(name, depth, width, arm, seed, chosen)
    path = chosen.out / "parts" / f"{name}-{depth}-{width}-{arm}-{seed}.json"
    if part_is_current(path, key):
        return
    rate, data = best_rate(name, depth, width, arm, chosen), load(name, seed, chosen.images)
    form, figures = fitted(name, depth, width, arm, seed, rate, data, chosen)
    mean = form.predict(data.test.inputs).mean
    figures |= {
        "rate": rate,
        "test": 100 * accuracy(mean, data.test.targets),
        "nll": nll(mean, data.test.targets),
        "ece": 100 * ece(mean, data.test.targets),
        "thin passes": passes_of(form, len(data.train)),
        "cost": form.cost,
        "facts": getattr(form, "facts", {}),
    }
    if arm == "alone":
        wide = pf.load_form(wide_partner(name, depth, width, seed, data, chosen))
        figures["wide"] = 100 * accuracy(wide.predict(data.test.inputs).mean, data.test.targets)
    write_part(path, rounded({"key": key, **figures, **environment()}))
    print(name, depth, width, arm, seed, {k: figures[k] for k in ("rate", "validation", "test")}, flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    places: dict[str, dict] = {}
    for part in parts:
        key = part["key"]
        place = places.setdefault(f"{key['data']}, depth {key['depth']}, width {key['width']}", {})
        place.setdefault(key["arm"], {})[key["seed"]] = part
    found = {place: {arm: row(arms, arm) for arm in ARMS if arm in arms} for place, arms in places.items()}
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "budget": {name: parts[0]["key"][name] for name in ("epochs", "wide_epochs", "images")} if parts else {},
            "factor": FACTOR,
            "rates": RATES,
            "spread": "sd over seeds, n - 1; intervals by Student's t; accuracies in percent on the test images",
            "less": "paired by seed, against training alone and against distillation",
        },
        "networks": found,
        **environment(),
    }


def row(arms: dict[str, dict[int, dict]], arm: str) -> dict[str, Any]:
    """Figures of an arm, and its differences."""
    own = arms[arm]
    values = [own[seed]["test"] for seed in sorted(own)]
    found: dict[str, Any] = {
        "seeds": sorted(own),
        "rate": sorted({part["rate"] for part in own.values()}),
        "test": mean_and_sd(values) | {"interval": interval_of_mean(values), "values": values},
        "nll": mean_and_sd(part["nll"] for part in own.values()),
        "ece": mean_and_sd(part["ece"] for part in own.values()),
        "thin passes": mean_and_sd(part["thin passes"] for part in own.values()),
        "seconds": mean_and_sd(part["cost"]["training_seconds"] for part in own.values()),
    }
    for other in ("alone", "alone-long", "distillation"):
        shared = sorted(set(own) & set(arms.get(other, {})))
        if arm != other and shared:
            gaps = [own[seed]["test"] - arms[other][seed]["test"] for seed in shared]
            found[f"less {other}"] = mean_and_sd(gaps) | {"interval": interval_of_mean(gaps)}
    if arm == "alone":
        found["wide"] = mean_and_sd(part["wide"] for part in own.values())
    if arm == "wide-then-narrow":
        found["explained"] = [list(own[seed]["facts"]["explained"].values()) for seed in sorted(own)]
        found["merge"] = max(own[seed]["facts"]["merge"]["training"] for seed in own)
        found["networks"] = own[min(own)]["facts"]["networks"]
    return rounded(found)


def main() -> None:
    """Fit what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", default=["fashion-mnist", "cifar10"], choices=["fashion-mnist", "cifar10"])
    parser.add_argument("--places", nargs="+", default=["table", "curves"], choices=["table", "curves"])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--depth", type=int, default=DEPTH, help="of the table; others are for trials")
    parser.add_argument("--width", type=int, default=WIDTH, help="likewise")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--wide-epochs", type=int, default=WIDE_EPOCHS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--out", type=Path, default=Path("runs/narrow_table"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for name in chosen.data:
            for arm in chosen.arms if "table" in chosen.places else ():
                compute(name, chosen.depth, chosen.width, arm, seed, chosen)
    for name in chosen.data if "curves" in chosen.places and not chosen.assemble else ():
        for depth, width in CURVES:
            for seed in (seed for seed in CURVE_SEEDS if seed in chosen.seeds):
                for arm in (arm for arm in CURVE_ARMS if arm in chosen.arms):
                    compute(name, depth, width, arm, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
