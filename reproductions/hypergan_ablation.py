"""Ablation of HyperGAN: how far the draws are apart, epoch by epoch, without the discriminator and without the mixer.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/hypergan_ablation.py [--data mnist-5000] [--seeds 0 1 2]
        [--variants full no-discriminator no-mixer] [--epochs 50] [--networks 8] [--assemble]

Target: the MNIST network of 31,594 parameters, or with `--data cifar10` the CIFAR network of 90,506 (for a GPU). The
rate is constant and nothing stops early, so that the curves are those of the game alone. After each epoch 20 fixed
draws are compared on validation: relative deviation of the weight norms (the mean over weight tensors), disagreement,
mutual information, and negative log-likelihood of the ensemble and of its members.

The published curve (CIFAR-10, read off a plot, unit of its axis not stated): full 0.1, 2.8, 3.5, 2.8, 2.1, 1.4 at
epochs 0, 10, 20, 40, 60, 85; without discriminator 0.1, 2.3, 2.8, 1.4, 0.8, 0.6; without mixer about 0.1 throughout.

Every (data, variant, seed) is fitted in a run folder of its own, which resumes where it was killed. Writes
reproductions/hypergan_ablation.json from all parts at hand.

References:
    Ratzlaff, Li 2019. HyperGAN: A Generative Model for Diverse, Performant Neural Networks. arXiv:1901.11058.
"""

import argparse
import hashlib
import json
from pathlib import Path

from hypergan_networks import mednet, mnist_network
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

import pluriform as pf
from pluriform.data.data import Data
from pluriform.ensemble.hypergan.fit import HyperGAN
from pluriform.evaluation.subject import answer
from pluriform.metrics.classification import accuracy, nll
from pluriform.metrics.uncertainty import disagreement
from pluriform.training.recipe import Recipe

VARIANTS = {"full": {}, "no-discriminator": {"diversity": "none"}, "no-mixer": {"mixer": False}}
COLUMNS = (
    "epoch",
    "weight_spread",
    "weight_distance",
    "disagreement",
    "mutual_information",
    "validation_loss",
    "validation_accuracy",
    "member_nll",
    "member_accuracy",
    "code_moments",
    "code_covariance",
    "task_loss",
    "code_loss",
    "discriminator_loss",
    "moment_loss",
)
PUBLISHED = {
    "epoch": [0, 10, 20, 40, 60, 85],
    "full": [0.1, 2.8, 3.5, 2.8, 2.1, 1.4],
    "no-discriminator": [0.1, 2.3, 2.8, 1.4, 0.8, 0.6],
    "no-mixer": [0.1, 0.1, 0.1, 0.15, 0.15, 0.15],
}


def method_of(variant: str, chosen: argparse.Namespace) -> HyperGAN:
    """The variant; everything else is the same."""
    recipe = Recipe(
        epochs=chosen.epochs, batch_size=32, learning_rate=1e-3, weight_decay=1e-4, schedule="constant", warmup=0.0
    )
    return HyperGAN(members=20, networks=chosen.networks, training=recipe, **VARIANTS[variant])


def data_of(name: str, seed: int, tiny: int | None) -> Data:
    """MNIST-5000, or CIFAR-10 with 5,000 images for validation."""
    return pf.load("cifar10", validation=5000, seed=seed) if name == "cifar10" else load_data(name, seed, tiny)


def compute(variant: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one variant on one seed, write its curves."""
    method = method_of(variant, chosen)
    key = {"data": chosen.data, "variant": variant, "seed": seed, "method": method.to_json(), "tiny": chosen.tiny}
    path = chosen.out / "parts" / f"{chosen.data}-{variant}-{seed}.json"
    if part_is_current(path, key):
        return
    data = data_of(chosen.data, seed, chosen.tiny)
    network = (mednet if chosen.data == "cifar10" else mnist_network)(seed)
    settings = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    form = method.fit(network, data, seed=seed, run=chosen.out / "fits" / f"{variant}-{seed}-{settings}")
    test = answer(form, data.test)
    members = test.prediction.members
    final = {
        "accuracy": 100 * accuracy(test.prediction.mean, test.targets),
        "member_accuracy": 100 * sum(accuracy(p, test.targets) for p in members) / len(members),
        "nll": nll(test.prediction.mean, test.targets),
        "disagreement": 100 * float(disagreement(members).mean()),
    }
    curves = {name: form.history[name] for name in COLUMNS if name in form.history}
    write_part(path, rounded({"key": key, "curves": curves, "test": final, "cost": form.cost, **environment()}))
    shown = {name: round(curves[name][-1], 4) for name in ("weight_spread", "disagreement", "validation_loss")}
    print(chosen.data, variant, seed, shown, round(form.cost["training_seconds"]), "s", flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed: every seed's curves, and the test figures at the end."""
    found: dict[str, dict] = {}
    for part in sorted(parts, key=lambda part: (part["key"]["data"], part["key"]["variant"], part["key"]["seed"])):
        key = part["key"]
        own = found.setdefault(key["data"], {}).setdefault(key["variant"], {"method": key["method"], "seeds": []})
        own["seeds"].append({"seed": key["seed"], **part["curves"], "test": part["test"], "cost": part["cost"]})
    for variants in found.values():
        for own in variants.values():
            tests = [row["test"] for row in own["seeds"]]
            own["test"] = {name: mean_and_sd(test[name] for test in tests) for name in tests[0]}
            own["summary"] = summary([row["weight_spread"] for row in own["seeds"]], own["seeds"][0]["epoch"])
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "draws": "20 fixed ones, on validation, after every epoch; test figures after the last epoch",
            "weight_spread": "standard deviation of the L2 norm of a weight tensor over draws, relative to its mean; "
            "mean over the tensors",
            "published": "CIFAR-10, read off a plot whose axis has no unit: to be compared in shape only",
        },
        "published": PUBLISHED,
        "data": found,
        **environment(),
    }


def summary(spreads: list[list[float]], epochs: list[float]) -> dict:
    """Where the mean curve peaks, and what is left of the peak at the end."""
    mean = [sum(row) / len(row) for row in zip(*spreads, strict=True)]
    peak = max(range(len(mean)), key=mean.__getitem__)
    return {"first": mean[0], "peak": mean[peak], "peak_epoch": epochs[peak], "last": mean[-1]}


def main() -> None:
    """Fit what is missing, then write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="mnist-5000", choices=("mnist-5000", "mnist", "cifar10"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--networks", type=int, default=8, help="drawn in a step")
    parser.add_argument("--tiny", type=int, help="images a split, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/hypergan_ablation"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for variant in chosen.variants:
            compute(variant, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
