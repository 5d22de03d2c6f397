"""How far a thin network lies from its wide partner, layer after layer, when it imitates it layer by layer.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/narrow_mean_field.py
        [--depths 8 16 24 32] [--seeds 0 1 2] [--out runs/narrow_mean_field] [--assemble]

Plain networks of `depth` hidden layers of 16 units with ReLU (He's initialisation) on 8x8 digits; the wide partner has
64 units and is trained on the labels. Every hidden layer is a unit of imitation: trained in turn on what the layers
before it give, then frozen, for 30 epochs of AdamW with cosine decay; nothing is trained on labels or class
probabilities afterwards. The maps are multiplied into the weights, so the thin network is stock.

The distance at a layer is the root of the summed squared difference between the wide network's activations H and their
best linear prediction U h from the thin network's h, over the root of the summed squares of H less its mean, on test
images; U is fitted by least squares on the training images, for every arm alike. `divergence` is that of the thin
network's class probabilities from the wide network's, in nats. Arms: `imitation`; `alone`, the thin network trained on
labels for as many passes (it has no reason to be near); `untrained`, as drawn; `directions`, what 16 linear directions
can carry of H at best (a floor, no network).

Mean-field theory bounds the gap after imitation by a line in the depth, the gap of separate training by a doubly
exponential. `growth` holds a line and an exponential, fitted by least squares to the means over seeds of each curve;
`growth of the last layer over depths` the same for the distance at the last hidden layer of networks of all depths.

Every (depth, seed) leaves one part; a later run goes on. Writes reproductions/narrow_mean_field.json.

References:
    Zhou et al. 2020, Go Wide, Then Narrow: Efficient Training of Deep Thin Networks, arXiv:2007.00811.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor, nn

import pluriform as pf
from pluriform.data.data import Data
from pluriform.graph.features import features
from pluriform.method import FitContext
from pluriform.metrics.classification import accuracy
from pluriform.narrow.fold import merge
from pluriform.narrow.imitation import Imitation
from pluriform.narrow.losses import softened_divergence
from pluriform.narrow.plan import plan_units
from pluriform.narrow.unit import principal, refitted
from pluriform.narrow.wide import read
from pluriform.training.recipe import Recipe

WIDTH, FACTOR = 16, 4
EPOCHS, RATE = 30, 3e-3
WIDE_EPOCHS, WIDE_RATE = 40, 1e-3
ARMS = ("imitation", "alone", "untrained", "directions")
CPU = torch.device("cpu")


def network(depth: int, width: int, seed: int) -> nn.Module:
    """A plain network, He's initialisation."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        parts += [nn.Linear(width, width), nn.ReLU()]
    made = nn.Sequential(*parts, nn.Linear(width, 10))
    for part in made:
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
    return made


def recipe(epochs: int, rate: float) -> Recipe:
    """AdamW, cosine decay, batches of 64."""
    return Recipe(epochs=epochs, batch_size=64, learning_rate=rate, weight_decay=0.0, clip_norm=1.0)


def trained(net: nn.Module, data: Data, epochs: int, rate: float, seed: int) -> nn.Module:
    """On labels, from the weights that it has."""
    form: Any = pf.Training(**vars(recipe(epochs, rate))).fit(net, data, seed=seed, device="cpu")
    return form.module


def imitated(thin: nn.Module, wide: nn.Module, data: Data, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The thin network behind layer-wise imitation alone, its maps multiplied away; and how exact that was."""
    graph, wide_graph = read(thin, data), read(wide, data)
    plan = plan_units(graph, wide_graph, units=10**6)
    found = Imitation(graph, wide_graph, plan, recipe(EPOCHS, RATE)).run(data, FitContext(seed, None, CPU))
    made = read(thin, data)
    made.root.load_state_dict(found.weights, strict=False)
    merged = merge(made, found.maps, [data.train.inputs[:8]])
    facts = {"units": len(plan.units), "merge": merged.report.agreement.worst, "passes": sum(found.passes)}
    return merged.network, facts


@torch.no_grad()
def activations(net: nn.Module, inputs: Tensor, depth: int) -> list[Tensor]:
    """Of every hidden layer, then the logits."""
    names = [str(2 * k) for k in range(1, depth + 1)]
    found = features(net.eval(), inputs, [*names, str(2 * depth + 1)])
    return [value.double() for value in found.values()]


def relative(predicted: Tensor, wide: Tensor) -> float:
    """Root of summed squares of the difference over that of what the wide activations vary."""
    return float((predicted - wide).square().sum().sqrt() / (wide - wide.mean(0)).square().sum().sqrt())


def distances(net: nn.Module, wide: nn.Module, data: Data, depth: int) -> tuple[list[float], float]:
    """At every hidden layer by the best linear lift; and the divergence of the class probabilities."""
    own, other = ([activations(part, split.inputs, depth) for split in (data.train, data.test)] for part in (net, wide))
    found = [
        relative(own[1][k] @ refitted(own[0][k], other[0][k], 1).T, other[1][k]) for k in range(depth)
    ]  # fmt: skip
    return found, float(softened_divergence(own[1][depth], other[1][depth]))


def directions(wide: nn.Module, data: Data, depth: int) -> list[float]:
    """What the leading directions of the training activations miss of the test activations."""
    train, test = (activations(wide, split.inputs, depth) for split in (data.train, data.test))
    bases = [principal(value, WIDTH, 1) for value in train[:depth]]
    return [relative(value @ basis @ basis.T, value) for value, basis in zip(test, bases, strict=False)]


def compute(depth: int, seed: int, chosen: argparse.Namespace) -> None:
    """All arms of one pair of networks; write the part."""
    key = {"depth": depth, "seed": seed, "epochs": EPOCHS, "rate": RATE, "wide_epochs": WIDE_EPOCHS}
    path = chosen.out / "parts" / f"{depth}-{seed}.json"
    if part_is_current(path, key):
        return
    data = pf.load("digits", seed=seed)
    wide = trained(network(depth, FACTOR * WIDTH, seed + 1000), data, WIDE_EPOCHS, WIDE_RATE, seed)
    thin = network(depth, WIDTH, seed)
    made, facts = imitated(thin, wide, data, seed)
    alone = trained(network(depth, WIDTH, seed), data, round(facts["passes"] / len(data.train)), RATE, seed)
    nets = {"imitation": made, "alone": alone, "untrained": network(depth, WIDTH, seed)}
    told = {name: distances(net, wide, data, depth) for name, net in nets.items()}
    found = {name: curve for name, (curve, _) in told.items()} | {"directions": directions(wide, data, depth)}
    divergence = {name: nats for name, (_, nats) in told.items()}
    hits = {
        name: 100 * accuracy(net.eval()(data.test.inputs).detach().softmax(1), data.test.targets)
        for name, net in (nets | {"wide": wide}).items()
    }
    figures = {"distance": found, "divergence": divergence, "accuracy": hits, **facts}
    write_part(path, rounded({"key": key, **figures, **environment()}))
    print(depth, seed, hits, [round(found["imitation"][k], 3) for k in (0, depth // 2, depth - 1)], flush=True)


def growth(depths: Sequence[int], curve: list[float]) -> dict[str, float]:
    """A line and an exponential through a curve over depths, by least squares, and their R^2."""
    layers = torch.tensor(depths, dtype=torch.float64)
    values = torch.tensor(curve, dtype=torch.float64)
    slope, start = _line(layers, values)
    rate, level = _line(layers, values.log())
    spread = (values - values.mean()).square().sum()

    def share(fit: Tensor) -> float:
        return float(1 - (values - fit).square().sum() / spread)

    return {
        "start": start,
        "slope": slope,
        "r2 of the line": share(start + slope * layers),
        "doubling": math.log(2) / rate,
        "r2 of the exponential": share((level + rate * layers).exp()),
    }


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return float(slope), float(y.mean() - slope * x.mean())


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    depths: dict[int, list[dict]] = {}
    for part in parts:
        depths.setdefault(part["key"]["depth"], []).append(part)
    found = {}
    for depth, rows in sorted(depths.items()):
        curves = {arm: list(zip(*(row["distance"][arm] for row in rows), strict=True)) for arm in ARMS}
        found[str(depth)] = {
            "seeds": sorted(row["key"]["seed"] for row in rows),
            "accuracy": {arm: mean_and_sd(row["accuracy"][arm] for row in rows) for arm in rows[0]["accuracy"]},
            "merge": max(row["merge"] for row in rows),
            "divergence": {arm: mean_and_sd(row["divergence"][arm] for row in rows) for arm in rows[0]["divergence"]},
            "growth": {
                arm: growth(range(1, depth + 1), [sum(values) / len(values) for values in curves[arm]])
                for arm in ("imitation", "alone")
            },
            "layers": {arm: [mean_and_sd(values) for values in curve] for arm, curve in curves.items()},
        }
    ends = {arm: [row["layers"][arm][-1]["mean"] for row in found.values()] for arm in ("imitation", "alone")}
    last = {arm: growth(sorted(depths), curve) for arm, curve in ends.items()}
    protocol = {"width": WIDTH, "factor": FACTOR, "epochs": EPOCHS, "rate": RATE, "wide_epochs": WIDE_EPOCHS}
    protocol["distance"] = "||U h - H|| / ||H - mean H|| on test images, U by least squares on training images"
    return {
        "what": (__doc__ or "").splitlines()[0],
        "data": "digits",
        "protocol": protocol,
        "growth of the last layer over depths": last,
        "depths": found,
        **environment(),
    }


def main() -> None:
    """Fit what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depths", nargs="+", type=int, default=[8, 16, 24, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/narrow_mean_field"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for depth in chosen.depths:
            compute(depth, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
