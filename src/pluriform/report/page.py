"""One self-contained HTML page from results; it works offline and asks the network for nothing."""

import base64
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pluriform.report.digits import plain
from pluriform.report.figures.adversarial import adversarial
from pluriform.report.figures.bands import bands
from pluriform.report.figures.corruption import corruption
from pluriform.report.figures.detection import detection
from pluriform.report.figures.diversity import diversity
from pluriform.report.figures.losses import losses
from pluriform.report.figures.outliers import outliers
from pluriform.report.figures.pareto import pareto
from pluriform.report.figures.reliability import reliability
from pluriform.report.figures.risk_coverage import risk_coverage
from pluriform.report.figures.robustness import robustness
from pluriform.report.figures.samples import samples
from pluriform.report.figures.search_progress import search_progress
from pluriform.report.figures.search_tree import search_tree
from pluriform.report.figures.section import COLOURS, MARKERS, Section
from pluriform.report.figures.transfer import transfer
from pluriform.report.figures.translations import translations
from pluriform.report.figures.trials import search_words, searches
from pluriform.report.headline import headline, summary
from pluriform.report.ranking import Column, columns_of, leading
from pluriform.report.reading import Source, read_results
from pluriform.report.row import Row, number, rows_of
from pluriform.result import Result

__all__ = ["Chapter", "render", "write_page", "write_report"]

_COLUMNS = 10
_FIGURES = (
    translations,
    losses,
    bands,
    reliability,
    diversity,
    samples,
    outliers,
    detection,
    robustness,
    adversarial,
    transfer,
    corruption,
    pareto,
    risk_coverage,
    search_tree,
    search_progress,
)


@dataclass(frozen=True)
class Chapter:
    """All results on one data set: forms are compared within it, never across.

    Attributes:
        name: Prefix of the links.
        title: What was compared.
        summary: Who is best in what.
        rows: One a result.
        columns: Of the comparison.
        intervals: How their intervals were made.
        sections: The figures that the results allow.
    """

    name: str
    title: str
    summary: tuple[str, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    intervals: tuple[str, ...]
    sections: tuple[Section, ...]


def write_report(results: Source | Sequence[Source], path: str | Path) -> Path:
    """Write the page that compares `results`.

    Args:
        results: `Result` records, their JSON, or paths of JSON files (or of run folders that hold `result.json`).
        path: The HTML file; replaced in one step, folders are made as needed.

    Returns:
        The path.

    Raises:
        ConfigError: There are no results.
        CorruptFileError: A file does not hold a result.
        RunError: A file is missing.

    Example:
        >>> import tempfile
        >>> from pluriform.result import Measure, Result
        >>> result = Result("Training()", {}, "mlp", {"name": "digits"}, 0, measures=(Measure("accuracy", 0.97),))
        >>> write_report([result], Path(tempfile.mkdtemp()) / "report.html").name
        'report.html'
    """
    return write_page(render(read_results(results)), path)


def write_page(page: str, path: str | Path) -> Path:
    """Write a page in one step; folders are made as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(page)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(results: Sequence[Result], *, refresh: int | None = None) -> str:
    """The whole page as text.

    Args:
        results: To be compared.
        refresh: Seconds after which the browser loads the page anew, of work that goes on; `None` for never.
    """
    from jinja2 import Environment, StrictUndefined

    own = files("pluriform.report")
    script, style = own.joinpath("script.js").read_text("utf-8"), own.joinpath("style.css").read_text("utf-8")
    library = _library()
    chapters = _chapters(results)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(own.joinpath("page.html").read_text("utf-8")).render(
        chapters=chapters,
        refresh=refresh,
        title=chapters[0].title if len(chapters) == 1 else f"{len(results)} results on {len(chapters)} data sets",
        figures=_embedded({f"{c.name}-{s.name}": [v.to_json() for v in s.views] for c in chapters for s in c.sections}),
        download=_download(results),
        policy=_policy(library, script),
        library=library,
        script=script,
        style=style,
        how=_how,
        made=_made,
        breakable=_breakable,
        tight=lambda text: text.replace(" %", "\u202f%"),
        sentence=lambda text: text[:1].upper() + text[1:],
        plain=plain,
        markers=MARKERS,
        colours=COLOURS,
        pretty=lambda value: json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str),
    )


@functools.cache
def _library() -> str:
    """The code of plotly.js."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8").replace("\r\n", "\n")


def _chapters(results: Sequence[Result]) -> tuple[Chapter, ...]:
    groups: dict[str, list[Row]] = {}
    for row in rows_of(results):
        groups.setdefault(str(row.result.data.get("name", "")), []).append(row)
    return tuple(_chapter(f"c{i}", rows) for i, rows in enumerate(groups.values()))


def _chapter(name: str, rows: list[Row]) -> Chapter:
    every = columns_of(rows)
    columns = leading([c for c in every if not c.cost], _COLUMNS) + leading([c for c in every if c.cost], _COLUMNS)
    measured = [row for row in rows if row.ok]
    sections = tuple(section for figure in _figures(measured) if (section := figure(measured)) is not None)
    made = tuple(dict.fromkeys(cell.interval for column in columns for cell in column.cells if cell and cell.interval))
    said = [*summary(rows, columns), *(sentence for row in measured for sentence in search_words(row))]
    return Chapter(name, headline(rows), tuple(said), tuple(rows), tuple(columns), made, sections)


def _figures(rows: Sequence[Row]) -> Sequence[Callable[[Sequence[Row]], Section | None]]:
    """In the order of the page: where all forms come from searches, these are what it is about."""
    searched = (search_tree, search_progress)
    if rows and len(searches(rows)) == len(rows):
        return (*searched, *(figure for figure in _FIGURES if figure not in searched))
    return _FIGURES


def _breakable(name: str) -> Any:
    """A form's name that may break between its words: `Deep|Ensemble`."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[a-z0-9])(?=[A-Z(])", name))


def _finite(value: Any) -> Any:
    """The value with `None` for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and number(value) is None else value


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    dumped = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, default=str)
    for character in "<>&\u2028\u2029":
        dumped = dumped.replace(character, f"\\u{ord(character):04x}")
    return dumped


def _download(results: Sequence[Result]) -> str:
    dumped = json.dumps(_finite([result.to_json() for result in results]), ensure_ascii=False, default=str)
    return "data:application/json;base64," + base64.b64encode(dumped.encode()).decode()


def _policy(*scripts: str) -> str:
    """Only these scripts run, and nothing may be fetched; plotly.js writes style attributes."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _how(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Blocks of name and text: data, protocols, environment; what differs between forms is said for each."""
    blocks = {"Data": _pairs({row.label: row.result.data for row in rows})}
    protocols = {row.label: {k: v for k, v in row.result.protocol.items() if k != "source"} for row in rows}
    nested = dict.fromkeys(
        k for value in protocols.values() for k, inner in value.items() if isinstance(inner, Mapping)
    )
    blocks["Protocol"] = _pairs(
        {name: {k: v for k, v in value.items() if k not in nested} for name, value in protocols.items()}
    )
    for key in nested:
        found = {name: value.get(key) for name, value in protocols.items()}
        inner = {name: value for name, value in found.items() if isinstance(value, Mapping)}
        blocks[_words(key)[:1].upper() + _words(key)[1:]] = _pairs(inner)
    blocks["Environment"] = _pairs({row.label: row.result.environment for row in rows})
    return [(title, pairs) for title, pairs in blocks.items() if pairs]


def _made(result: Result) -> Mapping[str, Any]:
    """How the form was made, and the form that it was made from."""
    source = result.protocol.get("source")
    return result.method if source is None else {**result.method, "source": source}


def _pairs(values: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    flat = {label: dict(_flattened(value)) for label, value in values.items() if value}
    pairs = []
    for key in dict.fromkeys(key for found in flat.values() for key in found):
        said = {label: found[key] for label, found in flat.items() if key in found}
        alike = len(set(said.values())) == 1
        text = next(iter(said.values())) if alike else "; ".join(f"{label}: {value}" for label, value in said.items())
        pairs.append((_words(key), text))
    return pairs


def _words(key: str) -> str:
    return key.replace("_", " ")


def _flattened(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            pairs += _flattened(inner, f"{name}: ")
        elif isinstance(inner, list) and _tabular(inner):
            continue  # Figures show it.
        else:
            pairs.append((name, _said(inner)))
    return pairs


def _tabular(values: list[Any]) -> bool:
    """Whether it is a table, or a long column of one."""
    return any(isinstance(item, Mapping) for item in values) or (
        len(values) > 20 and all(item is None or isinstance(item, float) for item in values)
    )


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
