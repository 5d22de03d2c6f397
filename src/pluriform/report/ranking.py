"""The columns of the comparison, and which row is best in each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pluriform.report.digits import Format, column_format
from pluriform.report.row import Row, number
from pluriform.result import Measure

__all__ = [
    "ATTACKS",
    "Column",
    "Mark",
    "attack_name",
    "columns_of",
    "direction",
    "leading",
    "marks_of",
    "robust_eps",
    "score_name",
]

Mark = Literal["best", "level", ""]

_LOWER = frozenset(["nll", "brier", "aurc", "ece", "calibration_gap", "fpr95", "rmse"])
_COSTS = frozenset(["parameters", "macs", "latency", "peak_memory", "training_seconds"])
_HIGHER = frozenset(["accuracy", "auroc", "aupr", "robust_accuracy", "corrupted_accuracy"])
ATTACKS = {  # The strongest first.
    "autoattack": "AutoAttack",
    "apgd-t": "APGD-T",
    "apgd-dlr": "APGD-DLR",
    "apgd-ce": "APGD-CE",
    "fab-t": "FAB-T",
    "fab": "FAB",
    "pgd": "PGD",
    "square": "Square",
    "fgsm": "FGSM",
}
_SCORES = (
    "max_probability",
    "entropy",
    "mutual_information",
    "variance",
    "score",
    "approximate_mass",
)


@dataclass(frozen=True)
class Column:
    """One measure over all rows.

    Attributes:
        name: The measure's name.
        title: Heading.
        note: The condition, where there is one.
        unit: Shown in the heading.
        better: Which direction is better.
        cells: One measure a row, `None` where there is none.
        marks: `best`, `level` (its interval overlaps that of the best) or nothing, one a row.
        format: How the numbers are written.
        priority: Columns with high numbers are dropped first where there is no room.
        cost: Whether it says what the form costs, else how good it is.
    """

    name: str
    title: str
    note: str
    unit: str
    better: Literal["higher", "lower"] | None
    cells: tuple[Measure | None, ...]
    marks: tuple[Mark, ...]
    format: Format
    priority: int
    cost: bool = False

    def winners(self) -> list[int]:
        """Positions of the best rows."""
        return [i for i, mark in enumerate(self.marks) if mark == "best"]

    def level(self) -> list[int]:
        """Positions of the rows whose interval overlaps that of the best."""
        return [i for i, mark in enumerate(self.marks) if mark == "level"]


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Every column for which some row has a figure, in reading order."""
    task = [
        _plain(rows, "accuracy", "Accuracy", 0),
        _plain(rows, "rmse", "RMSE", 0),
        _plain(rows, "nll", "NLL", 1),
        _plain(rows, "ece", "ECE", 2),
        _tempered(rows),
        _plain(rows, "brier", "Brier", 9),
        _plain(rows, "aurc", "AURC", 10),
        *_coverage(rows),
        *_outliers(rows),
        _robust(rows),
        _corrupted(rows),
        *_translated(rows),
    ]
    cost = [
        _plain(rows, "parameters", "Parameters", 7),
        _plain(rows, "macs", "MACs", 11),
        *_by_batch(rows, "latency", "Latency", 6),
        *_by_batch(rows, "peak_memory", "Peak memory", 12),
        _plain(rows, "training_seconds", "Training", 6),
    ]
    costly = [replace(column, cost=True) for column in cost]
    return [column for column in (*task, *costly) if any(column.cells)]


def leading(columns: Sequence[Column], most: int) -> list[Column]:
    """At most `most` of the columns, the least important left out."""
    kept = sorted(columns, key=lambda column: column.priority)[:most]
    return [column for column in columns if column in kept]


def direction(name: str, measures: Sequence[Measure | None] = ()) -> Literal["higher", "lower"] | None:
    """Which way is better: as the measures say, else as the name is known."""
    for measure in measures:
        if measure is not None and measure.better is not None:
            return measure.better
    return "lower" if name in _LOWER | _COSTS else "higher" if name in _HIGHER else None


def marks_of(cells: Sequence[Measure | None], better: Literal["higher", "lower"] | None) -> tuple[Mark, ...]:
    """Mark the best row and those whose 95 % interval overlaps its interval.

    Nothing is marked where fewer than two rows can be compared, or where all have the same figure. A cost of zero means
    that a form has nothing of the kind (no parameters, no training); it is not ranked.
    """
    values = [None if m is None or (m.name in _COSTS and m.value <= 0) else number(m.value) for m in cells]
    known = [v for v in values if v is not None]
    if better is None or len(known) < 2 or len(set(known)) == 1:
        return ("",) * len(cells)
    best = max(known) if better == "higher" else min(known)
    winner = cells[values.index(best)]
    return tuple(
        "best" if value == best else "level" if _overlap(cell, winner) else ""
        for cell, value in zip(cells, values, strict=True)
    )


def robust_eps(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The threat, attack and eps of the column of robust accuracy.

    The strongest attack of those that most rows were measured under, at the middle rung of its ladder.
    """
    found = [m for row in rows if row.ok for m in row.measures("robust_accuracy", "threat", "attack", "eps")]
    found = [m for m in found if (number(m.condition["eps"]) or 0) > 0]
    if not found:
        return None
    rows_of = Counter(attack for row in rows if row.ok for attack in _attacks(row))
    attack = min(rows_of, key=lambda attack: (-rows_of[attack], _position(tuple(ATTACKS))(attack)))
    found = [m for m in found if str(m.condition["attack"]) == attack]
    threat = found[0].condition["threat"]
    ladder = sorted({m.condition["eps"] for m in found if m.condition["threat"] == threat})
    return {"threat": threat, "attack": attack, "eps": ladder[(len(ladder) - 1) // 2]}


def _attacks(row: Row) -> set[str]:
    found = row.measures("robust_accuracy", "threat", "attack", "eps")
    return {str(m.condition["attack"]) for m in found if (number(m.condition["eps"]) or 0) > 0}


def score_name(score: str, rows: Sequence[Row] = ()) -> str:
    """How an outlier score is called on the page; a form's own score by its name where all `rows` agree on it."""
    if score != "score":
        return score.replace("_", " ")
    names = {_own_score(row) for row in rows}
    return names.pop() if len(names) == 1 else "own score"


def attack_name(attack: Any) -> str:
    """How an attack is called on the page."""
    return ATTACKS.get(str(attack), str(attack))


def _own_score(row: Row) -> str:
    drawn = row.result.protocol.get("samples")
    return str(drawn.get("score") or "own score") if isinstance(drawn, Mapping) else "own score"


def _overlap(first: Measure | None, second: Measure | None) -> bool:
    if first is None or second is None:
        return False
    ends = [number(value) for value in (first.low, first.high, second.low, second.high)]
    if any(end is None for end in ends):
        return False
    low1, high1, low2, high2 = (end for end in ends if end is not None)
    return low1 <= high2 and low2 <= high1


def _column(
    name: str, title: str, cells: Sequence[Measure | None], priority: int, note: str = "", ranked: bool = True
) -> Column:
    present = [m for m in cells if m is not None]
    unit = next((m.unit for m in present), "")
    form = column_format(name, unit, [m.value for m in present])
    shown = "%" if form.kind == "share" else "" if form.kind == "count" else "10⁻³" if form.factor > 1 else unit
    better = direction(name, present) if ranked else None
    return Column(name, title, note, shown, better, tuple(cells), marks_of(cells, better), form, priority)


def _plain(rows: Sequence[Row], name: str, title: str, priority: int) -> Column:
    return _column(name, title, [row.measure(name) if row.ok else None for row in rows], priority)


def _tempered(rows: Sequence[Row]) -> Column:
    cells = [next(iter(row.measures("ece", "temperature")), None) if row.ok else None for row in rows]
    return _column("ece", "ECE", cells, 8, "after temperature")


def _coverage(rows: Sequence[Row]) -> list[Column]:
    levels = sorted({m.condition["level"] for row in rows if row.ok for m in row.measures("coverage", "level")})
    return [
        _column(
            "coverage",
            "Coverage",
            [row.measure("coverage", level=level) if row.ok else None for row in rows],
            3,
            f"aim: {100 * level:g} %",
            ranked=False,
        )
        for level in levels
    ]


def _outliers(rows: Sequence[Row]) -> list[Column]:
    measured = [m for row in rows if row.ok for m in row.measures("auroc", "outliers", "score")]
    columns = []
    for name in dict.fromkeys(m.condition["outliers"] for m in measured):
        # One ruler for all: the score that most forms have; a form's own score is in the figure below the table.
        scores = Counter(str(m.condition["score"]) for m in measured if m.condition["outliers"] == name)
        score = min(scores, key=lambda s: (-scores[s], _position(_SCORES)(s)))
        cells = [row.measure("auroc", outliers=name, score=score) if row.ok else None for row in rows]
        said = score_name(score, [row for row, cell in zip(rows, cells, strict=True) if cell])
        columns.append(_column("auroc", "AUROC", cells, 8 if columns else 4, f"{name}, {said}"))
    return columns


def _robust(rows: Sequence[Row]) -> Column:
    condition = robust_eps(rows)
    cells = [row.measure("robust_accuracy", **condition) if condition and row.ok else None for row in rows]
    note = (
        "" if condition is None else f"{attack_name(condition['attack'])}, {condition['threat']} {condition['eps']:g}"
    )
    return _column("robust_accuracy", "Robust", cells, 5, note)


def _corrupted(rows: Sequence[Row]) -> Column:
    cells = []
    for row in rows:
        found = row.measures("corrupted_accuracy", "corruption", "severity") if row.ok else []
        values = {(str(m.condition["corruption"]), m.condition["severity"]): m.value for m in found}
        mean = sum(values.values()) / len(values) if values else None
        cells.append(None if mean is None else Measure("corrupted_accuracy", mean, better="higher"))
    return _column("corrupted_accuracy", "Corrupted", cells, 7, "mean of all")


_REFERENCES = {  # Images that the figure of translated ones is read beside, and what the page calls them.
    "pixel_accuracy": ("real test images", "real"),
    "miou": ("real test images", "real"),
    "psnr": ("mean training image", "mean image"),
    "ssim": ("mean training image", "mean image"),
    "kernel_distance": ("real training images", "real"),
}


def _translated(rows: Sequence[Row]) -> list[Column]:
    """Figures of translated images, each with that of the images it has to be read beside."""
    titles = {"pixel_accuracy": "Label accuracy", "miou": "mIoU", "content_kept": "Content kept"}
    plain = [_beside(rows, name, title, {}, priority) for priority, (name, title) in enumerate(titles.items())]
    seen = [m for row in rows if row.ok for m in row.measures("kernel_distance") if "images" not in m.condition]
    apart = []
    for extractor in dict.fromkeys(str(m.condition.get("extractor")) for m in seen):
        told = {"extractor": extractor}
        apart.append(_beside(rows, "kernel_distance", "KD", told, 3))
        apart.append(_beside(rows, "perceptual_distance", "Perceptual", told, 4))
        apart.append(_beside(rows, "diversity", "Diversity", None, 6, extractor))
    return [*plain, *apart, _beside(rows, "psnr", "PSNR", {}, 8), _beside(rows, "ssim", "SSIM", {}, 9)]


def _beside(
    rows: Sequence[Row], name: str, title: str, condition: Mapping[str, Any] | None, priority: int, extractor: str = ""
) -> Column:
    """The column of one figure; `None` as condition for any of an extractor."""
    measured = [row.measures(name) if row.ok else [] for row in rows]
    if condition is None:
        cells = [next((m for m in own if m.condition.get("extractor") == extractor), None) for own in measured]
    else:
        cells = [next((m for m in own if dict(m.condition) == condition), None) for own in measured]
    note = str((condition or {}).get("extractor", extractor))
    images, word = _REFERENCES.get(name, ("", ""))
    wanted = {**(condition or {}), "images": images}
    beside = next((m for own in measured for m in own if dict(m.condition) == wanted), None)
    column = _column(name, title, cells, priority, note)
    if beside is None:
        return column
    return replace(column, note=f"{note}{', ' if note else ''}{word} {column.format(beside.value)}")


def _by_batch(rows: Sequence[Row], name: str, title: str, priority: int) -> list[Column]:
    """One column a batch size; the first matters most."""
    found = [dict(m.condition) for row in rows if row.ok for m in row.measures(name)]
    conditions = [condition for i, condition in enumerate(found) if condition not in found[:i]]
    columns = []
    for condition in sorted(conditions, key=lambda c: number(c.get("batch")) or 0.0):
        cells = [row.measure(name, **condition) if row.ok else None for row in rows]
        note = ", ".join(f"{key} {value}" for key, value in condition.items())
        columns.append(_column(name, title, cells, 12 if columns else priority, note))
    return columns


def _position(order: Sequence[str]) -> Any:
    return lambda name: (order.index(name) if name in order else len(order), name)
