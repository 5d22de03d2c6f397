"""The one-dimensional regression of HyperGAN: bands of several forms beside a Gaussian process, and what they cover.

    OMP_NUM_THREADS=1 python reproductions/hypergan_toy.py [--seeds 0 1 2 3 4] [--diversity none latent-gan ...]
        [--epochs 1500] [--without-biases]

20 points of y = x^3 + N(0, 3^2): 18 uniform on [-4, 4] and its two ends. The network is 1-200-1 with ELU and biases,
601 parameters. The published one has none, 400 weights (`--without-biases`): through the origin it hardly follows the
cube in these units, whatever the method. It sees x / 2.31 and y / 24.2, the deviations of a uniform x and of its cube;
everything reported is in units of x and y. Every form gives mean and standard deviation of the function; for new data
the true noise variance 9 is added, for all forms alike, so that no form has an advantage by how it estimates noise from
20 points. The methods whose target is a posterior of the weights (SVGD and GPVI) see y / 4.24 instead, where the noise
variance is 1 / 2 and the squared error thereby the likelihood, and repel with its weight 1 / 20.

The reference is a Gaussian process of scikit-learn with an RBF kernel times a constant, both found by marginal
likelihood, and the true noise variance. Coverage is of the true function, as share of an even grid, and of new data,
in expectation over their noise, on [-4, 4] and on 4 < |x| <= 6.

One part a (form, seed) goes to OUT as it comes; a later run goes on where this one was stopped. Writes
reproductions/hypergan_toy.json from all parts at hand.

References:
    Ratzlaff, Li 2019. HyperGAN: A Generative Model for Diverse, Performant Neural Networks. arXiv:1901.11058.
    Hernandez-Lobato, Adams 2015. Probabilistic Backpropagation for Scalable Learning of Bayesian Neural Networks.
    arXiv:1502.05336 (the data).
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor, nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.ensemble.hypergan.fit import CHOICES, HyperGAN
from pluriform.metrics.regression import covered, normal_quantile
from pluriform.training.recipe import Recipe

NOISE = 3.0
INSIDE, OUTSIDE = 4.0, 6.0
UNITS = (INSIDE / 3**0.5, INSIDE**3 / 7**0.5)  # Deviations of a uniform x and of its cube.
POSTERIORS = (" svgd", " gpvi")
LEVELS = (0.68, 0.95)
DRAWS = 100
GRID = torch.linspace(-OUTSIDE, OUTSIDE, 241, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Band:
    """Mean and standard deviation of the function on the grid, in units of y."""

    mean: Tensor
    std: Tensor


def points(seed: int) -> tuple[Tensor, Tensor]:
    """20 inputs and noisy cubes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(18, generator=generator, dtype=torch.float64) * 2 * INSIDE - INSIDE
    x = torch.cat([torch.tensor([-INSIDE, INSIDE], dtype=torch.float64), x])
    return x, x**3 + NOISE * torch.randn(20, generator=generator, dtype=torch.float64)


def unit_of(name: str) -> float:
    """Of y, in which the network learns: where a posterior is meant, the squared error is its likelihood."""
    return NOISE * 2**0.5 if name.endswith(POSTERIORS) else UNITS[1]


def as_data(x: Tensor, y: Tensor, unit: float = UNITS[1]) -> Data:
    """The points in the network's units, without validation: 20 are too few to hold any back."""
    split = Split((x / UNITS[0]).float()[:, None], (y / unit).float()[:, None])
    return Data("cubic", "regression", split, Split(split.inputs[:0], split.targets[:0]), split)


def network(seed: int, biases: bool) -> nn.Sequential:
    """1-200-1 with ELU: 601 parameters with biases, or 400 weights without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(1, 200, bias=biases), nn.ELU(), nn.Linear(200, 1, bias=biases))
    count = sum(parameter.numel() for parameter in made.parameters())
    if count != (601 if biases else 400):
        raise SystemExit(f"the target has {count} parameters")
    return made


def methods(diversities: list[str], epochs: int) -> dict[str, pf.Method]:
    """Every form but the reference; each step sees all points."""
    recipe = Recipe(epochs=epochs, batch_size=20, learning_rate=1e-2, weight_decay=0.0)
    slow = Recipe(epochs=epochs, batch_size=20, learning_rate=1e-3, weight_decay=1e-4)
    generated = {
        f"hypergan {kind}": HyperGAN(
            members=DRAWS, diversity=kind, networks=32, batches="shared", noise_size=128, code_size=64, hidden=128,
            training=slow,
        )
        for kind in diversities
    }  # fmt: skip
    return generated | {
        "deep ensemble": pf.DeepEnsemble(members=20, training=recipe),
        "infinite width": pf.InfiniteWidth(kernel="nngp", select="marginal-likelihood", precision="float64"),
    }


def band_of(form: pf.Predictor, unit: float = UNITS[1]) -> Band:
    """Members' mean and deviation, or those of the latent function of the infinitely wide form."""
    prediction = form.predict((GRID / UNITS[0]).float()[:, None])
    if prediction.members is not None:
        members = prediction.members[..., 0].double() * unit
        return Band(members.mean(0), members.std(0, correction=0))
    noise = getattr(form, "noise", 0.0) * getattr(form, "scale", 1.0) * getattr(form, "unit", torch.ones(1)) ** 2
    variance = (prediction.variance.double() - noise).clamp_min(0)[:, 0]
    return Band(prediction.mean[:, 0].double() * unit, variance.sqrt() * unit)


def gaussian_process(x: Tensor, y: Tensor) -> Band:
    """The reference: RBF kernel by marginal likelihood, true noise."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF(0.5, (1e-2, 1e2))
    made = GaussianProcessRegressor(kernel, alpha=(NOISE / UNITS[1]) ** 2, n_restarts_optimizer=5, random_state=0)
    with warnings.catch_warnings():  # One of the restarts may end early; the best of all counts.
        warnings.simplefilter("ignore")
        made.fit(x.numpy()[:, None] / UNITS[0], y.numpy() / UNITS[1])
    mean, std = made.predict(GRID.numpy()[:, None] / UNITS[0], return_std=True)
    return Band(torch.from_numpy(np.asarray(mean)) * UNITS[1], torch.from_numpy(np.asarray(std)) * UNITS[1])


def judge(band: Band) -> dict[str, float | bool]:
    """Coverage inside and outside, and whether the band widens away from the data."""
    truth, found = GRID**3, {}
    for region, where in (("inside", GRID.abs() <= INSIDE), ("outside", GRID.abs() > INSIDE)):
        mean, std = band.mean[where], band.std[where]
        for level in LEVELS:
            name = f"{region}_{round(100 * level)}"
            terms = covered(mean[:, None], (std**2)[:, None], truth[where][:, None], level)
            found[f"function_{name}"] = 100 * float(terms.mean())
            found[f"data_{name}"] = 100 * float(expected_coverage(mean, std, truth[where], level).mean())
        found[f"rmse_{region}"] = float((mean - truth[where]).square().mean().sqrt())
        found[f"std_{region}"] = float(std.mean())
    largest = float(band.std[GRID.abs() <= INSIDE].max())
    found |= {"std_at_ends": float(band.std[[0, -1]].min()), "largest_std_inside": largest}
    return found | {"widens": found["std_at_ends"] > largest}


def expected_coverage(mean: Tensor, std: Tensor, truth: Tensor, level: float) -> Tensor:
    """Probability that truth plus noise falls into the central interval of N(mean, std^2 + noise^2)."""
    half = normal_quantile(level) * (std**2 + NOISE**2).sqrt()
    below, above = ((mean + side * half - truth) / NOISE for side in (-1, 1))
    return torch.special.ndtr(above) - torch.special.ndtr(below)


def compute(name: str, seed: int, fit: Callable[[], Band], key: dict, out: Path) -> None:
    """One form on one data seed."""
    path = out / "parts" / f"{name.replace(' ', '-')}-{seed}.json"
    key = {"name": name, "seed": seed, **key}
    if part_is_current(path, key):
        return
    started = time.perf_counter()
    band = fit()
    found = judge(band)
    curves = {"mean": band.mean.tolist(), "std": band.std.tolist()} if seed == 0 else {}
    seconds = time.perf_counter() - started
    write_part(path, rounded({"key": key, "figures": found, "seconds": seconds, **curves, **environment()}))
    shown = {fact: round(found[fact], 1) for fact in ("function_inside_95", "function_outside_95", "rmse_inside")}
    print(name, seed, shown, found["widens"], round(seconds, 1), "s", flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    names = list(dict.fromkeys(part["key"]["name"] for part in parts))
    x, y = points(0)
    forms = {}
    for name in names:
        own = sorted((part for part in parts if part["key"]["name"] == name), key=lambda part: part["key"]["seed"])
        figures = {fact: mean_and_sd(part["figures"][fact] for part in own) for fact in own[0]["figures"]}
        widens = [part["figures"]["widens"] for part in own]
        figures["widens"] = {"seeds": len(widens), "of_them": sum(widens)}
        first = {fact: own[0][fact] for fact in ("mean", "std") if fact in own[0]}
        forms[name] = {"method": own[0]["key"]["method"], "seeds": [part["key"]["seed"] for part in own]}
        forms[name] |= {"seconds": mean_and_sd(part["seconds"] for part in own), "figures": figures} | first
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "data": "20 points of y = x^3 + N(0, 9): 18 uniform on [-4, 4] and the ends; anew for every seed",
            "parameters": parts[0]["key"]["parameters"] if parts else None,
            "units": "x / 2.31 and y / 24.2 for the network, their deviations (SVGD, GPVI: y / 4.24); figures in units "
            "of x and y",
            "coverage": "percent; of the true function by the members' spread; of new data in expectation, with the "
            "true noise variance added; inside: |x| <= 4, outside: 4 < |x| <= 6",
            "widens": "the smaller deviation at |x| = 6 exceeds the largest on [-4, 4]",
            "draws": DRAWS,
        },
        "x": GRID.tolist(),
        "points": {"x": x.tolist(), "y": y.tolist()},
        "forms": forms,
        **environment(),
    }


def main() -> None:
    """Fit what is missing, then write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--diversity",
        nargs="+",
        default=["latent-gan", "none", "function-svgd", "svgd"],
        choices=CHOICES["diversity"],
        help="gpvi takes ten times as long",
    )
    parser.add_argument("--epochs", type=int, default=1500)
    parser.add_argument("--without-biases", action="store_true", help="400 weights, as published")
    parser.add_argument("--out", type=Path, default=Path("runs/hypergan_toy"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    parameters = 400 if chosen.without_biases else 601
    for seed in [] if chosen.assemble else chosen.seeds:
        x, y = points(seed)
        reference = {"method": "scikit-learn, constant times RBF by marginal likelihood", "parameters": parameters}
        compute("gaussian process", seed, lambda x=x, y=y: gaussian_process(x, y), reference, chosen.out)
        for name, method in methods(chosen.diversity, chosen.epochs).items():
            unit = unit_of(name)
            key = {"method": method.to_json(), "parameters": parameters, "unit": unit}

            def fit(
                method: pf.Method = method, x: Tensor = x, y: Tensor = y, seed: int = seed, unit: float = unit
            ) -> Band:
                made = method.fit(network(seed, not chosen.without_biases), as_data(x, y, unit), seed=seed)
                return band_of(made, unit)

            compute(name, seed, fit, key, chosen.out)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()
