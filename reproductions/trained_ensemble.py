"""An ensemble of 100 finite networks trained by gradient descent beside the closed form of infinite width.

    pip install -e ".[repro]"
    python reproductions/trained_ensemble.py

The picture that made Neural Tangents known: five noisy samples of a sine, networks of two hidden erf layers, trained by
full-batch gradient descent on squared error. Here the networks are ordinary `nn.Linear` modules in the standard
parameterisation (weights N(0, 1.5^2 / fan-in), biases N(0, 1), one learning rate), and the closed form is that of
the very same module: `kernel_of(module, parameterization="standard")` and `gradient_flow(discrete=True)`, which follows
whole steps. Nothing is fitted. Training ends when the training loss has fallen to half the variance of the noise;
beyond that it falls exponentially, at rates that differ a little from one finite network to the next, and the smallest
losses of wide networks no longer say anything about those of infinite width.

The statistic. Were the networks infinitely wide, the ensemble would be 100 draws of a Gaussian process at the start
that move along the closed form. 2,000 such ensembles are drawn and followed through all recorded times; of each, and of
the trained one, four distances to the closed form are taken at each time: the largest over 50 inputs of
|mean - m| / (s / 10) and of |log(std / s)|, and |mean loss - expected| of the test and of the train loss. Each is
divided by its 99 % quantile at that time, and the largest over all times counts: the share of drawn ensembles that come
out further away is a p-value for the whole course of training. The script fails if one of the four is below 0.001.
At width 128 it does: the training loss at the last steps lies beyond what drawn ensembles show (p < 0.001).

Writes reproductions/trained_ensemble.json and docs/figures/trained_ensemble.png.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pluriform.graph.parameters import call_stacked, stack
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.predict.gradient_flow import gradient_flow, max_learning_rate

WEIGHT_STD, BIAS_STD, NOISE, TRAIN, TEST = 1.5, 1.0, 0.1, 5, 50
TIMES = (0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 160)
DRAWS, LEVEL = 2000, 0.001


class Network(nn.Module):
    """Two hidden layers of erf units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(1, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Regression output, `(batch, 1)`."""
        return self.last(torch.erf(self.second(torch.erf(self.first(x)))))


def drawn(width: int, generator: torch.Generator) -> Network:
    """A network with freshly drawn weights."""
    network = Network(width)
    with torch.no_grad():
        for layer in (network.first, network.second, network.last):
            layer.weight.normal_(0.0, WEIGHT_STD / math.sqrt(layer.in_features), generator=generator)
            layer.bias.normal_(0.0, BIAS_STD, generator=generator)
    return network


def train(width: int, members: int, x: Tensor, y: Tensor, points: Tensor, rate: float, seed: int) -> list[Tensor]:
    """Outputs of all networks at `points`, `(member, point)`, at each of the recorded times."""
    generator = torch.Generator().manual_seed(seed)
    networks = [drawn(width, generator) for _ in range(members)]
    weights, module, outputs = stack(networks), networks[0], []
    for step in range(TIMES[-1] + 1):
        if step in TIMES:
            with torch.no_grad():
                outputs.append(call_stacked(module, weights, points.float())[..., 0].double())
        loss = ((call_stacked(module, weights, x.float()) - y.float()) ** 2).sum() / (2 * y.numel())
        slopes = torch.autograd.grad(loss, list(weights.parameters.values()))
        with torch.no_grad():
            for tensor, slope in zip(weights.parameters.values(), slopes, strict=True):
                tensor.sub_(slope, alpha=rate)
    return outputs


@dataclass(frozen=True)
class Moment:
    """The closed form at one time: mean and covariance at all points, and `A_t`, which moves any start there."""

    mean: Tensor
    covariance: Tensor
    gain: Tensor


def closed_form(module: nn.Module, x: Tensor, y: Tensor, points: Tensor, rate: float) -> tuple[Tensor, list[Moment]]:
    """The NNGP at `points`, and what becomes of it at each of the recorded times."""
    function = kernel_of(module, x, weight_var=WEIGHT_STD**2, bias_var=BIAS_STD**2, parameterization="standard")
    own, cross, rest = function(x), function(points, x), function(points)
    moments = []
    for steps in TIMES:
        flow = gradient_flow(own.nngp, own.ntk, y, time=steps, learning_rate=rate, discrete=True)
        covariance = flow.covariance(cross.ntk, cross.nngp, rest.nngp)
        moments.append(Moment(flow.mean(cross.ntk)[:, 0], covariance, cross.ntk @ flow.gain))
    return rest.nngp, moments


def distances(outputs: Tensor, mean: Tensor, covariance: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """How far ensembles `(..., member, point)` lie from the closed form; training points come last."""
    spread, test = covariance.diagonal().sqrt(), slice(0, TEST)
    losses, expected = loss_of(outputs, targets), expected_loss(mean, covariance, targets)
    scaled = (outputs.mean(-2) - mean)[..., test].abs() / (spread[test] / outputs.shape[-2] ** 0.5)
    return {
        "mean": scaled.amax(-1),
        "std": (outputs.std(-2)[..., test] / spread[test]).log().abs().amax(-1),
        "test loss": (losses["test"].mean(-1) - expected["test"]).abs(),
        "train loss": (losses["train"].mean(-1) - expected["train"]).abs(),
    }


def loss_of(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Half the mean squared error of every network."""
    errors = (outputs - targets) ** 2 / 2
    return {"test": errors[..., :TEST].mean(-1), "train": errors[..., TEST:].mean(-1)}


def expected_loss(mean: Tensor, covariance: Tensor, targets: Tensor) -> dict[str, float]:
    """Expectation of the loss in closed form: half the mean of squared bias plus variance."""
    errors = ((mean - targets) ** 2 + covariance.diagonal()) / 2
    return {"test": float(errors[:TEST].mean()), "train": float(errors[TEST:].mean())}


def drawn_starts(nngp: Tensor, members: int, seed: int) -> Tensor:
    """Ensembles of untrained infinitely wide networks, `(draw, member, point)`."""
    values, vectors = torch.linalg.eigh(nngp)
    root = vectors * values.clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(DRAWS, members, len(nngp), generator=generator, dtype=torch.float64) @ root.T


def compared(found: list[Tensor], nngp: Tensor, moments: list[Moment], targets: Tensor, seed: int) -> list[dict]:
    """At each time losses of both with bands, and distances of the trained and of the drawn ensembles."""
    starts, rows = drawn_starts(nngp, len(found[0]), seed), []
    for steps, outputs, at in zip(TIMES, found, moments, strict=True):
        ensembles = starts + (targets[TEST:] - starts[..., TEST:]) @ at.gain.T
        null, own = (distances(part, at.mean, at.covariance, targets) for part in (ensembles, outputs))
        losses, drawn_losses = loss_of(outputs, targets), loss_of(ensembles[:200], targets)
        expected = expected_loss(at.mean, at.covariance, targets)
        parts = {
            part: {
                "finite": {"mean": float(losses[part].mean()), **band(losses[part])},
                "infinite": {"mean": expected[part], **band(drawn_losses[part].flatten())},
            }
            for part in ("test", "train")
        }
        rows.append({"steps": steps, "losses": parts, "own": own, "null": null})
        print(steps, {name: round(float(own[name] / null[name].quantile(0.99)), 3) for name in own}, flush=True)
    return rows


def course(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Largest distance over all times, in units of its 99 % quantile, and the share of drawn ensembles beyond it."""
    found = {}
    for name in rows[0]["own"]:
        limits = [row["null"][name].quantile(0.99) for row in rows]
        own = max(float(row["own"][name] / limit) for row, limit in zip(rows, limits, strict=True))
        null = torch.stack([row["null"][name] / limit for row, limit in zip(rows, limits, strict=True)]).amax(0)
        found[name] = {"largest": own, "p": float((null >= own).double().mean())}
    for row in rows:
        own, null = row.pop("own"), row.pop("null")
        row["distances"] = {
            name: {"distance": float(own[name]), "quantile_99": float(null[name].quantile(0.99))} for name in own
        }
    return found


def band(losses: Tensor) -> dict[str, float]:
    """Middle 80 % of the networks."""
    return {"low": float(losses.quantile(0.1)), "high": float(losses.quantile(0.9))}


def draw(path: Path, record: dict, outputs: Tensor) -> None:
    """Function values with bands, and losses over time with bands."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    left, right = axes
    finite, infinite = "#0072B2", "#D55E00"
    x = record["inputs"]["test"]
    for member in outputs[:, :TEST]:
        left.plot(x, member, color=finite, alpha=0.08, linewidth=0.6)
    for name, color, style in (("finite", finite, "-"), ("infinite", infinite, "--")):
        mean, std = (torch.tensor(record["functions"][name][part]) for part in ("mean", "std"))
        left.plot(x, mean, color=color, linestyle=style, linewidth=1.8, zorder=3)
        for side in (-2, 2):
            left.plot(x, mean + side * std, color=color, linestyle=style, linewidth=1.0, zorder=3)
    band = torch.tensor(record["functions"]["infinite"]["mean"]), torch.tensor(record["functions"]["infinite"]["std"])
    left.fill_between(x, band[0] - 2 * band[1], band[0] + 2 * band[1], color=infinite, alpha=0.12, linewidth=0)
    left.plot(x, record["targets"]["test"], color="0.25", linestyle=":", linewidth=1.3)
    left.plot(record["inputs"]["train"], record["targets"]["train"], "ko", markersize=5, zorder=4)
    left.set(xlabel="input", ylabel="output", title=f"After {TIMES[-1]} steps: mean and two standard deviations")
    handles = [
        plt.Line2D([], [], color=finite, linewidth=1.8, label=f"{len(outputs)} networks of width {record['width']}"),
        plt.Line2D([], [], color=infinite, linestyle="--", linewidth=1.8, label="closed form, infinite width"),
        plt.Line2D([], [], color="0.25", linestyle=":", label="sine"),
        plt.Line2D([], [], color="k", marker="o", linestyle="", markersize=5, label="training samples"),
    ]
    left.legend(handles=handles, frameon=False, fontsize=8, loc="lower right")
    steps = [row["steps"] for row in record["times"]]
    for part, marker in (("test", "o"), ("train", "s")):
        for name, color, style in (("finite", finite, marker), ("infinite", infinite, "--")):
            mean, low, high = (
                torch.tensor([row["losses"][part][name][fact] for row in record["times"]])
                for fact in ("mean", "low", "high")
            )
            if name == "infinite":
                right.plot(steps, mean, color=color, linestyle=style, linewidth=1.6)
                right.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            else:
                errors = torch.stack([mean - low, high - mean]).clamp_min(0)
                right.errorbar(steps, mean, errors, color=color, marker=marker, markersize=4, linestyle="", capsize=2,
                               linewidth=0.9, markerfacecolor="w" if part == "test" else color)  # fmt: skip
        right.annotate(part, (steps[-1], float(mean[-1])), xytext=(9, 0), textcoords="offset points", va="center")
    right.set_xscale("symlog", linthresh=1)
    right.set_yscale("log")
    right.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    right.set(xlabel="steps of gradient descent", ylabel="loss", title="Mean loss, and the middle 80 % of networks")
    figure.savefig(path, dpi=160)


def main() -> None:
    """Train, compare, write, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--figure", type=Path, default=Path(__file__).parents[1] / "docs/figures/trained_ensemble.png")
    chosen = parser.parse_args()
    started, generator = time.perf_counter(), torch.Generator().manual_seed(chosen.seed)
    fifths = torch.arange(TRAIN, dtype=torch.float64)[:, None]  # One sample in each fifth of the interval.
    x = math.pi * (2 * (fifths + torch.rand(TRAIN, 1, generator=generator, dtype=torch.float64)) / TRAIN - 1)
    y = x.sin() + NOISE * torch.randn(TRAIN, 1, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-math.pi, math.pi, TEST, dtype=torch.float64)[:, None]
    points, targets = torch.cat([grid, x]), torch.cat([grid.sin(), y])[:, 0]
    module = Network(chosen.width)
    function = kernel_of(module, x, weight_var=WEIGHT_STD**2, bias_var=BIAS_STD**2, parameterization="standard")
    rate = 0.2 * max_learning_rate(function(x).ntk, 1)
    outputs = train(chosen.width, chosen.members, x, y, points, rate, chosen.seed)
    nngp, moments = closed_form(module, x, y, points, rate)
    rows = compared(outputs, nngp, moments, targets, chosen.seed)
    overlap, last = course(rows), moments[-1]
    beyond = [name for name, figure in overlap.items() if figure["p"] < LEVEL]
    record = {
        "width": chosen.width,
        "members": chosen.members,
        "parameterization": "standard",
        "learning_rate": rate,
        "share_of_the_largest_learning_rate": 0.2,
        "statistic": "largest distance to the closed form over all times, "
        "beside ensembles drawn from it; see the script",
        "drawn_ensembles": DRAWS,
        "level": LEVEL,
        "overlap": overlap,
        "beyond": beyond,
        "seconds": round(time.perf_counter() - started, 1),
        "inputs": {"test": grid[:, 0].tolist(), "train": x[:, 0].tolist()},
        "targets": {"test": grid[:, 0].sin().tolist(), "train": y[:, 0].tolist()},
        "functions": {
            "finite": {"mean": outputs[-1][:, :TEST].mean(0).tolist(), "std": outputs[-1][:, :TEST].std(0).tolist()},
            "infinite": {"mean": last.mean[:TEST].tolist(), "std": last.covariance.diagonal()[:TEST].sqrt().tolist()},
        },
        "times": rows,
    }
    chosen.out.write_text(json.dumps(record, indent=1) + "\n")
    chosen.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(chosen.figure, record, outputs[-1])
    print(overlap)
    raise SystemExit(f"beyond sampling error: {beyond}" if beyond else 0)


if __name__ == "__main__":
    main()
