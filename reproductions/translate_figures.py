"""Figures of translation as augmentation and of thin translators, drawn from the committed JSON.

    python reproductions/translate_figures.py [--figures augmentation thin] [--from reproductions] [--to docs/figures]

translate_augmentation.png: test accuracy in the look of the target by what the classifier was trained on.
translate_thin.png: quality against multiply-accumulates, and latency, of thin translators alone and taught.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from plotting import pyplot

HERE = Path(__file__).parent
TRAINED_ON = {
    "source": ("grey digits", "#666666"),
    "shifted": ("moved and cut", "#999999"),
    "recoloured": ("random colours", "#E69F00"),
    "cyclegan": ("translated, CycleGAN", "#009E73"),
    "tsit": ("translated, TSIT", "#0072B2"),
    "tsit-features": ("translated, TSIT with features", "#56B4E9"),
    "ceiling": ("target with labels", "#333333"),
}
LOOKS = {"styles": "coloured and textured digits", "photographs": "digits on photographs"}
TAUGHT = {
    "alone": ("thin, alone", "#666666", "s"),
    "half": ("half of L1 to the wide one's images", "#E69F00", "^"),
    "whole": ("all of L1 to the wide one's images", "#0072B2", "o"),
}
PANELS = {
    "miou": "mIoU of labels read, %",
    "kernel_distance [CIFAR-10]": "kernel distance",
    "perceptual_distance [CIFAR-10]": "perceptual distance",
}
FAMILIES = {"pix2pix": "pix2pix", "spade": "SPADE", "tsit": "TSIT"}


def draw_augmentation(found: dict[str, Any], path: Path) -> None:
    """One panel a look: a line for each arm with the mean, its interval and every seed."""
    plt = pyplot()
    looks = [look for look in LOOKS if look in found]
    figure, panels = plt.subplots(
        1, len(looks), figsize=(0.8 + 3.7 * len(looks), 2.7), layout="constrained", sharey=True, squeeze=False
    )
    for panel, look in zip(panels[0], looks, strict=True):
        arms = [arm for arm in TRAINED_ON if arm in found[look]]
        for place, arm in enumerate(arms):
            row, colour = found[look][arm], TRAINED_ON[arm][1]
            mean, seeds = row["target"]["mean"], list(row["by_seed"].values())
            if row["target"]["interval"]:
                low, high = row["target"]["interval"]
                panel.plot([max(low, 0), min(high, 100)], [place, place], color=colour, lw=1.2, alpha=0.6)
            panel.plot(seeds, [place] * len(seeds), "|", color=colour, ms=8)
            panel.plot(mean, place, "o", color=colour, ms=6)
            panel.annotate(f"{mean:.1f}", (mean, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        panel.set_yticks(range(len(arms)), [TRAINED_ON[arm][0] for arm in arms])
        panel.set_ylim(len(arms) - 0.5, -0.7)
        panel.set_xlim(0, 104)
        panel.set_xlabel("test accuracy in the target, %")
        panel.set_title(LOOKS[look], loc="left")
    _save(figure, path, plt)


def draw_thin(found: dict[str, Any], path: Path) -> None:
    """A row for each family: quality against multiply-accumulates in three panels, then latency."""
    plt = pyplot()
    families = [name for name in FAMILIES if name in found]
    figure, grid = plt.subplots(
        len(families), 4, figsize=(11, 2.6 * len(families) + 0.5), layout="constrained", squeeze=False
    )
    handles: dict[str, Any] = {}
    for row, family in zip(grid, families, strict=True):
        own = found[family]
        for panel, (figure_name, words) in zip(row, PANELS.items(), strict=False):
            handles |= _against_macs(panel, own, figure_name)
            panel.set_title(words, loc="left")
            panel.set_xlabel("million multiply-accumulates")
        handles |= _latencies(row[3], own)
        row[0].set_ylabel(FAMILIES[family])
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path, plt)


def _against_macs(panel: Any, found: dict[str, Any], name: str) -> dict[str, Any]:
    """One figure of all arms; the wide translator with its level, the ceiling of the ruler where there is one."""
    handles = {}
    for arm, (words, colour, mark) in TAUGHT.items():
        rows = [arms[arm] for arms in found["thin"].values() if arm in arms]
        if not rows:
            continue
        macs = [row["cost"]["macs"] / 1e6 for row in rows]
        for place, row in zip(macs, rows, strict=True):
            seeds = [figures[name] for figures in row["by_seed"].values()]
            panel.plot([place] * len(seeds), seeds, mark, color=colour, ms=3, alpha=0.5, lw=0)
        (handles[words],) = panel.plot(
            macs, [row[name]["mean"] for row in rows], mark + "-", color=colour, ms=5, lw=1.4
        )
    wide = found["wide"]
    level = wide[name]["mean"]
    (handles["wide"],) = panel.plot(wide["cost"]["macs"] / 1e6, level, "*", color="#333333", ms=10, lw=0)
    panel.axhline(level, color="#333333", lw=0.8, ls=":")
    if name in found["ceiling"]:
        handles["real photographs"] = panel.axhline(found["ceiling"][name], color="#D55E00", lw=0.8, ls="--")
    panel.set_xscale("log")
    _plain(panel.xaxis)
    return handles


def _latencies(panel: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Latency of one image and of sixteen, by multiply-accumulates; the same for all arms of a width."""
    rows = [next(iter(arms.values())) for arms in found["thin"].values() if arms] + [found["wide"]]
    rows.sort(key=lambda row: row["cost"]["macs"])
    macs = [row["cost"]["macs"] / 1e6 for row in rows]
    handles = {}
    for batch, style in ((1, "-"), (16, "--")):
        words = f"latency, {batch} image{'s' if batch > 1 else ''}"
        values = [row["cost"][f"latency, batch {batch}"] for row in rows]
        (handles[words],) = panel.plot(macs, values, style, color="#333333", marker=".", lw=1.2)
    panel.set_yscale("log")
    _plain(panel.yaxis)
    panel.set_title("latency of a call, ms", loc="left")
    panel.set_xlabel("million multiply-accumulates")
    panel.set_xscale("log")
    _plain(panel.xaxis)
    return handles


def _plain(axis: Any) -> None:
    """Plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _save(figure: Any, path: Path, plt: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Draw what is asked for from the JSON at hand."""
    drawn = {
        "augmentation": ("translate_augmentation.json", draw_augmentation),
        "thin": ("translate_thin.json", draw_thin),
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", nargs="+", default=list(drawn), choices=list(drawn))
    parser.add_argument("--from", dest="source", type=Path, default=HERE)
    parser.add_argument("--to", type=Path, default=HERE.parent / "docs" / "figures")
    chosen = parser.parse_args()
    for name in chosen.figures:
        record, draw = drawn[name]
        draw(json.loads((chosen.source / record).read_text()), chosen.to / f"translate_{name}.png")


if __name__ == "__main__":
    main()
