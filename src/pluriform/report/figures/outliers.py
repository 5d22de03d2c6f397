"""Distributions of an outlier score inside the data and on each outlier set, one small plot a form."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pluriform.report.digits import format_of, plain
from pluriform.report.figures.section import Choice, Plot, Section, Table, View, axis, colour, layout
from pluriform.report.ranking import score_name
from pluriform.report.row import Row, number
from pluriform.result import Curve

__all__ = ["outliers"]


def outliers(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row has a score histogram."""
    curves = [
        (row, c) for row in rows for c in row.curves("score_histogram") if {"outliers", "score"} <= set(c.condition)
    ]
    if not curves:
        return None
    sets = tuple(dict.fromkeys(str(c.condition["outliers"]) for _, c in curves))
    scores = tuple(dict.fromkeys(str(c.condition["score"]) for _, c in curves))
    views = []
    for name in sets:
        for score in scores:
            chosen = [
                (row, c)
                for row, c in curves
                if (str(c.condition["outliers"]), str(c.condition["score"])) == (name, score)
            ]
            if chosen:
                views.append(View(_plots(chosen, name, score), (name, score_name(score))))
    return Section(
        "outliers",
        "Outliers",
        "Does it notice what it has not seen?",
        "How the score is distributed over the test set (filled) and over images from elsewhere (dashed). The less "
        "the two overlap, the better the form tells them apart; an AUROC of 0.5 is a coin toss, 1 is perfect. "
        "Heights are on a root scale, so that thin tails are seen.",
        tuple(views),
        _table(rows),
        (Choice("Outliers", sets), Choice("Score", tuple(map(score_name, scores)), 1)),
        strokes=(("test set", "filled"), ("outliers", "dash")),
        small=True,
    )


def _plots(chosen: Sequence[tuple[Row, Curve]], name: str, score: str) -> tuple[Plot, ...]:
    return tuple(_plot(row, curve, name, score) for row, curve in chosen)


def _plot(row: Row, curve: Curve, name: str, score: str) -> Plot:
    centres = [number(v) for v in curve.columns.get("centers") or curve.columns.get("center", ())]
    measured = next(
        (
            m
            for m in row.measures("auroc")
            if (str(m.condition.get("outliers")), str(m.condition.get("score"))) == (name, score)
        ),
        None,
    )
    figures = "" if measured is None else f"AUROC {plain('auroc', '', measured.value)}"
    inside = _outline(centres, curve.columns.get("inside", ()), "test set", colour(row))
    inside.update(fill="tozeroy", fillcolor=colour(row, 0.3))
    outside = _outline(centres, curve.columns.get("outside", ()), "outliers", "@ink", "dash")
    top = max([0.0, *inside["y"], *outside["y"]])
    frame = layout(
        axis(score_name(score), nticks=5, range=_span(inside["x"])),
        axis("share, %", range=[0, 1.06 * top or 1], **_root_ticks(top)),
        230,
        10,
    )
    narrow = {"height": 190, "margin": {"l": 40, "r": 6, "t": 6, "b": 44}}
    description = f"Distribution of {score_name(score)} of {row.label} on the test set and on {name}. {figures}."
    return Plot([inside, outside], frame, description, narrow, row.label, row.index, figures)


def _outline(
    centres: Sequence[Any], counts: Sequence[Any], name: str, shade: str, dash: str = "solid"
) -> dict[str, Any]:
    pairs = [(c, number(v) or 0.0) for c, v in zip(centres, counts, strict=False) if c is not None]
    total = sum(height for _, height in pairs) or 1.0
    places = [c for c, _ in pairs]
    edges = [(a + b) / 2 for a, b in pairwise(places)]
    if edges:
        edges = [2 * places[0] - edges[0], *edges, 2 * places[-1] - edges[-1]]
    shares = [100 * height / total for _, height in pairs]
    heights = [math.sqrt(share) for share in shares]  # A rootogram: the tail stays visible beside a tall peak.
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": edges,
        "y": [*heights, *heights[-1:]],
        "line": {"color": shade, "width": 1.5, "dash": dash, "shape": "hv"},
        "customdata": [*shares, *shares[-1:]],
        "hovertemplate": f"{name}: %{{customdata:.1f}} % at %{{x:.3g}}<extra></extra>",
    }


def _root_ticks(top: float) -> dict[str, Any]:
    """A few round shares at the place of their root."""
    spread = next(
        (ticks for ticks in ((0, 10, 50, 100), (0, 5, 20, 50), (0, 1, 5, 20)) if ticks[2] <= top**2), (0, 1, 5)
    )
    return {"tickvals": [math.sqrt(tick) for tick in spread], "ticktext": [str(tick) for tick in spread]}


def _span(edges: Sequence[float]) -> list[float]:
    """The range of the bins with a little room, a round one for probabilities."""
    if not edges:
        return [0.0, 1.0]
    low, high = edges[0], edges[-1]
    if low >= -0.01 and 0.9 <= high <= 1.01:
        return [-0.02 if low < 0.1 else low, 1.02]
    return [low - 0.02 * (high - low), high + 0.02 * (high - low)]


def _table(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        for measured in row.measures("auroc", "outliers", "score"):
            condition = dict(measured.condition)
            form = format_of("auroc", "", [measured.value])
            others = [row.measure(other, **condition) for other in ("aupr", "fpr95")]
            lines.append(
                (
                    row.label,
                    str(condition["outliers"]),
                    score_name(str(condition["score"])),
                    form(measured.value),
                    form.interval(measured.low, measured.high) or "–",
                    *("–" if m is None else plain(m.name, m.unit, m.value) for m in others),
                )
            )
    return Table(("Form", "Outliers", "Score", "AUROC", "95 % interval", "AUPR", "FPR95"), tuple(lines))
