"""The comparison as a table for the terminal, by the same ranking as the page."""

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pluriform.report.headline import headline
from pluriform.report.ranking import Column, columns_of
from pluriform.report.reading import Source, read_results
from pluriform.report.row import Row, rows_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["comparison_table"]

_MARKS = {"best": "●", "level": "○", "": " "}
_LEGEND = "● best   ○ its interval overlaps that of the best   ↑ more is better   ↓ less is better"


def comparison_table(
    results: Source | Sequence[Source],
    *,
    width: int | None = None,
    intervals: bool | None = None,
) -> "Table":
    """The figures of all forms side by side, the best in bold and marked; rows without figures say why below.

    Args:
        results: As in `write_report`.
        width: Characters to fit into; columns are dropped by priority until they do. The terminal's width by default.
        intervals: Whether a second line holds the 95 % intervals; by default where there are any.

    Returns:
        A table for `rich.print`.

    Raises:
        ConfigError: There are no results.
        CorruptFileError: A file does not hold a result.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = rows_of(read_results(results))
    columns = columns_of(rows)
    width = width or shutil.get_terminal_size((80, 24)).columns
    cells = {
        id(column): [_cell(column, position, intervals is not False) for position in range(len(rows))]
        for column in columns
    }
    names = min(max(len(row.label) for row in rows), max(14, width // 3))
    kept = _fitting(columns, cells, width - names - 4)
    table = Table(
        title=Text(headline(rows)),
        title_justify="left",
        caption=_caption(rows, len(columns) - len(kept)),
        box=box.SIMPLE_HEAD,
    )
    table.caption_justify = "left"
    table.add_column("Form", max_width=names, overflow="fold")
    for column in kept:
        table.add_column(Text(_heading(column)), justify="right", no_wrap=True)
    for position, row in enumerate(rows):
        if row.ok:
            table.add_row(Text(row.label), *(cells[id(column)][position] for column in kept))
        else:
            table.add_row(Text(row.label, style="dim"), *(Text("–", style="dim") for _ in kept))
    return table


def _heading(column: Column) -> str:
    arrow = {"higher": " ↑", "lower": " ↓"}.get(column.better or "", "")
    lines = [column.title + arrow, *column.note.replace("probability", "prob.").split(", "), column.unit]
    return "\n".join(line for line in lines if line)


def _cell(column: Column, position: int, intervals: bool) -> "Text":
    from rich.text import Text

    cell, mark = column.cells[position], column.marks[position]
    if cell is None:
        return Text("–", style="dim")
    text = Text(f"{_MARKS[mark]} {column.format(cell.value)}".strip(), style="bold" if mark == "best" else "")
    ends = column.format.interval(cell.low, cell.high) if intervals else ""
    return text.append(f"\n{ends}", style="not bold dim") if ends else text


def _fitting(columns: Sequence[Column], cells: Mapping[int, Sequence["Text"]], room: int) -> list[Column]:
    """The columns that fit, the least important dropped first; the most important always stays."""

    def needed(column: Column) -> int:
        lines = [
            *_heading(column).split("\n"),
            *(line for cell in cells[id(column)] for line in cell.plain.split("\n")),
        ]
        return max(map(len, lines)) + 3

    kept = list(columns)
    while len(kept) > 1 and sum(map(needed, kept)) > room:
        kept.remove(max(kept, key=lambda column: column.priority))
    return kept


def _caption(rows: Sequence[Row], dropped: int) -> "Text":
    from rich.text import Text

    lines = [_LEGEND]
    if dropped:
        lines.append(f"{dropped} more column{'' if dropped == 1 else 's'} on the page or in a wider terminal.")
    lines += [f"{row.label}: {row.result.status}. {row.result.reason}" for row in rows if not row.ok]
    return Text("\n".join(lines), style="not italic")
