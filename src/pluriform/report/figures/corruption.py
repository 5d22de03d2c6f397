"""Accuracy under corruption, one small plot a corruption, lines by severity."""

from collections.abc import Sequence

from pluriform.report.digits import share
from pluriform.report.figures.section import Plot, Section, Table, View, axis, layout, line
from pluriform.report.row import Row

__all__ = ["corruption"]

_MEAN = "mean of all"


def corruption(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row was measured under corruption."""
    found = {row.index: _accuracies(row) for row in rows}
    shown = [row for row in rows if found[row.index]]
    if not shown:
        return None
    names = list(dict.fromkeys(name for row in shown for name, _ in found[row.index]))
    panels = [_MEAN, *names] if len(names) > 1 else names
    values = [value for row in shown for value in found[row.index].values()]
    floor = max(0.0, 10 * int(10 * min(values)) - 0.0)
    return Section(
        "corruption",
        "Corruptions",
        "How does it cope with corrupted inputs?",
        "Accuracy on test samples that were corrupted more and more; severity 0 is the clean test set. "
        "Flat lines are good.",
        (View(tuple(_plot(panel, shown, found, floor) for panel in panels)),),
        _table(shown, found, names),
        legend=tuple(shown),
        small=True,
    )


def _accuracies(row: Row) -> dict[tuple[str, float], float]:
    measures = row.measures("corrupted_accuracy", "corruption", "severity")
    return {(str(m.condition["corruption"]), float(m.condition["severity"])): m.value for m in measures}


def _by_severity(row: Row, cells: dict[tuple[str, float], float], panel: str) -> dict[float, float]:
    grouped: dict[float, list[float]] = {}
    for (name, severity), value in cells.items():
        if panel in (_MEAN, name):
            grouped.setdefault(severity, []).append(value)
    clean = row.measure("accuracy")
    if clean is not None and grouped:
        grouped.setdefault(0.0, [clean.value])
    return {severity: sum(values) / len(values) for severity, values in sorted(grouped.items())}


def _plot(panel: str, rows: Sequence[Row], found: dict[int, dict[tuple[str, float], float]], floor: float) -> Plot:
    traces = []
    for row in rows:
        points = _by_severity(row, found[row.index], panel)
        values = [100 * value for value in points.values()]
        traces.append(line(row, list(points), values, hover="severity %{x:g}: %{y:.1f} %"))
    frame = layout(axis("severity", dtick=1), axis("accuracy, %", range=[floor - 1, 101], nticks=6), 250, 8)
    narrow = {"height": 200, "margin": {"l": 40, "r": 6, "t": 6, "b": 44}}
    title = panel.replace("_", " ")
    return Plot(traces, frame, f"Accuracy by severity of {title}.", narrow, title[:1].upper() + title[1:])


def _table(rows: Sequence[Row], found: dict[int, dict[tuple[str, float], float]], names: Sequence[str]) -> Table:
    severities = sorted({severity for row in rows for _, severity in found[row.index]})
    lines = tuple(
        (row.label, name.replace("_", " "), *(_cell(found[row.index].get((name, severity))) for severity in severities))
        for row in rows
        for name in names
    )
    return Table(("Form", "Corruption", *(f"severity {severity:g}" for severity in severities)), lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else share(value)
