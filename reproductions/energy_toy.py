"""What JEM learns in the plane: log p(x) of mixtures and rings against the true density.

    OMP_NUM_THREADS=1 python reproductions/energy_toy.py [--seeds 0 1 2 3 4] [--sets mixture rings] [--figure PNG]

Two sets of 4,000 points with analytic densities: three Gaussians, one a class; three rings, one a class, with Gaussian
noise across them. The network is 2-128-128-3 with SiLU; chains run at temperature 1, where small steps target the
density itself, and one in a hundred starts anew, so that few are young. Plain training of the same network stands
beside: its logits say nothing of p(x).

Stated are Spearman's rank correlation of the learned and the true log p(x), on 4,000 new points of the density and on a
grid over the square that holds them, and the slope of a least-squares line of the learned on the true log p(x) over the
points (1 where the scale is right too). Writes reproductions/energy_toy.json and the figure.

References:
    Grathwohl et al. 2020. Your Classifier is Secretly an Energy Based Model. arXiv:1912.03263.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.energy.joint import Terms
from pluriform.energy.langevin import Langevin
from pluriform.energy.model import EnergyModel
from pluriform.training.recipe import Recipe

POINTS = 4000
SIDE = 60
MEANS = torch.tensor([[0.0, 2.0], [-1.8, -1.0], [1.8, -1.0]])
DEVIATIONS = (0.6, 0.8, 0.4)
RADII, WIDTH = (0.8, 1.8, 2.8), 0.2
STEPS = {"mixture": 0.01, "rings": 0.002}  # A step has to be short against the variance across a ring.


@dataclass(frozen=True)
class Density:
    """Three classes of equal weight.

    Attributes:
        draw: Number of points of each class and a generator to the points, `(3, count, 2)`.
        log_density: Points `(N, 2)` to log p, `(N,)`.
        half: Half the side of the square of the grid.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    log_density: Callable[[Tensor], Tensor]
    half: float


def draw_mixture(count: int, generator: torch.Generator) -> Tensor:
    """Points of three Gaussians."""
    noise = torch.randn(3, count, 2, generator=generator)
    return MEANS[:, None] + torch.tensor(DEVIATIONS)[:, None, None] * noise


def log_mixture(points: Tensor) -> Tensor:
    """Their log-density."""
    terms = []
    for mean, deviation in zip(MEANS, DEVIATIONS, strict=True):
        squared = (points - mean).square().sum(1) / deviation**2
        terms.append(-squared / 2 - math.log(2 * math.pi * deviation**2 * 3))
    return torch.stack(terms).logsumexp(0)


def draw_rings(count: int, generator: torch.Generator) -> Tensor:
    """Points of three rings: a uniform angle, a Gaussian radius."""
    angle = torch.rand(3, count, generator=generator) * 2 * math.pi
    radius = torch.tensor(RADII)[:, None] + WIDTH * torch.randn(3, count, generator=generator)
    return radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


def log_rings(points: Tensor) -> Tensor:
    """Their log-density: that of the radius over the length of the circle (radii below zero are negligible)."""
    radius = points.norm(dim=1).clamp(min=1e-6)
    terms = [-((radius - middle) / WIDTH).square() / 2 for middle in RADII]
    constant = math.log(3 * WIDTH * math.sqrt(2 * math.pi))
    return torch.stack(terms).logsumexp(0) - constant - (2 * math.pi * radius).log()


DENSITIES = {
    "mixture": Density(draw_mixture, log_mixture, 4.0),
    "rings": Density(draw_rings, log_rings, 3.5),
}


def data_of(name: str, seed: int) -> Data:
    """Training, validation and test points of a density."""
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for count in (POINTS, POINTS // 4, POINTS):
        each = -(-count // 3)
        inputs = DENSITIES[name].draw(each, generator).flatten(0, 1)
        splits.append(Split(inputs, torch.arange(3).repeat_interleave(each)))
    return Data(name, "classification", *splits, classes=("a", "b", "c"))


def network(seed: int) -> nn.Module:
    """2-128-128-3 with SiLU."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 3))


def method(name: str, chosen: argparse.Namespace, *, plain: bool) -> pf.JEM:
    """JEM at temperature 1, or the same training without the density."""
    return pf.JEM(
        training=Recipe(epochs=chosen.epochs, batch_size=256, learning_rate=chosen.rate, weight_decay=0.0, ema=0.999),
        terms=Terms(0.0) if plain else Terms(),
        sampler=Langevin.at_temperature(STEPS[name], 1.0, chosen.steps, clamp_inputs=False),
        start="gaussian",
        buffer_size=3000,
        renewed=0.01,
        input_noise=0.0,
    )


def grid(half: float) -> Tensor:
    """Points of an even grid."""
    axis = torch.linspace(-half, half, SIDE)
    return torch.cartesian_prod(axis, axis)


def judge(form: EnergyModel, name: str, points: Tensor) -> dict[str, float]:
    """Rank correlations and slope."""
    density = DENSITIES[name]
    found: dict[str, float] = {}
    for place, where in (("points", points), ("grid", grid(density.half))):
        learned, true = form.predict(where).score.double(), density.log_density(where).double()
        found[f"spearman_{place}"] = float(spearmanr(learned, true).statistic)
        if place == "points":
            moved = true - true.mean()
            found["slope"] = float((moved * learned).sum() / moved.square().sum())
    return found


def study(name: str, seed: int, chosen: argparse.Namespace) -> tuple[dict[str, Any], EnergyModel]:
    """Both trainings of one seed."""
    data, row, forms = data_of(name, seed), {"seed": seed}, {}
    for kind in ("jem", "training"):
        form = method(name, chosen, plain=kind == "training").fit(network(seed), data, seed=seed)
        prediction = form.predict(data.test.inputs)
        correct = (prediction.mean.argmax(1) == data.test.targets).double().mean()
        row[kind] = judge(form, name, data.test.inputs) | {
            "accuracy": 100 * float(correct),
            "seconds": form.cost["training_seconds"],
            "roll_backs": form.cost["roll_backs"],
        }
        forms[kind] = form
    print(name, {kind: {k: round(v, 3) for k, v in row[kind].items()} for kind in forms}, flush=True)
    return row, forms["jem"]


def draw_figure(forms: dict[str, EnergyModel], path: Path) -> None:
    """True and learned log-density of the first seed, normalised on the square; data and new chains beside them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 9})
    figure, axes = plt.subplots(len(forms), 3, figsize=(9, 3.1 * len(forms)), squeeze=False, layout="constrained")
    for row, (name, form) in zip(axes, forms.items(), strict=True):
        density = DENSITIES[name]
        where, half = grid(density.half), density.half
        true, learned = density.log_density(where), form.predict(where).score
        learned = learned + (true.exp().sum().log() - learned.logsumexp(0))  # Normalised on the grid.
        low, high = float(true.max()) - 9, float(true.max())
        titles = ("true log p(x)", "learned log p(x)")
        for panel, values, title in zip(row[:2], (true, learned), titles, strict=True):
            shown = values.view(SIDE, SIDE).T
            image = panel.imshow(
                shown, origin="lower", extent=(-half, half, -half, half), cmap="viridis", vmin=low, vmax=high
            )
            panel.set_title(f"{name}: {title}")
        figure.colorbar(image, ax=list(row[:2]), shrink=0.85, label="log p(x)")
        points = data_of(name, 0).test.inputs[::8]
        chains = form.sample(len(points), seed=1, fresh=True)
        row[2].scatter(*points.T, s=4, color="#999999", label="data")
        row[2].scatter(*chains.T, s=4, color="#D55E00", label="new chains")
        row[2].set(xlim=(-half, half), ylim=(-half, half), aspect="equal", title=f"{name}: data and samples")
    handles, labels = axes[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False, markerscale=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Mean, least and largest over the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind in ("jem", "training"):
        columns = {name: [row[kind][name] for row in rows] for name in rows[0][kind]}
        found[kind] = {name: [sum(v) / len(v), min(v), max(v)] for name, v in columns.items()}
    return found


def main() -> None:
    """Train, judge, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--sets", nargs="+", default=list(DENSITIES), choices=list(DENSITIES))
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/energy_toy.png"))
    chosen = parser.parse_args()
    found, forms = {}, {}
    for name in chosen.sets:
        rows = []
        for seed in chosen.seeds:
            row, form = study(name, seed, chosen)
            rows.append(row)
            forms.setdefault(name, form)
        found[name] = {"mean_least_largest": summary(rows), "seeds": rows}
    record = {
        "what": __doc__.splitlines()[0],
        "settings": {
            "epochs": chosen.epochs,
            "learning_rate": chosen.rate,
            "chain_steps": chosen.steps,
            "step_sizes": STEPS,
        },
        "unit": "step in units of the standard deviation of each coordinate, temperature 1",
        "torch": torch.__version__,
        "sets": found,
    }
    chosen.json.write_text(json.dumps(record, indent=1) + "\n")
    draw_figure(forms, chosen.figure)


if __name__ == "__main__":
    main()
