"""JEM beside plain training of the same network: accuracy, signed calibration, outliers by three scores, samples.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/energy_table.py
        [--data digits mnist fashion-mnist cifar10] [--methods training jem] [--seeds 0 1 2]
        [--out runs/energy_table] [--assemble]

Both methods train the same network with SiLU (of images three strided convolutions without pooling, of digits the
zoo's MLP) for the same number of updates at the same rate, by the same code: plain training is JEM whose loss has no
chains. JEM has its defaults. The easy sets are whole; of CIFAR-10 5,000 images are taken, on which plain training is
over-confident.

Figures are on the official test images. The temperature is fitted on validation, for p(y|x) alone. Scores that tell
outliers are log p(x) up to its constant, max p(y|x) and the approximate mass -||grad_x log p(x)||, of both methods;
outliers are the positives, and FPR95 is the share of test images flagged when 95 % of the outliers are caught.

Every (data, method, seed) is fitted in a run folder of its own, which resumes where it was killed, and leaves one part.
Writes reproductions/energy_table.json from all parts at hand.

References:
    Grathwohl et al. 2020. Your Classifier is Secretly an Energy Based Model. arXiv:1912.03263.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor, nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.energy.joint import Terms
from pluriform.energy.model import EnergyModel
from pluriform.evaluation.outliers import adapt
from pluriform.evaluation.subject import stratified_index
from pluriform.metrics.calibration import calibration_gap, ece, fit_temperature, with_temperature
from pluriform.metrics.classification import accuracy, brier, nll
from pluriform.metrics.detection import auroc, fpr95
from pluriform.metrics.uncertainty import max_probability
from pluriform.training.recipe import Recipe

BINS = (15, 20)
SAMPLES = 100
OUTLIERS = {
    "digits": ("notmnist", "kmnist", "fashion-mnist"),
    "mnist": ("notmnist", "kmnist", "fashion-mnist"),
    "fashion-mnist": ("notmnist", "kmnist", "mnist"),
    "cifar10": ("cifar100-part",),
}
SIZES = {"cifar10": 5000}
EPOCHS = {"digits": 60, "mnist": 5, "fashion-mnist": 5, "cifar10": 40}
WIDTHS = (16, 32, 64)


def load(name: str, seed: int, tiny: int | None) -> Data:
    """A data set, its training split cut by class share where a size is set; validation 1,000 images, of digits 200."""
    data = pf.load(name, validation=200 if name == "digits" else 1000, seed=seed)
    sizes = {"train": tiny or SIZES.get(name), "validation": tiny, "test": tiny}
    cut = {}
    for part, size in sizes.items():
        split = getattr(data, part)
        if size is not None and size < len(split):
            cut[part] = Split(*split.batch(stratified_index(split.targets, size, seed)))
    return replace(data, **cut)


def network(name: str, data: Data, seed: int) -> nn.Module:
    """Three strided convolutions and a linear layer that sees positions; of digits an MLP."""
    if name == "digits":
        return pf.nets.build("mlp", data, seed=seed)
    torch.manual_seed(seed)
    channels, side = data.input_shape[0], -(-data.input_shape[1] // 8)
    parts: list[nn.Module] = []
    for before, after in pairwise((channels, *WIDTHS)):
        parts += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(side * side * WIDTHS[-1], data.outputs))


def method(data: str, kind: str, chosen: argparse.Namespace) -> pf.JEM:
    """The density trained, or left out."""
    recipe = Recipe(epochs=chosen.epochs or EPOCHS[data], batch_size=64, learning_rate=2e-3, weight_decay=0.0)
    if kind == "training":
        return pf.JEM(training=recipe, terms=Terms(density=0.0), input_noise=0.0, smooth=True, buffer_size=1000)
    return pf.JEM(training=recipe, smooth=True)


def outliers(name: str, data: Data, seed: int) -> dict[str, Tensor]:
    """Other sets in the shape and range of the data, at most as many as there are test images; noise; inverted ones."""
    found = {}
    low, high = data.bounds or (0.0, 1.0)
    for other in OUTLIERS[name]:
        kin = pf.load(other, seed=0)
        parts = (kin.train, kin.validation, kin.test) if len(kin.test) < 1000 else (kin.test,)
        split = Split(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))
        inputs, _ = split.batch(stratified_index(split.targets, len(data.test), seed))
        found[other] = adapt(inputs, data.input_shape, kin.bounds, data.bounds, other).inputs
    shape = (min(len(data.test), 10_000), *data.input_shape)
    found["noise"] = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    found["inverted"] = low + high - data.test.inputs
    return found


def scores(form: EnergyModel, inputs: Tensor) -> dict[str, Tensor]:
    """The three of the paper, higher for inliers."""
    prediction = form.predict(inputs)
    known = {"log_density": prediction.score, "max_probability": max_probability(prediction.mean)}
    return known | form.input_scores(inputs)


def calibration(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """In percent but for NLL and Brier; the gap is confidence less accuracy."""
    found = {"nll": nll(probabilities, labels), "brier": brier(probabilities, labels)}
    found["signed_gap"] = 100 * calibration_gap(probabilities, labels)
    return found | {f"ece_{bins}": 100 * ece(probabilities, labels, bins=bins) for bins in BINS}


def study(form: EnergyModel, name: str, data: Data, seed: int) -> dict[str, Any]:
    """All figures of one form."""
    labels = data.test.targets
    mean, held = form.predict(data.test.inputs).mean, form.predict(data.validation.inputs).mean
    temperature = fit_temperature(held, data.validation.targets)
    inside = scores(form, data.test.inputs)
    found = {}
    for other, inputs in outliers(name, data, seed).items():
        outside = scores(form, inputs)
        found[other] = {
            kind: {"auroc": 100 * auroc(-outside[kind], -own), "fpr95": 100 * fpr95(-outside[kind], -own)}
            for kind, own in inside.items()
        }
    return {
        "accuracy": 100 * accuracy(mean, labels),
        "calibration": calibration(mean, labels),
        "temperature": temperature,
        "calibration_tempered": calibration(with_temperature(mean, temperature), labels),
        "outliers": found,
        "log_density": {
            place: [float(q) for q in part.double().quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))]
            for place, part in (("test", inside["log_density"]), ("samples", drawn_density(form)))
        },
    }


def drawn_density(form: EnergyModel) -> Tensor:
    """Scores of chains of the buffer after one more round."""
    return form.predict(form.sample(SAMPLES, seed=0)).score


def compute(name: str, kind: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one method on one seed, judge it, write its part and, for a density, its samples."""
    made = method(name, kind, chosen)
    key = {"data": name, "name": kind, "seed": seed, "method": made.to_json(), "tiny": chosen.tiny}
    path = chosen.out / "parts" / f"{name}-{kind}-{seed}.json"
    if part_is_current(path, key):
        return
    data = load(name, seed, chosen.tiny)
    settings = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    form = made.fit(
        network(name, data, seed), data, seed=seed, run=chosen.out / "fits" / f"{name}-{kind}-{seed}-{settings}"
    )
    found = study(form, name, data, seed)
    if kind == "jem":
        chosen.out.mkdir(parents=True, exist_ok=True)
        torch.save(form.sample(SAMPLES, seed=0), chosen.out / f"samples-{name}-{seed}.pt")
    write_part(path, rounded({"key": key, "cost": form.cost, "roll_backs": form.events, **found, **environment()}))
    best = {other: max(row[score]["auroc"] for score in row) for other, row in found["outliers"].items()}
    shown = {"accuracy": round(found["accuracy"], 2), "gap": round(found["calibration"]["signed_gap"], 1)}
    print(name, kind, seed, shown, {other: round(v, 1) for other, v in best.items()}, len(form.events), flush=True)


def joined(rows: list[dict]) -> dict:
    """Nested records of numbers as mean and spread."""
    return {
        name: joined([row[name] for row in rows]) if isinstance(value, dict) else mean_and_sd(row[name] for row in rows)
        for name, value in rows[0].items()
    }


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    sets: dict[str, dict] = {}
    for place in sorted({(part["key"]["data"], part["key"]["name"]) for part in parts}):
        own = [part for part in parts if (part["key"]["data"], part["key"]["name"]) == place]
        columns = ("accuracy", "calibration", "temperature", "calibration_tempered", "outliers", "cost")
        sets.setdefault(place[0], {})[place[1]] = {
            "method": own[0]["key"]["method"],
            "seeds": [part["key"]["seed"] for part in own],
            "roll_backs": [len(part["roll_backs"]) for part in own],
            "log_density_5_50_95": [part["log_density"] for part in own],
            **joined([{name: part[name] for name in columns} for part in own]),
        }
    for row in sets.values():
        if {"training", "jem"} <= set(row):
            row["jem_less_training"] = difference(row["jem"], row["training"])
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "spread": "sd over seeds, n - 1; percent where a figure is an accuracy, a gap, ECE, AUROC or FPR95",
            "signed_gap": "mean confidence less accuracy",
            "fpr95": "share of test images flagged when 95 % of the outliers are caught",
            "samples": f"{SAMPLES} chains of the buffer after one more round, none left out",
        },
        "data": sets,
        "machines": sorted({part["machine"] for part in parts}),
        "commit": environment()["commit"],
    }


def difference(ours: dict, plain: dict) -> dict:
    """Accuracy, and for each set of outliers the best score of both."""
    best = {}
    for other in ours["outliers"]:
        values = {
            kind: {score: facts["auroc"]["mean"] for score, facts in form["outliers"][other].items()}
            for kind, form in (("jem", ours), ("training", plain))
        }
        tops = {kind: max(row, key=row.__getitem__) for kind, row in values.items()}
        best[other] = {kind: {"score": top, "auroc": values[kind][top]} for kind, top in tops.items()}
    return {"accuracy": ours["accuracy"]["mean"] - plain["accuracy"]["mean"], "best_auroc": best}


METHODS = ("training", "jem")


def main() -> None:
    """Fit what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", default=["digits"], choices=list(OUTLIERS))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="other than the table's")
    parser.add_argument("--tiny", type=int, help="images a split, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/energy_table"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for data in chosen.data:
            for kind in chosen.methods:
                compute(data, kind, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
