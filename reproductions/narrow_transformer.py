"""A small vision transformer: alone, distilled, and by wide-then-narrow, its heads and MLPs widened inside.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/narrow_transformer.py
        [--seeds 0 1 2] [--arms ...] [--images 3000] [--epochs 24] [--wide-epochs 12]
        [--out runs/narrow_transformer] [--assemble]

FashionMNIST in 16 patches of 7x7; pre-norm blocks of attention and an MLP, the residual stream 32 wide. The thin
network has one head of 8 in each block and MLPs of 16; its wide partner eight times as many of both, drawn anew and
trained once a seed, and the same stream. So units of imitation end where both are equally wide, without linear maps.

3,000 training images, 1,000 others for validation, the official 10,000 test images. Every arm gives the thin network
the same number of passes over the training images (of wide-then-narrow half to units, which count as their share of
the network, a third to the wide network's probabilities, a sixth to labels). `alone-long` trains alone for as many
more passes as the wide network's training costs in multiply-accumulates. The learning rate of each arm is the best of
three on the validation images of a seed of its own; `alone-long` takes that of `alone`. Test images are looked at once.

Every (arm, seed) leaves one part; a later run goes on where this one was stopped. Writes
reproductions/narrow_transformer.json from all parts at hand.

References:
    Zhou et al. 2020, Go Wide, Then Narrow, arXiv:2007.00811. Hinton et al. 2015, arXiv:1503.02531.
    Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, arXiv:2010.11929.
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
from torch import Tensor, nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.evaluation.subject import stratified_index
from pluriform.graph.gather import widen
from pluriform.method import Method
from pluriform.metrics.calibration import ece
from pluriform.metrics.classification import accuracy, nll
from pluriform.narrow.plan import inner_groups
from pluriform.narrow.wide import macs_of, read
from pluriform.narrow.wide_then_narrow import WideThenNarrow
from pluriform.training.recipe import Recipe

FACTOR, DEPTH, WIDTH, HEADS, HEAD_DIM, HIDDEN, PATCH = 8, 6, 32, 1, 8, 16, 7
RATES = (1e-3, 3e-3, 1e-2)
TUNED = 100  # The seed that learning rates are chosen on.
ARMS = ("alone", "alone-long", "distillation", "wide-then-narrow")


class Attention(nn.Module):
    """Heads of a width of their own, their queries, keys and values in one layer."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.joined = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.mixed = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every token to every token."""
        batch, tokens, _ = x.shape
        joined = self.joined(x).reshape(batch, tokens, 3, self.heads, self.head_dim)
        queries, keys, values = joined.permute(2, 0, 3, 1, 4).unbind(0)
        return self.mixed(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, head_dim)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, positions, blocks, the mean token."""

    def __init__(self, data: Data, heads: int = HEADS, hidden: int = HIDDEN, depth: int = DEPTH) -> None:
        super().__init__()
        channels, height, breadth = data.input_shape
        self.patches = nn.Conv2d(channels, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, height // PATCH * (breadth // PATCH), WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, heads, HEAD_DIM, hidden) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, data.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def load(seed: int, images: int) -> Data:
    """Training images by class share."""
    data = pf.load("fashion-mnist", validation=1000, seed=seed)
    return replace(data, train=Split(*data.train.batch(stratified_index(data.train.targets, images, seed))))


def network(data: Data, seed: int, wide: bool = False) -> nn.Module:
    """The thin network, or the class's own of eight times the heads and hidden units."""
    torch.manual_seed(seed)
    factor = FACTOR if wide else 1
    return VisionTransformer(data, factor * HEADS, factor * HIDDEN)


def widened_is_of_the_class(data: Data) -> float:
    """Greatest relative difference of outputs: the thin network, and the wide class that loads what widening makes."""
    thin, stock = network(data, 0).eval(), network(data, 1, wide=True).eval()
    graph, x = read(thin, data), data.validation.inputs[:50]
    made = widen(graph, FACTOR, inner_groups(graph)).root
    stock.load_state_dict(made.state_dict(), strict=True)
    with torch.no_grad():
        known = thin(x)
        return float((stock(x) - known).abs().max() / known.abs().max())


def recipe(epochs: float, rate: float) -> Recipe:
    """AdamW with cosine decay; batches of 64."""
    return Recipe(epochs=max(1, round(epochs)), batch_size=64, learning_rate=rate, weight_decay=1e-4, clip_norm=1.0)


def method(arm: str, rate: float, wide: str, epochs: int, extra: float) -> Method:
    """The method of an arm, within the budget of passes."""
    if arm in ("alone", "alone-long"):
        return pf.Training(**vars(recipe(epochs + (extra if arm == "alone-long" else 0), rate)))
    if arm == "distillation":
        return pf.Distillation(wide=wide, training=recipe(epochs, rate))
    return WideThenNarrow(
        wide=wide,
        imitation=recipe(epochs / 2, rate),
        logits=recipe(epochs / 3, rate),
        training=recipe(epochs / 6, rate / 3),
    )


def wide_partner(seed: int, data: Data, chosen: argparse.Namespace) -> str:
    """Folder of the trained wide network of a seed; trained once."""
    folder = chosen.out / "wide" / f"{seed}-{chosen.wide_epochs}-{chosen.images}"
    wide = network(data, seed + 1000, wide=True)
    pf.Training(**vars(recipe(chosen.wide_epochs, 3e-3))).fit(wide, data, seed=seed, run=folder)
    return str(folder / "form")


def more_passes(data: Data, chosen: argparse.Namespace) -> float:
    """Passes through the thin network that cost as much as training the wide one."""
    sample = data.train.inputs[:1]
    return chosen.wide_epochs * macs_of(network(data, 0, wide=True), sample) / macs_of(network(data, 0), sample)


def fitted(arm: str, seed: int, rate: float, data: Data, chosen: argparse.Namespace) -> Any:
    """One training."""
    wide = wide_partner(seed, data, chosen)
    made = method(arm, rate, wide, chosen.epochs, more_passes(data, chosen))
    return made.fit(network(data, seed), data, seed=seed)


def key_of(arm: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """What a part is of."""
    budget = {"epochs": chosen.epochs, "wide_epochs": chosen.wide_epochs, "images": chosen.images}
    return {"arm": arm, "seed": seed, "network": [FACTOR, DEPTH, WIDTH, HEADS, HEAD_DIM, HIDDEN], **budget}


def best_rate(arm: str, chosen: argparse.Namespace) -> float:
    """The learning rate of an arm: the best of three on the validation images of a seed of its own."""
    arm, found = "alone" if arm == "alone-long" else arm, {}
    for rate in RATES:
        path = chosen.out / "tuning" / f"{arm}-{rate:g}.json"
        key = key_of(arm, TUNED, chosen) | {"rate": rate}
        if not part_is_current(path, key):
            data = load(TUNED, chosen.images)
            mean = fitted(arm, TUNED, rate, data, chosen).predict(data.validation.inputs).mean
            write_part(path, {"key": key, "validation": 100 * accuracy(mean, data.validation.targets)})
            print("tuned", path.read_text().strip(), flush=True)
        found[rate] = json.loads(path.read_text())["validation"]
    return max(found, key=lambda rate: found[rate])


def compute(arm: str, seed: int, chosen: argparse.Namespace) -> None:
    """Fit one arm, judge it on test images, write its part."""
    key, path = key_of(arm, seed, chosen), chosen.out / "parts" / f"{arm}-{seed}.json"
    if part_is_current(path, key):
        return
    rate, data = best_rate(arm, chosen), load(seed, chosen.images)
    form = fitted(arm, seed, rate, data, chosen)
    network(data, seed).load_state_dict(form.module.state_dict(), strict=True)  # The stock class takes the result.
    mean = form.predict(data.test.inputs).mean
    figures = {
        "rate": rate,
        "validation": 100 * accuracy(form.predict(data.validation.inputs).mean, data.validation.targets),
        "test": 100 * accuracy(mean, data.test.targets),
        "nll": nll(mean, data.test.targets),
        "ece": 100 * ece(mean, data.test.targets),
        "parameters": sum(each.numel() for each in form.module.parameters()),
        "macs": macs_of(form.module, data.test.inputs[:1]),
        "cost": form.cost,
        "explained": getattr(form, "facts", {}).get("explained"),
        "plan": getattr(form, "facts", {}).get("plan"),
    }
    if arm == "alone":
        wide = pf.load_form(wide_partner(seed, data, chosen))
        figures["wide"] = 100 * accuracy(wide.predict(data.test.inputs).mean, data.test.targets)
        figures["wide_parameters"] = sum(each.numel() for each in wide.parameters())
        figures["wide_macs"] = macs_of(network(data, 0, wide=True), data.test.inputs[:1])
        figures["widened_less_thin"] = widened_is_of_the_class(data)
    write_part(path, rounded({"key": key, **figures, **environment()}))
    print(arm, seed, {name: figures[name] for name in ("rate", "validation", "test")}, flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    arms: dict[str, dict[int, dict]] = {}
    for part in parts:
        arms.setdefault(part["key"]["arm"], {})[part["key"]["seed"]] = part
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "budget": {name: parts[0]["key"][name] for name in ("epochs", "wide_epochs", "images")} if parts else {},
            "network": "depth 6, stream 32, one head of 8, MLPs of 16; the wide one has 8 heads of 8 and MLPs of 128",
            "spread": "sd over seeds, n - 1; intervals by Student's t; accuracies in percent on the test images",
            "less": "paired by seed",
            "seconds": "of training, on a machine busy with other work: no timings",
        },
        "arms": {arm: row(arms, arm) for arm in ARMS if arm in arms},
        **environment(),
    }


def row(arms: dict[str, dict[int, dict]], arm: str) -> dict[str, Any]:
    """Figures of an arm, and its differences."""
    own = arms[arm]
    values = [own[seed]["test"] for seed in sorted(own)]
    found: dict[str, Any] = {
        "seeds": sorted(own),
        "rate": sorted({part["rate"] for part in own.values()}),
        "test": mean_and_sd(values) | {"interval": interval_of_mean(values)},
        "nll": mean_and_sd(part["nll"] for part in own.values()),
        "ece": mean_and_sd(part["ece"] for part in own.values()),
        "parameters": own[min(own)]["parameters"],
        "macs": own[min(own)]["macs"],
        "seconds": mean_and_sd(part["cost"]["training_seconds"] for part in own.values()),
    }
    for other in ("alone", "alone-long", "distillation"):
        shared = sorted(set(own) & set(arms.get(other, {})))
        if arm != other and shared:
            gaps = [own[seed]["test"] - arms[other][seed]["test"] for seed in shared]
            found[f"less {other}"] = mean_and_sd(gaps) | {"interval": interval_of_mean(gaps)}
    if arm == "alone":
        found["wide"] = mean_and_sd(part["wide"] for part in own.values())
        found |= {name: own[min(own)][name] for name in ("wide_parameters", "wide_macs", "widened_less_thin")}
    if arm == "wide-then-narrow":
        found["explained"] = [own[seed]["explained"] for seed in sorted(own)]
        found["plan"] = own[min(own)]["plan"].splitlines()
    return rounded(found)


def main() -> None:
    """Fit what is missing, then write the JSON from all parts at hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--wide-epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("runs/narrow_transformer"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for arm in chosen.arms:
            compute(arm, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
