"""Outlines of histograms on a root scale."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pluriform.report.row import number

__all__ = ["outline", "root_ticks", "span"]


def outline(
    centres: Sequence[Any], counts: Sequence[Any], name: str, shade: str, dash: str = "solid"
) -> dict[str, Any]:
    """The outline of a histogram; heights are square roots of shares in per cent, so that thin tails are seen.

    Args:
        centres: Of the bins.
        counts: Counts or shares of each.
        name: Of the trace.
        shade: Its colour.
        dash: Of the line.
    """
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


def root_ticks(top: float) -> dict[str, Any]:
    """A few round shares at the place of their root."""
    spread = next(
        (ticks for ticks in ((0, 10, 50, 100), (0, 5, 20, 50), (0, 1, 5, 20)) if ticks[2] <= top**2), (0, 1, 5)
    )
    return {"tickvals": [math.sqrt(tick) for tick in spread], "ticktext": [str(tick) for tick in spread]}


def span(edges: Sequence[float]) -> list[float]:
    """The range of the bins with a little room, a round one for probabilities."""
    if not edges:
        return [0.0, 1.0]
    low, high = edges[0], edges[-1]
    if low >= -0.01 and 0.9 <= high <= 1.01:
        return [-0.02 if low < 0.1 else low, 1.02]
    return [low - 0.02 * (high - low), high + 0.02 * (high - low)]
