"""Adversarial training on a CPU: clean accuracy, and what AutoAttack leaves of 1,000 test images.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/robust_table.py
        [--settings mnist-linf cifar10-linf cifar10-l2] [--methods training pgd fgsm-rs trades] [--seeds 0 1 2]
        [--out runs/robust_table] [--assemble]

MNIST at 0.3 in Linf, CIFAR-10 at 8/255 in Linf and at 0.5 in L2, inputs in 0..1. All methods train the same strided
convolutional network (of MNIST two convolutions, of CIFAR-10 three) for the same number of passes over the training
images by AdamW; the epoch is chosen on validation images. `training` is the same with eps 0. The radius grows over the
first half. TRADES has beta 1 on MNIST, as published, 6 on CIFAR-10.

Judged are clean accuracy on all test images, and on the first 1,000 of them one step of FGSM, PGD of 20 steps from one
start, PGD of 50 steps from 10 starts, and AutoAttack with its published suite and budgets; every attack of AutoAttack
is told. Seconds are of one core that other work may share; the passes that a training took are told beside.

Every (setting, method, seed) is fitted and attacked in run folders of its own, which resume where they were killed, and
leaves one part. Writes reproductions/robust_table.json from all parts at hand.

References:
    Madry et al. 2018, arXiv:1706.06083; Wong, Rice, Kolter 2020, arXiv:2001.03994; Zhang et al. 2019, arXiv:1901.08573.
    Croce, Hein 2020, arXiv:2003.01690, table 2: MNIST at 0.3, clean and AutoAttack: PGD training 98.53 / 88.50,
    FGSM with a random start 98.50 / 82.93, TRADES 99.48 / 92.81; networks of millions of parameters.
"""

import argparse
import hashlib
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor, nn

import pluriform as pf
from pluriform.attacks.attack import attack
from pluriform.data.data import Data
from pluriform.metrics.classification import accuracy
from pluriform.robust.model import RobustModel
from pluriform.training.augmentation import Augmentation
from pluriform.training.recipe import Recipe

ATTACKED = 1000
METHODS = ("training", "pgd", "fgsm-rs", "trades")
WEAKER: dict[str, tuple[str, dict[str, int]]] = {
    "fgsm": ("fgsm", {}),
    "pgd-20": ("pgd", {"steps": 20}),
    "pgd-50-10": ("pgd", {"steps": 50, "restarts": 10}),
}
PUBLISHED = {"pgd": (98.53, 88.50), "fgsm-rs": (98.50, 82.93), "trades": (99.48, 92.81)}


@dataclass(frozen=True)
class Setting:
    """One data set under one threat.

    Attributes:
        data: Its name.
        threat: Norm and radius.
        epochs: Passes over the training images.
        rate: Highest learning rate.
        steps: Of the attacks that take several.
        widths: Channels of the convolutions, and of the hidden layer.
        beta: Of TRADES.
        augmentation: Of the training images.
    """

    data: str
    threat: pf.Threat
    epochs: int
    rate: float
    steps: int
    widths: tuple[int, ...]
    beta: float
    augmentation: Any = field(default_factory=Augmentation)


CIFAR: dict[str, Any] = {
    "data": "cifar10",
    "epochs": 15,
    "rate": 2e-3,
    "steps": 7,
    "widths": (32, 64, 128, 256),
    "beta": 6.0,
    "augmentation": Augmentation(shift=4, flip=0.5),
}
SETTINGS = {
    "mnist-linf": Setting("mnist", pf.Threat("linf", 0.3), 8, 3e-3, 10, (32, 64, 100), 1.0),
    "cifar10-linf": Setting(threat=pf.Threat("linf", 8 / 255), **CIFAR),
    "cifar10-l2": Setting(threat=pf.Threat("l2", 0.5), **CIFAR),
}


def network(setting: Setting, data: Data, seed: int) -> nn.Module:
    """Convolutions 4x4 of stride 2 with ReLU, a hidden layer, a linear one."""
    torch.manual_seed(seed)
    *maps, hidden = setting.widths
    parts: list[nn.Module] = []
    for before, after in pairwise((data.input_shape[0], *maps)):
        parts += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    flat = maps[-1] * (data.input_shape[1] // 2 ** len(maps)) ** 2
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, data.outputs))


def method(setting: Setting, kind: str, epochs: int | None) -> pf.AdversarialTraining:
    """The method of a row; `training` has eps 0."""
    recipe = Recipe(
        epochs=epochs or setting.epochs,
        batch_size=128,
        learning_rate=setting.rate,
        augmentation=setting.augmentation,
    )
    if kind == "training":
        return pf.AdversarialTraining("pgd", setting.threat.scaled(0), recipe)
    several = {"pgd": {"steps": setting.steps}, "trades": {"steps": setting.steps, "weight": setting.beta}}
    return pf.AdversarialTraining(kind, setting.threat, recipe, **several.get(kind, {}))  # type: ignore[arg-type]


def judged(form: RobustModel, setting: Setting, data: Data, count: int, run: Path) -> dict[str, Any]:
    """Clean accuracy, and accuracy in percent under every attack on the first images."""
    x, y = data.test.batch(torch.arange(count))
    threat = pf.Threat(setting.threat.norm, setting.threat.eps, data.bounds)
    found = {"clean": 100 * accuracy(form.predict(data.test.inputs).mean, data.test.targets)}

    def left(moved: Tensor) -> float:
        return 100 * accuracy(form.predict(moved).mean, y)

    found["clean_attacked"] = left(x)
    for name, (kind, options) in WEAKER.items():
        found[name] = left(attack(form, x, y, threat, kind, **options))
    began = time.perf_counter()
    worst = pf.auto_attack(form, x, y, threat, run=run)
    found["autoattack"] = 100 * worst.robust_accuracy
    stages = {stage.attack: {"attacked": stage.attacked, "broken": stage.broken} for stage in worst.stages}
    return {"accuracy": found, "stages": stages, "attack_seconds": time.perf_counter() - began}


def compute(name: str, kind: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one method on one seed, attack it, write its part."""
    setting, made = SETTINGS[name], method(SETTINGS[name], kind, chosen.epochs)
    key = {
        "setting": name,
        "name": kind,
        "seed": seed,
        "method": made.to_json(),
        "widths": list(setting.widths),
        "attacked": chosen.attacked,
    }
    path = chosen.out / "parts" / f"{name}-{kind}-{seed}.json"
    if part_is_current(path, key):
        return
    data = pf.load(setting.data, validation=1000, seed=seed)
    stem = f"{name}-{kind}-{seed}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}"
    form = made.fit(network(setting, data, seed), data, seed=seed, run=chosen.out / "fits" / stem)
    found = judged(form, setting, data, chosen.attacked, chosen.out / "attacks" / stem)
    part = {"cost": form.cost, "events": form.events, **found, **environment()}
    write_part(path, {"key": key, **rounded(part)})
    print(name, kind, seed, {k: round(v, 1) for k, v in found["accuracy"].items()}, found["stages"], flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    settings: dict[str, dict] = {}
    for place in sorted({(part["key"]["setting"], part["key"]["name"]) for part in parts}):
        own = [part for part in parts if (part["key"]["setting"], part["key"]["name"]) == place]
        row = {
            "method": own[0]["key"]["method"],
            "widths": own[0]["key"]["widths"],
            "seeds": [part["key"]["seed"] for part in own],
            "accuracy": {name: mean_and_sd(part["accuracy"][name] for part in own) for name in own[0]["accuracy"]},
            "training_seconds": mean_and_sd(part["cost"]["training_seconds"] for part in own),
            "sample_passes": mean_and_sd(part["cost"]["sample_passes"] for part in own),
            "stages": [part["stages"] for part in own],
            "roll_backs": [len(part["events"]) for part in own],
        }
        if place[0] == "mnist-linf" and place[1] in PUBLISHED:
            row["published"] = dict(zip(("clean", "autoattack"), PUBLISHED[place[1]], strict=True))
        settings.setdefault(place[0], {})[place[1]] = row
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "spread": "sd over seeds, n - 1; accuracies in percent",
            "attacked": f"the first {sorted({part['key']['attacked'] for part in parts})} test images",
            "autoattack": "standard: APGD-CE, APGD-T, FAB-T of 100 steps, Square of 5,000 queries",
            "training_seconds": "by the clock on one core, which other work shared, now more, now less",
            "sample_passes": "forward and backward passes of one image, those of the attacker among them",
        },
        "settings": settings,
        "machines": sorted({part["machine"] for part in parts}),
        "commit": environment()["commit"],
    }


def main() -> None:
    """Fit and attack what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="other than the table's, to try the script out")
    parser.add_argument("--attacked", type=int, default=ATTACKED)
    parser.add_argument("--out", type=Path, default=Path("runs/robust_table"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for setting in chosen.settings:
            for kind in chosen.methods:
                compute(setting, kind, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
