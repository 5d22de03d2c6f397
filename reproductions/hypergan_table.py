"""Table 2 of HyperGAN: one architecture of 31,594 parameters, draws of a generator beside every serious rival.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/hypergan_table.py --data mnist-5000 --seeds 0 1 2
        [--methods hypergan deep-ensemble ...] [--out runs/hypergan_table] [--outliers 3000] [--assemble]

Every (data, method, seed) is fitted in a run folder of its own, which resumes where it was killed, and leaves one part
as JSON; a part that is there is not computed again unless its settings changed. All parts at hand become
reproductions/hypergan_table.json, after every part and with `--assemble`.

Figures are on the official 10,000 test images. A form is asked once for 100 members (the deep ensemble has 10), and
figures of K members are means over disjoint groups of K of them, at most 10. The temperature is fitted on validation
for every group. The same predictions tell outliers: letters, clothes and Japanese characters from digits, digits from
clothes; outliers are the positives, FPR95 is the share of test images flagged when 95 % of the outliers are caught,
with the other convention beside it.

References:
    Ratzlaff, Li 2019. HyperGAN: A Generative Model for Diverse, Performant Neural Networks. arXiv:1901.11058.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from hypergan_networks import MNIST_PARAMETERS, mnist_network
from records import (
    environment,
    load_data,
    mean_and_sd,
    part_is_current,
    read_parts,
    rounded,
    write_part,
    write_record,
)
from torch import Tensor

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.ensemble.hypergan.fit import HyperGAN
from pluriform.evaluation.outliers import adapt
from pluriform.evaluation.subject import answer, stratified_index
from pluriform.metrics.calibration import ece, fit_temperature, with_temperature
from pluriform.metrics.classification import accuracy, brier, nll
from pluriform.metrics.detection import auroc, fpr95
from pluriform.metrics.diversity import ensemble_gain
from pluriform.metrics.uncertainty import disagreement, entropy, max_probability, mutual_information
from pluriform.training.recipe import Recipe

DRAWS = (1, 5, 10, 30, 100)
GROUPS = 10
BINS = 48
CURVES = (10, 100)
OUTLIERS = {
    "mnist-5000": ("notmnist", "fashion-mnist", "kmnist"),
    "mnist": ("notmnist", "fashion-mnist", "kmnist"),
    "fashion-mnist": ("mnist", "notmnist", "kmnist"),
}
EPOCHS = {"mnist-5000": 20, "mnist": 5, "fashion-mnist": 8}
MNF_PASSES = {"mnist-5000": 5, "mnist": 2, "fashion-mnist": 1}  # A step takes several times as long as an ordinary one.


def recipe(data: str, passes: float = 1.0, **changed) -> Recipe:
    """Training of one network: AdamW at 2e-3, cosine, batches of 64; `passes` times as many epochs as a member has."""
    facts = {"epochs": round(EPOCHS[data] * passes), "batch_size": 64, "learning_rate": 2e-3, "weight_decay": 1e-2}
    return Recipe(**(facts | changed))


def generator_recipe(data: str, epochs: int | None = None) -> Recipe:
    """Training of a generator: eight networks a step, each with a batch of its own, so an epoch is eight passes."""
    facts = {"mnist-5000": (10, 64, 1e-3), "mnist": (8, 128, 2e-4), "fashion-mnist": (8, 128, 2e-4)}
    usual, batch, rate = facts[data]
    epochs = epochs or usual
    return Recipe(epochs=epochs, batch_size=batch, learning_rate=rate, weight_decay=1e-4, patience=epochs)


# Every method may train for about as long as an ensemble of ten; those that gain nothing from it stop before.
METHODS: dict[str, Callable[[str], pf.Method]] = {
    "hypergan": lambda data: HyperGAN(shared_fraction=0.0, training=generator_recipe(data)),
    "hypergan-20-epochs": lambda data: HyperGAN(shared_fraction=0.0, training=generator_recipe(data, 20)),
    "hypergan-svgd": lambda data: HyperGAN(
        diversity="svgd", repulsion=0.1, shared_fraction=0.0, training=generator_recipe(data)
    ),
    "deep-ensemble": lambda data: pf.DeepEnsemble(members=10, training=recipe(data)),
    "mc-dropout": lambda data: pf.MCDropout(rate=0.2, training=recipe(data, 3)),
    "swag": lambda data: pf.SWAG(
        training=recipe(data, 3, optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, clip_norm=1.0)
    ),
    "laplace": lambda data: pf.LastLayerLaplace(training=recipe(data)),
    "mnf": lambda data: pf.MNF(
        training=recipe(data, MNF_PASSES[data], batch_size=100, learning_rate=1e-3, schedule="cosine", warmup=0.0),
        warmup=0.5,
    ),
    "apd": lambda data: pf.APD(training=recipe(data)),
}
PUBLISHED = {
    "mnist": {
        "hypergan": {"1": 98.64, "5": 98.75, "10": 99.22, "100": 99.31},
        "apd": {"100": 98.61}, "mnf": {"100": 99.30}, "mc-dropout": {"100": 98.73}, "deep-ensemble": {"?": 99.14},
    },
    "mnist-5000": {
        "hypergan": {"1": 96.69, "5": 97.24, "10": 97.33, "100": 97.71},
        "apd": {"100": 96.35}, "mnf": {"100": 97.52}, "mc-dropout": {"100": 95.58}, "deep-ensemble": {"?": 97.09},
    },
}  # fmt: skip


@cache
def outliers(name: str, inside: str, count: int) -> Tensor:
    """Images of another set in the shape and range of the digits, evenly of all its classes."""
    other = pf.load(name, seed=0)
    split = other.test
    if name == "notmnist":  # It has no test part of its own: all letters serve.
        parts = (other.train, other.validation, other.test)
        split = Split(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
    inputs, _ = split.batch(stratified_index(split.targets, count, 0))
    return adapt(inputs, (1, 28, 28), other.bounds, (0.0, 1.0), f"{name} beside {inside}").inputs


def groups_of(members: Tensor, draws: int) -> list[Tensor]:
    """Disjoint groups of so many members, at most ten."""
    count = min(GROUPS, len(members) // draws)
    return [members[i * draws : (i + 1) * draws] for i in range(count)]


def judge(members: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor) -> dict[str, float]:
    """Figures of one group of members; `held` are its predictions on validation.

    Args:
        members: Probabilities on the test images, `(member, batch, class)`.
        labels: Their classes.
        held: Probabilities on the validation images.
        held_labels: Their classes.
    """
    mean = members.mean(0)
    temperature = fit_temperature(held.mean(0), held_labels)
    tempered = with_temperature(mean, temperature)
    figures = {
        "accuracy": 100 * accuracy(mean, labels),
        "nll": nll(mean, labels),
        "brier": brier(mean, labels),
        "ece": ece(mean, labels),
        "ece_equal_mass": ece(mean, labels, adaptive=True),
        "temperature": temperature,
        "nll_tempered": nll(tempered, labels),
        "brier_tempered": brier(tempered, labels),
        "ece_tempered": ece(tempered, labels),
        "member_accuracy": 100 * sum(accuracy(p, labels) for p in members) / len(members),
        "gain": float(ensemble_gain(members, labels).mean()),
    }
    if len(members) > 1:
        figures["disagreement"] = 100 * float(disagreement(members).mean())
        figures["mutual_information"] = float(mutual_information(members).mean())
    return figures


def detect(inside: Tensor, outside: Tensor) -> dict[str, dict[str, float]]:
    """AUROC and FPR95 (percent) of outliers against test images, by score."""
    found = {}
    for name, score in scores(inside).items():
        other = scores(outside)[name]
        found[name] = {
            "auroc": 100 * auroc(other, score),
            "fpr95": 100 * fpr95(other, score),
            "fpr95_inside_positive": 100 * fpr95(-score, -other),
        }
    return found


def scores(members: Tensor) -> dict[str, Tensor]:
    """Scores that are higher for outliers."""
    found = {"max_probability": -max_probability(members.mean(0)), "entropy": entropy(members.mean(0))}
    return found | ({"mutual_information": mutual_information(members)} if len(members) > 1 else {})


def entropy_curve(members: Tensor) -> list[float]:
    """Share of the images whose entropy of the mean is at most each edge of the bins of 0..log 10."""
    values = entropy(members.mean(0))
    edges = torch.linspace(0, torch.tensor(10.0).log().item(), BINS + 1, dtype=torch.float64)
    return [float((values <= edge).double().mean()) for edge in edges]


def averaged(rows: Iterable[dict]) -> dict:
    """Mean of records of numbers, nested alike."""
    rows = list(rows)
    return {
        name: averaged(row[name] for row in rows) if isinstance(value, dict) else
        sum(row[name] for row in rows) / len(rows)
        for name, value in rows[0].items()
    }  # fmt: skip


def members_at(form: pf.Predictor, inputs: Tensor) -> Tensor:
    """Probabilities of every member on the CPU, `(member, batch, class)`."""
    parts = [form.predict(part.contiguous()).members.cpu() for part in inputs.split(2048)]
    return torch.cat(parts, 1)


def study(form: pf.Predictor, data: Data, name: str, most: int, count: int, seed: int) -> dict:
    """Everything that the table and the figures need of one form, each image predicted once."""
    started = time.perf_counter()
    asked = form.draw(most, seed=seed + 1) if hasattr(form, "draw") else form
    test, held = (answer(asked, split) for split in (data.test, data.validation))
    inside, held_members = test.prediction.members, held.prediction.members
    others = {other: members_at(asked, outliers(other, name, count)) for other in OUTLIERS[name]}
    seconds = time.perf_counter() - started
    draws = [k for k in DRAWS if k <= len(inside)]
    return {
        "members": len(inside),
        "prediction_seconds": seconds,
        "figures": {
            k: averaged(
                judge(own, test.targets, kept, held.targets)
                for own, kept in zip(groups_of(inside, k), groups_of(held_members, k), strict=True)
            )
            for k in draws
        },
        "outliers": {
            other: {
                k: averaged(
                    detect(own, out)
                    for own, out in zip(groups_of(inside, k)[:3], groups_of(members, k)[:3], strict=True)
                )
                for k in draws
            }
            for other, members in others.items()
        },
        "entropy": {
            str(k): {other: entropy_curve(members[:k]) for other, members in ({"test": inside} | others).items()}
            for k in CURVES
            if k in draws
        },
    }


def stored(form: pf.Predictor) -> int:
    """Numbers that a saved form holds, without the training inputs kept for running statistics."""
    tensors = {t.data_ptr(): t.numel() for name, t in form.state_dict().items() if name != "calibration"}
    return sum(tensors.values())


def shortened(method: pf.Method) -> pf.Method:
    """The method with two epochs, to try the script out."""
    small = {"samples": 20, "burn_in": 20, "iterations": 50} if isinstance(method, pf.APD) else {}
    return replace(method, training=replace(method.training, epochs=2), **small)


def compute(data_name: str, name: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one method on one seed, judge it, write its part."""
    method = METHODS[name](data_name)
    if chosen.tiny:
        method = shortened(method)
    key = {"data": data_name, "name": name, "seed": seed, "method": method.to_json(), "draws": chosen.draws}
    key |= {"outliers": chosen.outliers, "tiny": chosen.tiny}
    path = chosen.out / "parts" / f"{data_name}-{name}-{seed}.json"
    if part_is_current(path, key):
        return
    data = load_data(data_name, seed, chosen.tiny)
    settings = hashlib.sha256(json.dumps([key["method"], chosen.tiny]).encode()).hexdigest()[:8]
    form = method.fit(
        mnist_network(seed), data, seed=seed, run=chosen.out / "fits" / f"{data_name}-{name}-{seed}-{settings}"
    )
    found = study(form, data, data_name, chosen.draws, chosen.outliers, seed)
    cost = {"stored": stored(form), **form.cost}
    history = {column: values for column, values in getattr(form, "history", {}).items() if name.startswith("hypergan")}
    write_part(path, rounded({"key": key, "cost": cost, **found, "history": history, **environment()}))
    figures = found["figures"][max(found["figures"])]
    shown = {fact: round(figures[fact], 4) for fact in ("accuracy", "nll", "ece", "nll_tempered", "member_accuracy")}
    print(data_name, name, seed, shown, round(cost["training_seconds"]), "s", flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed: means and standard deviations over seeds."""
    places = sorted({(part["key"]["data"], part["key"]["name"]) for part in parts})
    sets: dict[str, dict] = {}
    for place in places:
        own = [part for part in parts if (part["key"]["data"], part["key"]["name"]) == place]
        sets.setdefault(place[0], {})[place[1]] = over_seeds(own)
    return {
        "what": __doc__.splitlines()[0],
        "target_parameters": MNIST_PARAMETERS,
        "protocol": {
            "test": "official test images",
            "validation": "1,000 images beside the 5,000 of mnist-5000, 2,000 of the other sets: early stopping, "
            "choice of prior precision, temperature",
            "members": "means over disjoint groups of K of 100 draws (of 10 for the deep ensemble), at most 10 groups",
            "outliers": "positives; means over at most 3 groups; fpr95: share of test images flagged when 95 % of the "
            "outliers are caught; fpr95_inside_positive: share of outliers accepted when 95 % of the test images are",
            "entropy": f"share of images with entropy of the mean at most i log(10) / {BINS}, i = 0..{BINS}",
            "brier": "sum over classes, in 0..2",
            "ece": "15 bins of equal width",
            "spread": "sd over seeds, n - 1; percent where a figure is an accuracy, disagreement, AUROC or FPR95",
        },
        "published": PUBLISHED,
        "data": sets,
        "machines": sorted({part["machine"] for part in parts}),
        **{name: value for name, value in environment().items() if name == "commit"},
    }


def over_seeds(parts: list[dict]) -> dict:
    """One method on one data set."""
    joined = joined_numbers([{name: part[name] for name in ("cost", "figures", "outliers")} for part in parts])
    curves = [part["entropy"] for part in parts]
    return {
        "method": parts[0]["key"]["method"],
        "seeds": [part["key"]["seed"] for part in parts],
        **joined,
        "entropy": {
            k: {other: [sum(c) / len(c) for c in zip(*(own[k][other] for own in curves), strict=True)] for other in row}
            for k, row in curves[0].items()
        },
    }


def joined_numbers(rows: list[dict]) -> dict:
    """Nested records of numbers as mean and spread."""
    return {
        name: joined_numbers([row[name] for row in rows]) if isinstance(value, dict) else
        mean_and_sd(row.get(name) for row in rows)
        for name, value in rows[0].items()
    }  # fmt: skip


def main() -> None:
    """Fit what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", default=["mnist-5000"], choices=list(OUTLIERS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--outliers", type=int, default=3000, help="images of each set of outliers")
    parser.add_argument("--tiny", type=int, help="images a split, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/hypergan_table"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    work = [(d, m, s) for s in chosen.seeds for d in chosen.data for m in chosen.methods]
    for data, method, seed in [] if chosen.assemble else work:
        compute(data, method, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
