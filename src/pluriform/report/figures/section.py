"""What a figure hands to the page: plots for plotly.js, the choices, a caption and a table of the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from pluriform.report.row import Row, number

__all__ = [
    "Album",
    "Choice",
    "Gallery",
    "Plot",
    "Section",
    "Table",
    "Tile",
    "View",
    "axis",
    "colour",
    "end_labels",
    "label_room",
    "layout",
    "line",
    "text",
]

MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "star", "hexagon", "x")
COLOURS = 8


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        data: Traces; colours are names that the page resolves for light or dark (`@ink`, `@form-0`, `@form-0/0.2`).
        layout: For plotly.js.
        narrow: What replaces parts of the layout on a narrow screen.
        description: What a screen reader says.
        title: Above one of several small plots.
        index: The row whose marker stands beside the title.
        note: Below the title.
    """

    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    description: str
    narrow: Mapping[str, Any] | None = None
    title: str = ""
    index: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the script reads it."""
        mark = (
            None
            if self.index is None
            else {"marker": MARKERS[self.index % len(MARKERS)], "colour": self.index % COLOURS}
        )
        return {
            "data": list(self.data),
            "layout": self.layout,
            "narrow": self.narrow or {},
            "description": self.description,
            "title": self.title,
            "note": self.note,
            "mark": mark,
        }


@dataclass(frozen=True)
class Choice:
    """A row of buttons.

    Attributes:
        label: What is chosen.
        options: The buttons.
        position: Which entry of `View.chosen` it settles.
    """

    label: str
    options: tuple[str, ...]
    position: int = 0


@dataclass(frozen=True)
class View:
    """The plots shown for one combination of choices.

    Attributes:
        plots: One, or several small ones.
        chosen: An option of each choice.
    """

    plots: tuple[Plot, ...]
    chosen: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the script reads it."""
        return {"chosen": list(self.chosen), "plots": [plot.to_json() for plot in self.plots]}


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure, for readers who cannot see it.

    Attributes:
        header: Column headings; the first is that of the row names.
        rows: Text cells.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Tile:
    """A small picture.

    Attributes:
        png: In base64.
        title: Below it.
        note: Below that.
        description: What a screen reader says.
    """

    png: str
    title: str
    note: str
    description: str


@dataclass(frozen=True)
class Gallery:
    """Small pictures in rows.

    Attributes:
        title: Above them.
        tiles: The pictures.
        columns: Of the grid on a wide screen.
        header: Of the columns; a grid with a header keeps its columns on every screen.
    """

    title: str
    tiles: tuple[Tile, ...]
    columns: int
    header: tuple[str, ...] = ()


@dataclass(frozen=True)
class Album:
    """What one form shows in pictures.

    Attributes:
        row: The form.
        facts: Sentences.
        galleries: Side by side where there is room.
        open: Whether it is shown without being asked for.
    """

    row: Row
    facts: tuple[str, ...]
    galleries: tuple[Gallery, ...]
    open: bool = True


@dataclass(frozen=True)
class Section:
    """One figure of the page.

    Attributes:
        name: For links.
        short: In the list of figures.
        title: Heading.
        caption: What to see.
        views: One a combination of choices.
        table: The numbers.
        choices: Rows of buttons.
        legend: Rows named above the plot.
        strokes: Kinds of line, as pairs of label and dash.
        direct: Lines carry their names on a wide screen, so that the legend shows on a narrow one only.
        small: Small multiples instead of one plot.
        albums: Pictures above the plots.
    """

    name: str
    short: str
    title: str
    caption: str
    views: tuple[View, ...]
    table: Table
    choices: tuple[Choice, ...] = ()
    legend: tuple[Row, ...] = ()
    strokes: tuple[tuple[str, str], ...] = ()
    direct: bool = False
    small: bool = False
    albums: tuple[Album, ...] = ()

    @property
    def plotted(self) -> bool:
        """Whether there is a plot in any view."""
        return any(view.plots for view in self.views)


def colour(row: Row, alpha: float = 1.0) -> str:
    """The name of the row's colour."""
    return f"@form-{row.index % COLOURS}" + (f"/{alpha:g}" if alpha < 1 else "")


def text(value: Any, length: int = 32) -> str:
    """Text for plotly.js, which reads a subset of HTML: cut to `length` and escaped."""
    plain = " ".join(str(value).split())
    if len(plain) > length:  # The end often tells two forms apart.
        plain = plain[: length - length // 3 - 1] + "…" + plain[-(length // 3) :]
    return escape(plain)


def line(
    row: Row, x: Sequence[Any], y: Sequence[Any], *, dash: str = "solid", hover: str = "", **more: Any
) -> dict[str, Any]:
    """A line with the row's colour and marker; dashed lines have open markers."""
    marker = MARKERS[row.index % len(MARKERS)] + ("" if dash == "solid" else "-open")
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": text(row.label),
        "x": [number(v) for v in x],
        "y": [number(v) for v in y],
        "line": {"color": colour(row), "width": 2, "dash": dash},
        "cliponaxis": False,
        "marker": {"color": colour(row), "symbol": marker, "size": 8, "line": {"width": 1.5, "color": colour(row)}},
        "hovertemplate": f"<b>{text(row.label)}</b><br>{hover}<extra></extra>",
    } | more


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """A quiet axis."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"color": "@muted", "size": 13}},
        "gridcolor": "@grid",
        "linecolor": "@axis",
        "tickcolor": "@axis",
        "tickfont": {"color": "@muted", "size": 12},
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
    } | more


def layout(x: Mapping[str, Any], y: Mapping[str, Any], height: int, right: int = 16, **more: Any) -> dict[str, Any]:
    """A transparent frame around two axes."""
    return {
        "height": height,
        "margin": {"l": 56, "r": right, "t": 12, "b": 48},
        "paper_bgcolor": "@clear",
        "plot_bgcolor": "@clear",
        "font": {"color": "@ink", "size": 13},
        "hoverlabel": {"bgcolor": "@surface", "bordercolor": "@axis", "font": {"color": "@ink", "size": 13}},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "xaxis": dict(x),
        "yaxis": dict(y),
    } | more


def label_room(rows: Sequence[Row]) -> int:
    """Pixels to the right of a plot for the names of its lines."""
    return 26 + round(8.2 * min(28, max((len(row.label) for row in rows), default=0)))


def end_labels(ends: Sequence[tuple[Row, float]], low: float, high: float, height: int) -> list[dict[str, Any]]:
    """Names at the right end of the lines, moved apart so that none covers another.

    Args:
        ends: Each row with the y at which its line ends.
        low: Lower end of the y axis.
        high: Upper end.
        height: Of the plot in pixels, margins included.
    """
    pixels = max(height - 60, 1)
    places: list[list[Any]] = sorted(
        ([row, pixels * (y - low) / ((high - low) or 1)] for row, y in ends), key=lambda p: p[1]
    )
    for before, after in pairwise(places):
        after[1] = max(after[1], before[1] + 17)
    ceiling = float(pixels)
    for place in reversed(places):
        place[1] = min(place[1], ceiling)
        ceiling = place[1] - 17
    return [
        {
            "x": 1,
            "xref": "paper",
            "y": place / pixels,
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "middle",
            "xshift": 10,
            "text": text(row.label, 28),
            "showarrow": False,
            "font": {"color": colour(row), "size": 13},
        }
        for row, place in places
    ]
