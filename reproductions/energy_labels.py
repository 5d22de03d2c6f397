"""Learning from 100 labels: JEM with all other images unlabelled, beside training on the labelled ones alone.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/energy_labels.py [--labels 100] [--seeds 0 1 2 3 4]
        [--kinds training jem] [--out runs/energy_labels] [--assemble]

MNIST, 59,000 training images of which 100 keep their labels, ten of each class, drawn by the seed. Both kinds train the
network of energy_table.py by the same code for the same number of updates; without the density the unlabelled images
are not used. JEM has its defaults. Validation (1,000 images) is not used either: neither the length of the training nor
the rate is chosen by it. Stated is accuracy on the official test images. Every (kind, seed) leaves one part; fits
resume. Writes reproductions/energy_labels.json from all parts at hand.

References:
    Zhao et al. 2020. Joint Energy-Based Models for Semi-Supervised Classification. ICML workshop.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from energy_table import network
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.energy.joint import Terms
from pluriform.evaluation.subject import stratified_index
from pluriform.metrics.classification import accuracy, nll
from pluriform.training.recipe import Recipe

KINDS = ("training", "jem")
BATCH = 64


def load(labels: int, seed: int, tiny: int | None) -> Data:
    """MNIST with that many labels; the rest of the training images, or `tiny` of them, without."""
    data = pf.load("mnist", validation=1000, seed=0)
    if tiny is not None:
        data = replace(data, train=Split(*data.train.batch(stratified_index(data.train.targets, tiny, seed))))
    return data.with_labels(labels, seed)


def method(kind: str, data: Data, chosen: argparse.Namespace) -> pf.JEM:
    """The same number of updates for both."""
    updates = chosen.epochs * -(-(len(data.train) + len(data.unlabelled)) // BATCH)
    recipe = Recipe(batch_size=BATCH, learning_rate=chosen.rate, weight_decay=0.0)
    if kind == "training":
        epochs = -(-updates // -(-len(data.train) // BATCH))
        return pf.JEM(
            training=replace(recipe, epochs=epochs),
            terms=Terms(density=0.0),
            smooth=True,
            buffer_size=1000,
            input_noise=0.0,
        )
    return pf.JEM(training=replace(recipe, epochs=chosen.epochs), smooth=True)


def compute(kind: str, seed: int, chosen: argparse.Namespace) -> None:
    """One training, one part."""
    data = load(chosen.labels, seed, chosen.tiny)
    made = method(kind, data, chosen)
    key = {"name": kind, "seed": seed, "labels": chosen.labels, "method": made.to_json(), "tiny": chosen.tiny}
    path = chosen.out / "parts" / f"{kind}-{chosen.labels}-{seed}.json"
    if part_is_current(path, key):
        return
    settings = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    run = chosen.out / "fits" / f"{kind}-{seed}-{settings}"
    form = made.fit(network("mnist", data, seed), data, seed=seed, run=run)
    mean = torch.cat([form.predict(part).mean for part in data.test.inputs.split(1000)])
    found = {"accuracy": 100 * accuracy(mean, data.test.targets), "nll": nll(mean, data.test.targets)}
    write_part(path, rounded({"key": key, "cost": form.cost, "roll_backs": form.events, **found, **environment()}))
    print(kind, seed, rounded(found), round(form.cost["training_seconds"]), "s", flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    found: dict[str, dict] = {}
    for count in sorted({part["key"]["labels"] for part in parts}):
        for kind in KINDS:
            own = [part for part in parts if (part["key"]["name"], part["key"]["labels"]) == (kind, count)]
            if own:
                found.setdefault(f"{count} labels", {})[kind] = {
                    "method": own[0]["key"]["method"],
                    "accuracy": mean_and_sd(part["accuracy"] for part in own),
                    "accuracies": [part["accuracy"] for part in own],
                    "nll": mean_and_sd(part["nll"] for part in own),
                    "seconds": mean_and_sd(part["cost"]["training_seconds"] for part in own),
                    "roll_backs": [len(part["roll_backs"]) for part in own],
                }
    return {
        "what": __doc__.splitlines()[0],
        "protocol": "official test images; both kinds make the same number of updates; sd over seeds, n - 1",
        "data": found,
        **environment(),
    }


def main() -> None:
    """Compute what is missing, then write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=4, help="passes over all images")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--tiny", type=int, help="images in all, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/energy_labels"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for kind in chosen.kinds:
            compute(kind, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
