"""Figures of the transfer of robust sources, drawn from the committed JSON.

    python reproductions/robust_transfer_figure.py [--from reproductions/robust_transfer.json] [--source cifar10]
        [--to docs/figures]

robust_transfer.png: eps of the source against test accuracy, a column for each mode; below, the difference to eps 0,
and what PGD of 20 steps leaves of it.
robust_transfer_pixels.png: the same of targets that were scaled down and up again, a column for each target.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from plotting import pyplot

HERE = Path(__file__).parent
MODES = {"linear-probe": "fixed features", "full-network": "full network"}
TARGETS = {
    "cifar100-part": ("CIFAR-100 (part)", "#0072B2", "o"),
    "sign-digits": ("sign digits", "#D55E00", "s"),
    "notmnist": ("notMNIST", "#009E73", "^"),
    "omniglot-small": ("Omniglot", "#CC79A7", "D"),
    "fashion-mnist": ("FashionMNIST, 1,000 labels", "#E69F00", "v"),
}
SOURCES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "cifar100-part": "CIFAR-100 (part)"}
PIXELS = {"32": ("#0072B2", "o"), "16": ("#E69F00", "s"), "8": ("#D55E00", "^")}
LINEAR = 0.05  # Below it the axis of eps is linear.


def draw_transfer(targets: dict[str, Any], source: str, path: Path) -> None:
    """Accuracy, gain and robust accuracy against eps, a column for each mode, a line for each target."""
    plt = pyplot()
    finest = {name: sizes[max(sizes, key=int)] for name, sizes in targets.items()}
    modes = [mode for mode in MODES if any(mode in row for row in finest.values())]
    size = (4.4 * len(modes), 8.4)
    figure, grid = plt.subplots(
        3, len(modes), figsize=size, layout="constrained", sharex=True, sharey="row", squeeze=False
    )
    handles: dict[str, Any] = {}
    seeds = 0
    for (above, below, lowest), mode in zip(grid.T, modes, strict=True):
        for name, (words, colour, mark) in TARGETS.items():
            row = finest.get(name, {}).get(mode)
            if row is None:
                continue
            seeds = max(seeds, row["ladder"]["0"]["accuracy"]["seeds"])
            handles[words] = _line(above, row["ladder"], colour, mark, gain=False)
            _line(below, row["ladder"], colour, mark, gain=True)
            robust = {float(radius): rung["robust_accuracy"]["mean"] for radius, rung in row["ladder"].items()}
            lowest.plot(list(robust), list(robust.values()), color=colour, marker=mark, ms=3.5, linewidth=1.5)
            eps = row["winner"]
            above.plot(eps, row["ladder"][f"{eps:g}"]["accuracy"]["mean"], mark, color=colour, ms=9, mfc="none")
            scratch = finest[name].get("scratch")
            if mode == "full-network" and scratch:
                above.plot(1.25, scratch["accuracy"]["mean"], marker="_", color=colour, ms=12, mew=2, clip_on=False)
        above.set_title(MODES[mode], loc="left")
        below.axhline(0, color="#333333", lw=0.8, zorder=0)
        lowest.set_xlabel("eps of the source (L2)")
        _eps_axis(lowest, list(next(iter(finest.values()))[mode]["ladder"]))
    grid[0, 0].set_ylabel("test accuracy of the target, %")
    grid[1, 0].set_ylabel("difference to eps 0, points")
    grid[2, 0].set_ylabel("robust accuracy (L2 0.25), %")
    handles["eps chosen on validation"] = plt.Line2D([], [], marker="o", color="#333333", ls="", ms=9, mfc="none")
    handles["from scratch"] = plt.Line2D([], [], marker="_", color="#333333", ls="", ms=12, mew=2)
    many = f"{seeds} seeds; lines are means, bands the range" if seeds > 1 else "one seed"
    title = f"Sources trained on {SOURCES[source]}, {many}"
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, title=title)
    _save(figure, path, plt)


def draw_pixels(targets: dict[str, Any], path: Path) -> None:
    """Accuracy against eps at every resolution: a row for each mode that was scaled down, a column for each target."""
    plt = pyplot()
    names = [name for name in TARGETS if len(targets.get(name, {})) > 1]
    modes = [mode for mode in MODES if any(mode in row for n in names for p, row in targets[n].items() if p != "32")]
    if not names or not modes:
        return
    size = (2.5 * len(names), 2.4 * len(modes) + 0.7)
    figure, grid = plt.subplots(len(modes), len(names), figsize=size, layout="constrained", sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for row, mode in zip(grid, modes, strict=True):
        for panel, name in zip(row, names, strict=True):
            for pixels, (colour, mark) in PIXELS.items():
                found = targets[name].get(pixels, {}).get(mode)
                if found is None:
                    continue
                handles[f"{pixels} pixels"] = _line(panel, found["ladder"], colour, mark, gain=False)
                eps = found["winner"]
                panel.plot(eps, found["ladder"][f"{eps:g}"]["accuracy"]["mean"], mark, color=colour, ms=9, mfc="none")
                _eps_axis(panel, list(found["ladder"]))
            low, high = panel.get_ylim()
            if high - low < 2:  # No drama within a point.
                panel.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
            panel.set_title(TARGETS[name][0], loc="left")
        row[0].set_ylabel(f"test accuracy, %\n{MODES[mode]}")
    for panel in grid[-1]:
        panel.set_xlabel("eps of the source (L2)")
    handles["eps chosen on validation"] = plt.Line2D([], [], marker="o", color="#333333", ls="", ms=9, mfc="none")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path, plt)


def _line(panel: Any, ladder: dict[str, Any], colour: str, mark: str, gain: bool) -> Any:
    """Means over seeds with the range of the seeds as a band."""
    plain = ladder.get("0", {}).get("by_seed", {})
    eps, curves = [], []
    for radius, rung in ladder.items():
        own = rung["by_seed"]
        values = [own[seed] - plain[seed] for seed in own if seed in plain] if gain else list(own.values())
        if values:
            eps.append(float(radius))
            curves.append(values)
    mean = [sum(values) / len(values) for values in curves]
    panel.fill_between(eps, [min(v) for v in curves], [max(v) for v in curves], color=colour, alpha=0.15, linewidth=0)
    (line,) = panel.plot(eps, mean, color=colour, marker=mark, ms=3.5, linewidth=1.5)
    return line


def _eps_axis(panel: Any, ladder: list[str]) -> None:
    from matplotlib.ticker import NullLocator

    panel.set_xscale("symlog", linthresh=LINEAR)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks([float(eps) for eps in ladder], [eps.removeprefix("0") or "0" for eps in ladder])
    panel.set_xlim(-0.015, 1.4)


def _save(figure: Any, path: Path, plt: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(path)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="record", type=Path, default=HERE / "robust_transfer.json")
    parser.add_argument("--source", default="cifar10", choices=list(SOURCES))
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs" / "figures")
    chosen = parser.parse_args()
    targets = json.loads(chosen.record.read_text())["sources"][chosen.source]["targets"]
    draw_transfer(targets, chosen.source, chosen.to / "robust_transfer.png")
    draw_pixels(targets, chosen.to / "robust_transfer_pixels.png")


if __name__ == "__main__":
    main()
