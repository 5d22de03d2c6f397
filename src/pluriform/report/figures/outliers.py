"""Distributions of an outlier score inside the data and on each outlier set, one small plot a form."""

from collections.abc import Sequence

from pluriform.report.digits import format_of, plain
from pluriform.report.figures.histogram import outline, root_ticks, span
from pluriform.report.figures.section import Choice, Plot, Section, Table, View, axis, colour, layout, text
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
    names = {
        score: score_name(score, [row for row, c in curves if str(c.condition["score"]) == score]) for score in scores
    }
    views = []
    for name in sets:
        for score in scores:
            chosen = [
                (row, c)
                for row, c in curves
                if (str(c.condition["outliers"]), str(c.condition["score"])) == (name, score)
            ]
            if chosen:
                views.append(View(_plots(chosen, name, score), (name, names[score])))
    return Section(
        "outliers",
        "Outliers",
        "Does it notice what it has not seen?",
        "How the score is distributed over the test set (filled) and over images from elsewhere (dashed). The less "
        "the two overlap, the better the form tells them apart; an AUROC of 0.5 is a coin toss, 1 is perfect. "
        "Heights are on a root scale, so that thin tails are seen.",
        tuple(views),
        _table(rows),
        (Choice("Outliers", sets), Choice("Score", tuple(names.values()), 1)),
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
    inside = outline(centres, curve.columns.get("inside", ()), "test set", colour(row))
    inside.update(fill="tozeroy", fillcolor=colour(row, 0.3))
    outside = outline(centres, curve.columns.get("outside", ()), "outliers", "@ink", "dash")
    top = max([0.0, *inside["y"], *outside["y"]])
    frame = layout(
        axis(text(score_name(score, [row])), nticks=5, range=span(inside["x"])),
        axis("share, %", range=[0, 1.06 * top or 1], **root_ticks(top)),
        230,
        10,
    )
    narrow = {"height": 190, "margin": {"l": 40, "r": 6, "t": 6, "b": 44}}
    description = f"Distribution of {score_name(score, [row])} of {row.label} on the test set and on {name}. {figures}."
    return Plot([inside, outside], frame, description, narrow, row.label, row.index, figures)


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
                    score_name(str(condition["score"]), [row]),
                    form(measured.value),
                    form.interval(measured.low, measured.high) or "–",
                    *("–" if m is None else plain(m.name, m.unit, m.value) for m in others),
                )
            )
    return Table(("Form", "Outliers", "Score", "AUROC", "95 % interval", "AUPR", "FPR95"), tuple(lines))
