"""Figures of JEM beside plain training, drawn from the committed JSON and, for the samples, from the fits.

    python reproductions/energy_figures.py [--figures outliers samples] [--from reproductions]
        [--samples runs/energy_table] [--to docs/figures]

energy_outliers.png: AUROC of every score against every set of outliers, and the signed gap of calibration.
energy_samples.png: the first 50 of the 100 chains that the table judges, none left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from plotting import pyplot
from torch.nn import functional as F

HERE = Path(__file__).parent
NAMES = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR-10, 5,000 images",
    "cifar100-part": "CIFAR-100 (part)",
    "notmnist": "notMNIST",
    "kmnist": "KMNIST",
    "noise": "noise",
    "inverted": "inverted",
}
SCORES = {"log_density": ("log p(x)", "o"), "max_probability": ("max p(y|x)", "s"), "approximate_mass": ("mass", "^")}
METHODS = {"training": ("plain", "#666666"), "jem": ("JEM", "#D55E00")}
ROWS, COLUMNS = 5, 10


def draw_outliers(found: dict[str, Any], path: Path) -> None:
    """A line for each pair of data and outliers; the best score of each method is filled."""
    plt = pyplot()
    sets = [name for name in NAMES if name in found]
    heights = [len(found[name]["jem"]["outliers"]) for name in sets]
    figure, axes = plt.subplots(
        len(sets),
        2,
        figsize=(9, 1.2 + 0.36 * sum(heights) + 0.5 * len(sets)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": [h + 1 for h in heights], "width_ratios": [3, 1]},
    )
    for row, name in zip(axes, sets, strict=True):
        _scores(row[0], found[name])
        row[0].set_title(f"{NAMES[name]}: AUROC against outliers, %", loc="left")
        _gaps(row[1], found[name])
        row[1].set_title("confidence \u2212 accuracy", loc="left")
    marks = [plt.Line2D([], [], marker=m, color="#333333", ls="", mfc="none", label=n) for n, m in SCORES.values()]
    marks += [plt.Line2D([], [], marker="o", color=colour, ls="", label=name) for name, colour in METHODS.values()]
    figure.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _scores(panel: Any, row: dict[str, Any]) -> None:
    outliers = list(row["jem"]["outliers"])
    for place, other in enumerate(outliers):
        for offset, (method, (_, colour)) in zip((-0.16, 0.16), METHODS.items(), strict=True):
            values = {score: row[method]["outliers"][other][score]["auroc"]["mean"] for score in SCORES}
            best = max(values, key=values.__getitem__)
            for score, (_, mark) in SCORES.items():
                face = colour if score == best else "none"
                panel.plot(values[score], place + offset, mark, color=colour, mfc=face, ms=5)
    panel.axvline(50, color="#cccccc", lw=0.8, zorder=0)
    panel.set(xlim=(-2, 102), ylim=(len(outliers) - 0.5, -0.5))
    panel.set_yticks(range(len(outliers)), [NAMES.get(other, other) for other in outliers])


def _gaps(panel: Any, row: dict[str, Any]) -> None:
    bars, labels = [], []
    for method, (name, colour) in METHODS.items():
        for kind, said in (("calibration", name), ("calibration_tempered", f"{name}, tempered")):
            bars.append((row[method][kind]["signed_gap"]["mean"], colour, 1.0 if kind == "calibration" else 0.45))
            labels.append(said)
    for place, (value, colour, alpha) in enumerate(bars):
        panel.barh(place, value, color=colour, alpha=alpha, height=0.7)
        panel.annotate(
            f"{value:+.1f}".replace("-", "\u2212"),
            (max(value, 0), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    values = [value for value, _, _ in bars]
    low, high = min(0.0, *values), max(0.0, *values)
    panel.set(xlim=(low - 0.05 * (high - low), high + 0.35 * (high - low)), ylim=(3.6, -0.6), xticks=[])
    panel.set_yticks(range(4), labels)
    panel.axvline(0, color="#333333", lw=0.8)
    panel.spines["bottom"].set_visible(False)


def draw_samples(folder: Path, path: Path) -> None:
    """A panel for each data set of the first seed."""
    plt = pyplot()
    sets = {name: folder / f"samples-{name}-0.pt" for name in NAMES}
    sets = {name: torch.load(file, weights_only=True) for name, file in sets.items() if file.exists()}
    figure, axes = plt.subplots(-(-len(sets) // 2), 2, figsize=(9, 2.6 * -(-len(sets) // 2)), layout="constrained")
    for panel, (name, drawn) in zip(axes.flat, sets.items(), strict=False):
        chains = drawn[: ROWS * COLUMNS]
        high = 16.0 if float(chains.max()) > 1.5 else 1.0
        gap = max(1, chains.shape[-1] // 14)
        chains = F.pad((chains / high).clamp(0, 1), (0, gap, 0, gap), value=0.5)
        grid = chains.view(ROWS, COLUMNS, *chains.shape[1:]).permute(0, 3, 1, 4, 2)
        image = grid.reshape(ROWS * chains.shape[2], COLUMNS * chains.shape[3], chains.shape[1])[:-gap, :-gap]
        panel.imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=1)
        panel.set_title(f"{NAMES[name]}: chains of JEM, without selection", loc="left")
    for panel in axes.flat:
        panel.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", nargs="+", default=["outliers", "samples"], choices=["outliers", "samples"])
    parser.add_argument("--from", dest="source", type=Path, default=HERE)
    parser.add_argument("--samples", type=Path, default=Path("runs/energy_table"))
    parser.add_argument("--to", type=Path, default=Path("docs/figures"))
    chosen = parser.parse_args()
    if "outliers" in chosen.figures:
        found = json.loads((chosen.source / "energy_table.json").read_text())["data"]
        draw_outliers(found, chosen.to / "energy_outliers.png")
    if "samples" in chosen.figures:
        draw_samples(chosen.samples, chosen.to / "energy_samples.png")


if __name__ == "__main__":
    main()
