"""Accuracy (or error) against cost, with the Pareto front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pluriform.report.digits import format_of, plain, tick
from pluriform.report.figures.section import MARKERS, Choice, Plot, Section, Table, View, axis, colour, layout, text
from pluriform.report.row import Row, number
from pluriform.result import Measure

__all__ = ["front", "pareto"]

_COSTS = ("latency", "training_seconds", "parameters", "macs", "peak_memory")
_TITLES = {
    "parameters": "Parameters",
    "macs": "MACs",
    "training_seconds": "Training",
    "peak_memory": "Peak memory",
    "latency": "Latency",
}
_HEIGHT, _WIDE, _NARROW = 440, 900, 350


@dataclass(frozen=True)
class Point:
    """A form in the plane of cost and quality; both positive."""

    row: Row
    cost: Measure
    quality: Measure


def pareto(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no cost can be set against a figure of quality."""
    quality = next((name for name in ("accuracy", "rmse") if any(row.measure(name) for row in rows)), None)
    if quality is None:
        return None
    views = {title: points for title, name, key in _costs(rows) if (points := _points(rows, quality, name, key))}
    if not views:
        return None
    names = tuple(views)
    better = "above and to the left" if quality == "accuracy" else "below and to the left"
    return Section(
        "cost",
        "Cost",
        "What does it cost?",
        f"Each form by what it costs (on a log scale) and how good it is. A form is worth its cost if nothing lies "
        f"{better} of it; the dotted Pareto front joins those. Bars are 95 % intervals.",
        tuple(View((_plot(points, name, quality),), (name,)) for name, points in views.items()),
        _table(rows, quality, views),
        (Choice("Cost", names),),
    )


def front(points: Sequence[tuple[float, float]], *, high: bool) -> list[int]:
    """Positions of the points that no other beats in both cost and quality, by rising cost.

    Args:
        points: Pairs of cost and quality.
        high: Whether more quality is better, else less.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1] if high else points[i][1]))
    kept: list[int] = []
    for i in order:
        value, best = points[i][1], points[kept[-1]][1] if kept else None
        if best is None or (value > best if high else value < best):
            kept.append(i)
    return kept


def _costs(rows: Sequence[Row]) -> list[tuple[str, str, Any]]:
    """Title, measure name and condition of every cost that some row has."""
    found = []
    for name in _COSTS:
        conditions = [dict(m.condition) for row in rows for m in row.measures(name)]
        unique = [c for i, c in enumerate(conditions) if c not in conditions[:i]]
        for condition in sorted(unique, key=lambda c: str([(k, number(v) or 0.0) for k, v in sorted(c.items())])):
            suffix = ", ".join(f"{key} {value}" for key, value in condition.items())
            found.append((_TITLES[name] + (f", {suffix}" if suffix else ""), name, condition))
    return found


def _points(rows: Sequence[Row], quality: str, name: str, condition: dict[str, Any]) -> list[Point]:
    pairs = [(row, row.measure(name, **condition), row.measure(quality)) for row in rows]
    return [Point(row, cost, good) for row, cost, good in pairs if cost and good and cost.value > 0]


def _plot(points: Sequence[Point], title: str, quality: str) -> Plot:
    factor = 100 if quality == "accuracy" else 1
    places = [(p.cost.value, factor * p.quality.value) for p in points]
    kept = [places[i] for i in front(places, high=quality == "accuracy")]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in kept],
        "y": [y for _, y in kept],
        "line": {"color": "@axis", "width": 2, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
    x_range, y_range = _ranges(points, places, factor)
    unit = points[0].cost.unit
    heading = f"{title}, {unit}" if unit not in ("", "parameters") else title
    heading = heading.replace("MACs, MAC", "MACs")
    x = axis(heading, type="log", range=x_range, **_ticks(x_range, 3.0))
    y = axis("accuracy, %" if quality == "accuracy" else "RMSE", range=y_range, nticks=6)
    wide = _labels(points, places, x_range, y_range, (_WIDE - 80, _HEIGHT - 60))
    narrow = _labels(points, places, x_range, y_range, (_NARROW - 60, 300))
    described = "; ".join(f"{p.row.label} {_said(p.quality)} at {_said(p.cost)}" for p in points)
    return Plot(
        [line, *(_point(p, place, factor) for p, place in zip(points, places, strict=True))],
        layout(x, y, _HEIGHT, annotations=wide),
        f"Scatter plot of quality against {title}: {described}.",
        {
            "height": 360,
            "margin": {"l": 48, "r": 10, "t": 10, "b": 48},
            "annotations": narrow,
            "xaxis": x | _ticks(x_range, 1.3),
        },
    )


def _ticks(span: Sequence[float], few: float) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 of each decade, at 1 only over more than `few` decades, at more over less than one."""
    steps = (1,) if span[1] - span[0] > few else (1, 2, 5) if span[1] - span[0] > 0.9 else (1, 1.5, 2, 3, 4, 5, 7)
    decades = range(math.floor(span[0]), math.ceil(span[1]) + 1)
    values = [step * 10.0**decade for decade in decades for step in steps]
    inside = [value for value in values if span[0] <= math.log10(value) <= span[1]]
    if len(inside) < 3 and span[1] - span[0] <= 0.9:
        low, high = 10.0 ** span[0], 10.0 ** span[1]
        unit = 10.0 ** math.floor(math.log10(high - low))
        step = next(unit * part for part in (0.2, 0.5, 1, 2) if (high - low) / (unit * part) < 7)
        inside = [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {"tickvals": inside, "ticktext": [tick(value) for value in inside]}


def _point(point: Point, place: tuple[float, float], factor: int) -> dict[str, Any]:
    quality = point.quality
    shown = f"{_said(quality)}<br>{_said(point.cost)}"
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [place[0]],
        "y": [place[1]],
        "marker": {"color": colour(point.row), "symbol": MARKERS[point.row.index % len(MARKERS)], "size": 13},
        "hovertemplate": f"<b>{text(point.row.label)}</b><br>{shown}<extra></extra>",
    }
    low, high = number(quality.low), number(quality.high)
    if low is not None and high is not None:
        bars = {"array": [max(0.0, factor * high - place[1])], "arrayminus": [max(0.0, place[1] - factor * low)]}
        style = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour(point.row)}
        trace["error_y"] = style | bars
    return trace


def _said(measure: Measure) -> str:
    return plain(measure.name, measure.unit, measure.value)


def _ranges(
    points: Sequence[Point], places: Sequence[tuple[float, float]], factor: int
) -> tuple[list[float], list[float]]:
    logs = [math.log10(x) for x, _ in places]
    ends = [factor * v for p in points for v in (number(p.quality.low), number(p.quality.high)) if v is not None]
    heights = [y for _, y in places] + ends
    wide = max(max(logs) - min(logs), 0.5)
    tall = max(max(heights) - min(heights), 0.02 * max(map(abs, heights)), 1e-6)
    top = max(heights) + 0.12 * tall
    return (
        [min(logs) - 0.12 * wide, max(logs) + 0.22 * wide],
        [min(heights) - 0.12 * tall, min(top, 100.4) if factor == 100 else top],
    )


def _labels(
    points: Sequence[Point],
    places: Sequence[tuple[float, float]],
    x_range: Sequence[float],
    y_range: Sequence[float],
    size: tuple[int, int],
) -> list[dict[str, Any]]:
    """A name beside each point, above or below the front, at the first place where it covers no other name or point."""
    centres = [
        (
            size[0] * (math.log10(x) - x_range[0]) / (x_range[1] - x_range[0]),
            size[1] * (y - y_range[0]) / (y_range[1] - y_range[0]),
        )
        for x, y in places
    ]
    taken = [(cx - 8, cy - 8, cx + 8, cy + 8) for cx, cy in centres]
    scale = size[1] / (y_range[1] - y_range[0])
    for point, (cx, cy), (_, y) in zip(points, centres, places, strict=True):
        low, high = number(point.quality.low), number(point.quality.high)
        if low is not None and high is not None:
            factor = y / point.quality.value if point.quality.value else 1.0
            taken.append((cx - 1, cy + scale * (factor * low - y), cx + 1, cy + scale * (factor * high - y)))
    labels = []
    for point, (cx, cy), place in zip(points, centres, places, strict=True):
        name = text(point.row.label, 28)
        length = 7.0 * len(point.row.label[:28])
        options = [
            (anchor, dx, dy, (min(cx + dx, end), cy + dy - 8, max(cx + dx, end), cy + dy + 8))
            for dy in (12, -12, 26, -26)
            for anchor, dx, end in (("left", 9, cx + 9 + length), ("right", -9, cx - 9 - length))
        ]
        free = [o for o in options if o[3][0] > 0 and o[3][2] < size[0] and not any(_cross(o[3], box) for box in taken)]
        anchor, dx, dy, box = (free or options)[0]
        taken.append(box)
        labels.append(
            {
                "x": math.log10(place[0]),
                "y": place[1],
                "xanchor": anchor,
                "yanchor": "middle",
                "xshift": dx,
                "yshift": dy,
                "text": name,
                "showarrow": False,
                "font": {"color": colour(point.row), "size": 13},
            }
        )
    return labels


def _cross(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _table(rows: Sequence[Row], quality: str, views: dict[str, list[Point]]) -> Table:
    lines = []
    for row in rows:
        good = row.measure(quality)
        mine = [next((p.cost for p in points if p.row.index == row.index), None) for points in views.values()]
        if good is not None:
            form = format_of(quality, good.unit, [good.value])
            cells = ["–" if cost is None else plain(cost.name, cost.unit, cost.value) for cost in mine]
            lines.append((row.label, form(good.value), *cells))
    return Table(("Form", "Accuracy, %" if quality == "accuracy" else "RMSE", *views), tuple(lines))
