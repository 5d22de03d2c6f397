"""Figures of thin networks that learn from wide ones, drawn from the committed JSON.

    python reproductions/narrow_figures.py [--figures mean_field curves] [--from reproductions] [--to docs/figures]

narrow_mean_field.png: distance between thin and wide networks by layer and by depth, with the fitted lines.
narrow_curves.png: accuracy of deep thin networks over depth and over width, by how they were trained.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from plotting import pyplot

HERE = Path(__file__).parent
DISTANCES = {
    "untrained": ("untrained", "#999999", ":"),
    "alone": ("trained alone, on labels", "#D55E00", "--"),
    "imitation": ("layer-wise imitation", "#0072B2", "-"),
    "directions": ("best 16 linear directions (floor)", "#333333", "-."),
}
ARMS = {
    "alone": ("thin, alone", "#666666", "s"),
    "distillation": ("thin, distilled", "#D55E00", "^"),
    "wide-then-narrow": ("wide, then narrow", "#0072B2", "o"),
}
CHANCE = 10.0  # Of ten classes, in percent: a network that has learned nothing.
NAMES = {"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR-10"}


def draw_mean_field(found: dict[str, Any], path: Path) -> None:
    """Left: along the deepest network; right: at the last hidden layer of networks of several depths."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained", sharey=True)
    depths = sorted(map(int, found["depths"]))
    deepest = found["depths"][str(depths[-1])]
    for arm, (label, colour, style) in DISTANCES.items():
        rows = deepest["layers"][arm]
        layers = range(1, len(rows) + 1)
        mean, low, high = _band(rows)
        left.plot(layers, mean, style, color=colour, lw=1.6, label=label)
        left.fill_between(layers, low, high, color=colour, alpha=0.15, lw=0)
        ends = [found["depths"][str(depth)]["layers"][arm][-1] for depth in depths]
        mean, low, high = _band(ends)
        right.plot(depths, mean, style, color=colour, marker="o", ms=4, lw=1.6)
        right.fill_between(depths, low, high, color=colour, alpha=0.15, lw=0)
    _fitted(left, deepest["growth"]["imitation"], 1, depths[-1], "per layer")
    left.set_title(f"along networks of {depths[-1]} hidden layers (mean and sd over seeds)", loc="left")
    left.set_xlabel("hidden layer")
    left.set_ylabel("relative distance from the wide network")
    _fitted(right, found["growth of the last layer over depths"]["imitation"], depths[0], depths[-1], "per layer")
    right.set_title("at the last hidden layer", loc="left")
    right.set_xlabel("hidden layers of both networks")
    right.set_xticks(depths)
    left.set_ylim(0, None)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """Test accuracy over depth at the width of the table, and over width at its depth: medians, and a dot a seed."""
    plt = pyplot()
    places = [(*_place(name), rows) for name, rows in found["networks"].items()]
    name = max({place[0] for place in places}, key=lambda each: sum(place[0] == each for place in places))
    places = [place for place in places if place[0] == name]
    depth = max({p[1] for p in places}, key=lambda each: sum(p[1] == each for p in places))
    width = max({p[2] for p in places}, key=lambda each: sum(p[2] == each for p in places))
    floor = min(v for p in places for arm in ARMS for v in p[3][arm]["test"]["values"] if v > CHANCE) - 2
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for panel, axis, others in ((left, 1, (2, width)), (right, 2, (1, depth))):
        chosen = sorted((p for p in places if p[others[0]] == others[1]), key=lambda p, axis=axis: p[axis])
        for aside, (arm, (label, colour, mark)) in zip((-0.012, 0.0, 0.012), ARMS.items(), strict=True):
            rows = [(p[axis] + aside * chosen[-1][axis], p[3][arm]["test"]["values"]) for p in chosen]
            medians = [statistics.median(values) for _, values in rows]
            shown = label if panel is left else None
            panel.plot([x for x, _ in rows], medians, color=colour, marker=mark, ms=5.5, lw=1.4, label=shown)
            dots = [(x, max(value, floor), value <= CHANCE) for x, values in rows for value in values]
            panel.scatter(*zip(*((x, y) for x, y, lost in dots if not lost), strict=True), s=9, color=colour, alpha=0.6)
            for x, y in ((x, y) for x, y, lost in dots if lost):
                panel.plot(x, y + 0.6, "x", color=colour, ms=6)
                panel.text(x, y + 1.4, "at chance", color=colour, ha="center", fontsize=8)
        wide = [(p[axis], p[3]["alone"]["wide"]["mean"]) for p in chosen]
        panel.plot(
            *zip(*wide, strict=True), ":", color="#333333", lw=1.2, label="wide partner" if panel is left else None
        )
        panel.set_xticks([p[axis] for p in chosen])
    left.set_title(f"{NAMES[name]}, {width} channels", loc="left")
    left.set_xlabel("convolutions")
    left.set_ylim(floor, None)
    left.set_ylabel("test accuracy, %: medians and seeds")
    right.set_title(f"{NAMES[name]}, {depth} convolutions", loc="left")
    right.set_xlabel("channels of the thin network")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path)


def _fitted(panel: Any, fit: dict[str, float], first: int, last: int, unit: str) -> None:
    """The line through a curve, and what it says."""
    ends = (first, last)
    panel.plot(ends, [fit["start"] + fit["slope"] * x for x in ends], color="#56B4E9", lw=1)
    sign = "+" if fit["slope"] >= 0 else "\u2212"
    words = f"line through imitation: {fit['start']:.2f} {sign} {abs(fit['slope']):.4f} {unit}"
    panel.text(0.99, 0.2, words, color="#0072B2", ha="right", va="bottom", transform=panel.transAxes, fontsize=8)


def _place(name: str) -> tuple[str, int, int]:
    data, depth, width = name.split(", ")
    return data, int(depth.split()[1]), int(width.split()[1])


def _band(rows: list[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Means over seeds, and one standard deviation to either side."""
    mean, spread = [row["mean"] for row in rows], [row["sd"] or 0.0 for row in rows]
    pairs = list(zip(mean, spread, strict=True))
    return mean, [m - s for m, s in pairs], [m + s for m, s in pairs]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Draw what is asked for from the JSON at hand."""
    drawn = {
        "mean_field": ("narrow_mean_field.json", draw_mean_field, "narrow_mean_field.png"),
        "curves": ("narrow_table.json", draw_curves, "narrow_curves.png"),
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", nargs="+", default=list(drawn), choices=list(drawn))
    parser.add_argument("--from", dest="source", type=Path, default=HERE)
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs" / "figures")
    chosen = parser.parse_args()
    for name in chosen.figures:
        record, draw, picture = drawn[name]
        draw(json.loads((chosen.source / record).read_text()), chosen.to / picture)


if __name__ == "__main__":
    main()
