"""Every loss of a game of generator and discriminator over its updates."""

from collections.abc import Sequence
from typing import Any

from pluriform.report.digits import significant
from pluriform.report.figures.section import Plot, Section, Table, View, axis, colour, layout, text
from pluriform.report.row import Row, number

__all__ = ["losses"]

_ORDER = ("generator", "discriminator", "told_apart", "adversarial")
_NOTES = {
    "generator": "sum of all its parts",
    "discriminator": "on real and on made images",
    "told_apart": "patches told right; 50 % is chance",
    "adversarial": "against the discriminator",
    "feature_matching": "features of the discriminator",
    "perceptual": "features of the extractor",
    "l1": "to the truth",
    "structure": "edges of the content",
    "kl": "of the latent vector",
    "cycle": "images that come back",
    "identity": "target images left alone",
    "images": "taken apart and put together",
    "codes": "contents and styles that come back",
    "wide": "to the images of the wide one",
}
_TITLES = {"l1": "L1", "kl": "KL"}
_NARROW = {"height": 190, "margin": {"l": 44, "r": 6, "t": 6, "b": 44}}


def losses(rows: Sequence[Row]) -> Section | None:
    """The section, or `None` where no row tells of such a training."""
    shown = [row for row in rows if row.curves("losses")]
    if not shown:
        return None
    names = list(dict.fromkeys(name for row in shown for name in _columns(row) if name != "update"))
    names.sort(key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))  # Stable: the rest as it is.
    caption = (
        "Each figure is a mean over a span of updates, losses with their weights. In a game that goes well the "
        "discriminator tells more than half of the patches right and never nearly all; losses of the two players do "
        "not fall as in other trainings."
    )
    return Section(
        "losses",
        "Losses",
        "How did the game go?",
        caption,
        (View(tuple(_plot(shown, name) for name in names)),),
        _table(shown, names),
        legend=tuple(shown) if len(shown) > 1 else (),
        small=True,
    )


def _columns(row: Row) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in row.curves("losses")[0].columns.items()}


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def _plot(rows: Sequence[Row], name: str) -> Plot:
    traces, most = [], 0.0
    factor = 100 if name == "told_apart" else 1
    for row in rows:
        columns = _columns(row)
        if name not in columns:
            continue
        known = [number(value) for value in columns[name]]
        values = [None if value is None else factor * value for value in known]
        most = max([most, *(value for value in columns["update"] if number(value) is not None)])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": columns["update"],
                "y": values,
                "line": {"color": colour(row), "width": 2},
                "hovertemplate": f"<b>{text(row.label)}</b><br>update %{{x}}: %{{y:.3g}}<extra></extra>",
            }
        )
    more: dict[str, Any] = {"range": [0, 103], "nticks": 5} if name == "told_apart" else {"nticks": 5}
    shapes = []
    if name == "told_apart":
        line = {"color": "@axis", "width": 1.5, "dash": "dot"}
        shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 50, "y1": 50, "line": line}]
    x = axis("updates", nticks=4, range=[0, most or 1])
    frame = layout(x, axis("%" if factor == 100 else "", **more), 220, 22, shapes=shapes)
    ends = [trace["y"][-1] for trace in traces if trace["y"] and trace["y"][-1] is not None]
    said = f"at the end {', '.join(significant(end) for end in ends)}" if ends else "no values"
    description = f"{_title(name)} over the updates: {said}."
    return Plot(traces, frame, description, _NARROW, _title(name), None, _NOTES.get(name, ""))


def _table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """First, middle and last figure of each loss."""
    lines = []
    for row in rows:
        columns = _columns(row)
        count = len(columns["update"])
        for place in dict.fromkeys((0, count // 2, count - 1)):
            cells = [number(columns[name][place]) if name in columns else None for name in names]
            told = ["–" if cell is None else significant(cell).replace("-", "\u2212") for cell in cells]
            lines.append((row.label, f"{columns['update'][place]:,.0f}", *told))
    return Table(("Form", "Update", *(_title(name) for name in names)), tuple(lines))
