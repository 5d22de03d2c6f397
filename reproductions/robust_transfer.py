"""Transfer of robust sources: networks trained at five radii in L2, brought to five small targets.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/robust_transfer.py
        [--sources cifar10] [--seeds 0 1 2] [--epochs 5] [--targets ...] [--pixels 32 16 8] [--coarse-modes ...]
        [--out runs/robust_transfer] [--assemble] [--tiny]

The question of Salman et al.: do adversarially robust sources transfer better? Sources are the strided convolutional
network of robust_table.py, trained by PGD of 3 steps of 2 eps / 3 for the same number of epochs at every eps, 0 is
plain training. Targets have their validation split drawn by the seed: the part of CIFAR-100, sign digits, notMNIST, the
characters of 8 Omniglot alphabets, and FashionMNIST with 1,000 labels, all as 3x32x32 in 0..1. A linear probe on cached
features and full-network training take the better of two learning rates by validation; so does the same network from
scratch. Every fit of a target has as many updates. Judged are test accuracy, and what PGD of 20 steps at L2 0.25 leaves
of test images. Granularity: the same with targets scaled down to 16 and to 8 pixels and up again.

The eps of a target is chosen by validation accuracy. The claim is decided for each target by the paired difference in
test accuracy between the best eps above 0 (by mean validation accuracy) and eps 0: by its 95 % t interval over seeds.

Sources lie in run folders and every result is a part: a killed run resumes. Writes reproductions/robust_transfer.json
from all parts at hand. Several processes with different --seeds may share --out; join them with --assemble. Seconds of
targets are of processor time, those of sources by the clock.

References:
    Salman, Ilyas, Engstrom, Kapoor, Madry 2020, Do Adversarially Robust ImageNet Models Transfer Better?,
    arXiv:2007.08489: robust sources win on 11 of 12 targets by fixed features, on 10 of 12 by full-network training.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from records import environment, part_is_current, read_parts, rounded, write_part, write_record
from robust_table import SETTINGS, network
from robust_transfer_outcome import outcome

import pluriform as pf
from pluriform.attacks.attack import attack
from pluriform.data.data import Data, Split
from pluriform.data.reshape import reshaped
from pluriform.evaluation.subject import stratified_index
from pluriform.metrics.classification import accuracy
from pluriform.training.loss import Loss
from pluriform.training.validation import assess

SHAPE = (3, 32, 32)
LADDER = (0.0, 0.1, 0.25, 0.5, 1.0)
SOURCES = ("cifar10", "cifar100", "cifar100-part")
BATCH = 64
STEPS = 3
JUDGED = 0.25
RATES = {"linear-probe": (1e-3, 1e-4), "full-network": (1e-3, 3e-4), "scratch": (3e-3, 1e-3)}
"""Learning rates; the head's is ten times that, where there is a source."""
MODES = ("linear-probe", "full-network")


@dataclass(frozen=True)
class Target:
    """How a target is split.

    Attributes:
        validation: Share of the training images, or their number.
        labels: Training images, drawn by class share and seed; `None` for all.
    """

    validation: float | int = 0.1
    labels: int | None = None


TARGETS = {
    "cifar100-part": Target(),
    "sign-digits": Target(0.2),
    "notmnist": Target(),
    "omniglot-small": Target(0.2),
    "fashion-mnist": Target(1000, 1000),
}


def method(eps: float, epochs: int) -> pf.AdversarialTraining:
    """How a source is trained."""
    setting = SETTINGS["cifar10-l2"]
    training = pf.Training(epochs=epochs, batch_size=128, learning_rate=setting.rate, augmentation=setting.augmentation)
    step = 2 * eps / STEPS if eps else None
    return pf.AdversarialTraining("pgd", pf.Threat("l2", eps), training, steps=STEPS, step_size=step, ramp=0.25)


def thinned(data: Data, labels: int | None, rest: int | None, seed: int) -> Data:
    """Fewer training images, and at most `rest` of every split."""

    def cut(split: Any, count: int | None) -> Split:
        sizes = [size for size in (count, rest) if size]
        index = stratified_index(split.targets, min(sizes, default=len(split)), seed)
        return Split(*split.batch(index))

    splits = {"train": cut(data.train, labels), "validation": cut(data.validation, None), "test": cut(data.test, None)}
    return replace(data, **splits, unlabelled=None)


@lru_cache(maxsize=1)
def source_data(name: str, seed: int, limit: int | None) -> Data:
    """Data of a source; 1,000 images of them choose the epoch."""
    return thinned(pf.load(name, validation=1000 if name != "cifar100-part" else 0.1, seed=seed), None, limit, seed)


@lru_cache(maxsize=1)
def target_data(name: str, pixels: int, seed: int, limit: int | None) -> Data:
    """A target in the shape of the source, without detail finer than `pixels` a side."""
    made = TARGETS[name]
    data = thinned(pf.load(name, validation=made.validation, seed=seed), made.labels, limit, seed)
    data = reshaped(data, SHAPE)
    return data if pixels == SHAPE[1] else reshaped(reshaped(data, (3, pixels, pixels)), SHAPE)


def source_key(name: str, eps: float, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a source depends on."""
    return {
        "kind": "source",
        "source": name,
        "eps": eps,
        "seed": seed,
        "method": method(eps, chosen.epochs).to_json(),
        "widths": list(SETTINGS["cifar10-l2"].widths),
        "limit": chosen.limit,
    }


def hashed(key: dict[str, Any]) -> str:
    """A short name of a key."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]


def fitted_source(name: str, eps: float, seed: int, chosen: argparse.Namespace) -> Any:
    """The source as a form: trained, resumed or read from its run folder."""
    data = source_data(name, seed, chosen.limit)
    untrained = network(replace(SETTINGS["cifar10-l2"], data=name), data, seed)
    run = chosen.out / "sources" / f"{name}-{eps:g}-{seed}-{hashed(source_key(name, eps, seed, chosen))}"
    return method(eps, chosen.epochs).fit(untrained, data, seed=seed, run=run)


def left(form: Any, data: Data, eps: float, count: int) -> float:
    """Accuracy in percent that PGD of 20 steps in L2 leaves, on test images drawn by class share."""
    x, y = data.test.batch(stratified_index(data.test.targets, count, 0))  # type: ignore[union-attr]
    moved = attack(form, x, y, pf.Threat("l2", eps, data.bounds), "pgd", steps=20)
    return 100 * accuracy(form.predict(moved).mean, y)


def judged(form: Any, data: Data, count: int) -> dict[str, float]:
    """Test accuracy and robust test accuracy in percent."""
    test: Any = data.test
    return {
        "accuracy": 100 * accuracy(form.predict(test.inputs).mean, test.targets),
        "robust_accuracy": left(form, data, JUDGED, count),
    }


def compute_source(name: str, eps: float, seed: int, chosen: argparse.Namespace) -> None:
    """Fit and judge one source, write its part."""
    key = source_key(name, eps, seed, chosen) | {"attacked": chosen.attacked}
    path = chosen.out / "parts" / f"source-{name}-{eps:g}-{seed}.json"
    if part_is_current(path, key):
        return
    form, data = fitted_source(name, eps, seed, chosen), source_data(name, seed, chosen.limit)
    found = judged(form, data, chosen.attacked)
    found["own_robust_accuracy"] = left(form, data, eps, chosen.attacked)
    part = {**found, "cost": form.cost, "events": form.events, **environment()}
    write_part(path, {"key": key, **rounded(part)})
    print("source", name, f"eps {eps:g}", seed, rounded(found, 3), flush=True)


def updates(mode: str, chosen: argparse.Namespace) -> int:
    """Of a target's fit."""
    return chosen.probe_updates if mode == "linear-probe" else chosen.updates


def tuned(fit: Callable[[pf.Training], Any], data: Data, mode: str, count: int) -> tuple[Any, list[dict[str, float]]]:
    """The form of the better learning rate by validation, and what both found."""
    epochs = max(1, round(count * BATCH / len(data.train)))
    forms, found = [], []
    for rate in RATES[mode]:
        form = fit(pf.Training(epochs=epochs, batch_size=BATCH, learning_rate=rate))
        seen = assess(form, data.validation, Loss(data.task), form.device)
        right = 0.0 if seen.accuracy is None else 100 * float(seen.accuracy)
        forms.append(form)
        found.append({"learning_rate": rate, "validation_accuracy": right, "validation_loss": float(seen.loss)})
    best = max(range(len(forms)), key=lambda i: (found[i]["validation_accuracy"], -found[i]["validation_loss"]))
    return forms[best], [found[best], *(row for place, row in enumerate(found) if place != best)]


def compute_target(
    source: str, name: str, pixels: int, mode: str, eps: float | None, seed: int, chosen: argparse.Namespace
) -> None:
    """Bring one source to one target, or train it from scratch (eps `None`), judge it, write its part."""
    key = {
        "kind": "target",
        "target": name,
        "pixels": pixels,
        "mode": mode,
        "eps": eps,
        "seed": seed,
        "source": None if eps is None else source_key(source, eps, seed, chosen),
        "rates": list(RATES[mode]),
        "updates": updates(mode, chosen),
        "attacked": chosen.attacked,
        "limit": chosen.limit,
    }
    label = mode if eps is None else f"{mode}-{source}-{eps:g}"
    path = chosen.out / "parts" / f"{name}-{pixels}-{label}-{seed}.json"
    if part_is_current(path, key):
        return
    data = target_data(name, pixels, seed, chosen.limit)
    begun: Any = None if eps is None else fitted_source(source, eps, seed, chosen)
    began = time.process_time()

    def fit(training: pf.Training) -> Any:
        if begun is None:
            untrained = network(replace(SETTINGS["cifar10-l2"], data=name), data, seed)
            return training.fit(untrained, data, seed=seed)
        return pf.Transfer(mode, training=training).fit(begun, data, seed=seed)  # type: ignore[arg-type]

    form, rates = tuned(fit, data, mode, updates(mode, chosen))
    trained = time.process_time() - began
    found = judged(form, data, chosen.attacked) | {"validation_accuracy": rates[0]["validation_accuracy"]}
    sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    seconds = {"training_seconds": trained, "judging_seconds": time.process_time() - began - trained}
    part = {**found, "rates": rates, "sizes": sizes, **seconds, **environment()}
    write_part(path, {"key": key, **rounded(part)})
    print(name, pixels, label, seed, rounded(found, 3), rounded(seconds, 3), flush=True)


def compute(seed: int, chosen: argparse.Namespace) -> None:
    """All of one seed."""
    for source in chosen.sources:
        for eps in chosen.eps:
            compute_source(source, eps, seed, chosen)
    for name in chosen.targets:
        for pixels in chosen.pixels:
            modes = MODES if pixels == SHAPE[1] else chosen.coarse_modes
            if "full-network" in modes:
                compute_target("", name, pixels, "scratch", None, seed, chosen)
            for source in chosen.sources:
                if name.partition("-")[0] == source.partition("-")[0]:
                    continue  # CIFAR-100 is no target of itself.
                for mode in modes:
                    for eps in chosen.eps:
                        compute_target(source, name, pixels, mode, eps, seed, chosen)


def arguments() -> argparse.Namespace:
    """The command line; `--tiny` keeps away from the real folders."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", nargs="+", default=["cifar10"], choices=SOURCES)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--eps", nargs="+", type=float, default=list(LADDER))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="of the sources")
    parser.add_argument("--updates", type=int, default=600, help="of full-network training and from scratch")
    parser.add_argument("--probe-updates", type=int, default=3000)
    parser.add_argument("--pixels", nargs="+", type=int, default=[32, 16, 8])
    parser.add_argument("--coarse-modes", nargs="*", default=["linear-probe"], choices=MODES)
    parser.add_argument("--attacked", type=int, default=500)
    parser.add_argument("--limit", type=int, help="at most so many images of every split, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/robust_transfer"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    parser.add_argument("--tiny", action="store_true", help="a minute, in a folder of its own")
    chosen = parser.parse_args()
    if chosen.tiny:
        chosen.out = chosen.out.with_name(chosen.out.name + "_tiny")
        chosen.json = chosen.out / "robust_transfer.json"
        chosen.epochs, chosen.limit, chosen.attacked, chosen.seeds = 1, 600, 20, [0, 1]
        chosen.updates, chosen.probe_updates = 20, 50
    return chosen


def main() -> None:
    """Compute what is missing, then write the JSON from all parts at hand."""
    chosen = arguments()
    for seed in [] if chosen.assemble else chosen.seeds:
        compute(seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out), str(__doc__).splitlines()[0]))


if __name__ == "__main__":
    main()
