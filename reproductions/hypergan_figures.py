"""Figures of the HyperGAN reproductions, drawn from their committed JSON.

    python reproductions/hypergan_figures.py [--figures outliers ablation toy] [--from FOLDER] [--to docs/figures]

hypergan_outliers.png: entropy of test images and of outliers, as cumulative shares, for every method.
hypergan_ablation.png: how far draws are apart through training, without discriminator and without mixer.
hypergan_toy.png: bands of every form on the cubic.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from plotting import pyplot

HERE = Path(__file__).parent
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#8C510A")
NAMES = {
    "hypergan": "HyperGAN",
    "hypergan-svgd": "HyperGAN, SVGD",
    "hypergan-function-svgd": "HyperGAN, function SVGD",
    "hypergan-gpvi": "HyperGAN, GPVI",
    "hypergan-none": "HyperGAN, no diversity",
    "deep-ensemble": "deep ensemble",
    "mc-dropout": "MC dropout",
    "swag": "SWAG",
    "laplace": "last-layer Laplace",
    "mnf": "MNF",
    "apd": "APD",
    "hypergan-20-epochs": "HyperGAN, 20 epochs",
    "mnist": "MNIST",
    "mnist-5000": "MNIST, 5,000 training images",
    "fashion-mnist": "FashionMNIST",
    "notmnist": "notMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "test": "test images",
}
TITLES = {
    "gaussian process": "Gaussian process",
    "hypergan latent-gan": "HyperGAN",
    "hypergan none": "HyperGAN, no diversity",
    "hypergan svgd": "HyperGAN, SVGD",
    "hypergan function-svgd": "HyperGAN, function SVGD",
    "hypergan gpvi": "HyperGAN, GPVI",
}
FORMS = ("gaussian process", "infinite width", "deep ensemble", "hypergan latent-gan", "hypergan none")
LABELS = {"mnist-5000": "MNIST-5000"}
VARIANTS = {"full": "full", "no-discriminator": "without discriminator", "no-mixer": "without mixer"}


def draw_outliers(record: dict, path: Path) -> None:
    """A row a data set, a column each for the test images and every set of outliers."""
    plt = pyplot()
    sets = record["data"]
    panels = {name: ["test", *next(iter(methods.values()))["outliers"]] for name, methods in sets.items()}
    columns = max(map(len, panels.values()))
    size = (2.9 * columns, 2.6 * len(sets) + 0.75)
    figure, grid = plt.subplots(len(sets), columns, figsize=size, layout="constrained", sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    places = {method: place for place, method in enumerate(order({m: 0 for methods in sets.values() for m in methods}))}
    for row, (name, methods) in zip(grid, sets.items(), strict=True):
        for axes in row[len(panels[name]) :]:
            axes.set_visible(False)
        for axes, other in zip(row, panels[name], strict=False):
            for method in order(methods):
                entropies = methods[method]["entropy"]
                members = max(entropies, key=int)
                curve = entropies[members][other]
                x = [i * math.log(10) / (len(curve) - 1) for i in range(len(curve))]
                emphasis = {"linewidth": 2.0, "zorder": 3} if method == "hypergan" else {"linewidth": 1.2}
                place = places[method]
                style = "--" if place >= 4 else "-"
                (line,) = axes.plot(x, curve, style, color=COLOURS[place % len(COLOURS)], **emphasis)
                handles.setdefault(f"{NAMES.get(method, method)}, {members} members", line)
            axes.set_title(title_of(other, methods), loc="left", fontsize=7.5)
            axes.set(xlim=(0, math.log(10)), ylim=(0, 1.02), xticks=[0, 0.5, 1, 1.5, 2])
        floor = min(m["entropy"][max(m["entropy"], key=int)]["test"][1] for m in methods.values())
        row[0].set_ylim(max(0, math.floor(floor * 20) / 20), 1.005)
        row[0].set_ylabel(f"{LABELS.get(name, NAMES[name])}\nshare of images")
    for axes in grid[-1]:
        axes.set_xlabel("entropy of the mean at most (nats)")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, path, plt)


def order(methods: dict) -> list[str]:
    """Methods in the order of the legend."""
    known = list(NAMES)
    return sorted(methods, key=lambda name: (known.index(name) if name in NAMES else len(known), name))


def title_of(other: str, methods: dict) -> str:
    """What the panel shows, and the AUROC of the entropy: ours and the best."""
    if other == "test":
        return "test images (higher is better)\nscale of its own"
    best = {
        name: own["outliers"][other][max(own["outliers"][other], key=int)]["entropy"]["auroc"]["mean"]
        for name, own in methods.items()
    }
    first = max(best, key=lambda name: best[name])
    ours = f"HyperGAN {best['hypergan']:.1f}, " if "hypergan" in best and first != "hypergan" else ""
    return f"{NAMES[other]} (lower is better)\nAUROC: {ours}{NAMES.get(first, first)} {best[first]:.1f}"


def draw_ablation(record: dict, path: Path) -> None:
    """Relative deviation of the weight norms, disagreement, and validation loss against epochs."""
    plt = pyplot()
    sets = record["data"]
    panels = {
        "weight_spread": "relative deviation of weight norms",
        "disagreement": "disagreement of two draws (%)",
        "validation_loss": "validation loss of 20 draws (nats)",
    }
    size = (3.2 * len(panels), 2.7 * len(sets) + 0.45)
    figure, grid = plt.subplots(len(sets), len(panels), figsize=size, layout="constrained", squeeze=False)
    handles: dict[str, Any] = {}
    for row, (name, variants) in zip(grid, sets.items(), strict=True):
        for axes, (column, label) in zip(row, panels.items(), strict=True):
            for colour, (variant, words) in zip(COLOURS, VARIANTS.items(), strict=False):
                if variant not in variants:
                    continue
                seeds = variants[variant]["seeds"]
                factor = 100 if column == "disagreement" else 1
                epochs = seeds[0]["epoch"]
                curves = [[factor * value for value in seed[column]] for seed in seeds]
                mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
                (line,) = axes.plot(epochs, mean, color=colour, linewidth=1.8)
                low, high = ([end(values) for values in zip(*curves, strict=True)] for end in (min, max))
                axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
                handles.setdefault(words, line)
            axes.set(xlabel="epoch", ylabel=label)
            axes.set_yscale("log")
            round_ticks(axes)
        count = len(next(iter(variants.values()))["seeds"])
        seeds = f", mean and range of {count} seeds" if count > 1 else ""
        row[0].set_title(f"{NAMES[name]}{seeds}", loc="left")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    save(figure, path, plt)


def round_ticks(axes: Any) -> None:
    """Whole epochs, and ticks written as numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    low, high = axes.get_ylim()
    decade = (1,) if high > 300 * low else (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(subs=decade if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def draw_toy(record: dict, path: Path) -> None:
    """One panel a form: mean and three deviations of data seed 0, with the coverage over all seeds."""
    plt = pyplot()
    names = sorted(record["forms"], key=lambda name: (FORMS.index(name) if name in FORMS else len(FORMS), name))
    forms = {name: record["forms"][name] for name in names if "mean" in record["forms"][name]}
    columns = min(4, len(forms))
    rows = math.ceil(len(forms) / columns)
    size = (2.6 * columns, 2.6 * rows + 0.5)
    figure, grid = plt.subplots(
        rows, columns, figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    x, truth = record["x"], [value**3 for value in record["x"]]
    reference = forms.get("gaussian process")
    for axes in grid.flat[len(forms) :]:
        axes.set_visible(False)
    for place, (axes, (name, own)) in enumerate(zip(grid.flat, forms.items(), strict=False)):
        colour = COLOURS[1] if name == "gaussian process" else COLOURS[0]
        low, high = ([m + side * 3 * s for m, s in zip(own["mean"], own["std"], strict=True)] for side in (-1, 1))
        band = axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
        (mean,) = axes.plot(x, own["mean"], color=colour, linewidth=1.6)
        if reference is not None and name != "gaussian process":
            for side in (-1, 1):
                edge = [m + side * 3 * s for m, s in zip(reference["mean"], reference["std"], strict=True)]
                (other,) = axes.plot(x, edge, color=COLOURS[1], linewidth=0.9, linestyle="--")
        (cube,) = axes.plot(x, truth, color="0.25", linewidth=1.1, linestyle=":")
        dots = axes.scatter(record["points"]["x"], record["points"]["y"], s=10, color="k", zorder=4)
        figures = own["figures"]
        inside, outside = (figures[f"function_{where}_95"]["mean"] for where in ("inside", "outside"))
        title = TITLES.get(name, name)
        axes.set_title(f"{title}\ncovers {inside:.0f} % inside, {outside:.0f} % outside", loc="left")
        axes.axvspan(-6, -4, color="0.5", alpha=0.08, linewidth=0)
        axes.axvspan(4, 6, color="0.5", alpha=0.08, linewidth=0)
        axes.set(xlim=(-6, 6), ylim=(-240, 240))
        if place % columns == 0:
            axes.set_ylabel("y")
        if place + columns >= len(forms):
            axes.set_xlabel("x")
            axes.xaxis.set_tick_params(labelbottom=True)
    lines = [mean, band, cube, dots]
    words = ["mean", "three standard deviations", "x³", "20 training points"]
    if reference is not None and len(forms) > 1:
        lines, words = [*lines, other], [*words, "the same of the Gaussian process"]
    figure.legend(lines, words, loc="outside lower center", ncols=5, frameon=False)
    count = max(len(own["seeds"]) for own in forms.values())
    figure.suptitle(
        f"Drawn: one data set, three standard deviations. Above: share of x³ within the 95 % band, on [−4, 4] and in "
        f"the grey, mean of {count} data set{'s' if count > 1 else ''}.",
        fontsize=9,
    )
    save(figure, path, plt)


def save(figure: Any, path: Path, plt: Any) -> None:
    """Write the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(path)


DRAWN = {
    "outliers": ("hypergan_table", draw_outliers),
    "ablation": ("hypergan_ablation", draw_ablation),
    "toy": ("hypergan_toy", draw_toy),
}


def main() -> None:
    """Draw what there is a JSON for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", nargs="+", default=list(DRAWN), choices=list(DRAWN))
    parser.add_argument("--from", dest="source", type=Path, default=HERE)
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs" / "figures")
    chosen = parser.parse_args()
    for name in chosen.figures:
        source, draw = DRAWN[name]
        path = chosen.source / f"{source}.json"
        if path.exists():
            draw(json.loads(path.read_text()), chosen.to / f"hypergan_{name}.png")
        else:
            print(f"no {path}")


if __name__ == "__main__":
    main()
