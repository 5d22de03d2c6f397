"""The sentence at the top of the page, written from the data."""

from collections.abc import Sequence

from pluriform.report.ranking import Column
from pluriform.report.row import Row
from pluriform.result import Measure

__all__ = ["headline", "summary"]

_WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
_PRAISE = {
    "accuracy": "the most accurate",
    "rmse": "the closest to the targets",
    "nll": "the best in likelihood",
    "ece": "the best calibrated",
    "auroc": "the best at telling outliers apart",
    "robust_accuracy": "the most robust",
    "miou": "the truest to its labels",
    "content_kept": "the truest to its contents",
    "kernel_distance": "the nearest to real images",
    "latency": "the fastest",
}
_FAULTS = {
    "collapsed": ("has collapsed", "its members are one network for all purposes"),
    "masked": ("misleads the attacks", "its gradients are masked, and its robust accuracy is too high"),
    "chains_apart": ("draws no samples of the data", "most of them score below 99\u202f% of the test set"),
}
_NAMES = {"miou": "mIoU", "kernel_distance": "KD", "rmse": "RMSE", "nll": "NLL", "ece": "ECE", "auroc": "AUROC"}


def headline(rows: Sequence[Row]) -> str:
    """What was compared: `Three forms of mlp on digits`."""
    count = len(rows)
    word = _WORDS[count] if count < len(_WORDS) else str(count)
    networks = joined(list(dict.fromkeys(row.result.network for row in rows if row.result.network))) or "a network"
    name = str(rows[0].result.data.get("name", "")) or "unnamed data"
    if rows[0].result.data.get("task") == "translation":
        return f"{word} translator{'' if count == 1 else 's'} on {name}"
    return f"{word} form{'' if count == 1 else 's'} of {networks} on {name}"


def summary(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Who is best in what, each winner named once, then which of these are level within their intervals."""
    praise: dict[str, list[str]] = {}
    level: list[str] = []
    for column in _leading(columns):
        winners = column.winners()
        if not winners:
            continue
        figure = column.cells[winners[0]]
        value = f"{column.format(figure.value)}\u202f{column.unit}".strip() if figure else ""
        said = " ".join(filter(None, (_NAMES.get(column.name, ""), value, _circumstance(figure))))
        praise.setdefault(joined([rows[i].label for i in winners]), []).append(f"{_PRAISE[column.name]} ({said})")
        if column.level():
            names = [rows[i].label for i in column.level()]
            level.append(f"{_TOPICS[column.name]}, with {joined(names) if len(names) <= 3 else f'{len(names)} others'}")
    sentences = []
    if praise:
        clauses = [f"{who} {'' if i else 'is '}{joined(what)}" for i, (who, what) in enumerate(praise.items())]
        sentences.append("; ".join(clauses) + ".")
    sentences += [said for row in rows for name in _FAULTS if (said := _fault(row, name))]
    if level:
        sentences.append(f"Too close to call, as intervals overlap with the best: {'; '.join(level)}.")
    failed = [row for row in rows if not row.ok]
    if failed:
        sentences.append(f"Without figures: {joined([f'{row.label} ({row.result.status})' for row in failed])}.")
    return sentences


def _fault(row: Row, name: str) -> str:
    """What is wrong with a form, for all seeds or some of them."""
    found = row.measure(name) if row.ok else None
    if found is None or found.value <= 0:
        return ""
    seeds = found.count if found.interval else None
    when = f" for {round(found.value * seeds)} of {seeds} seeds" if seeds and found.value < 1 else ""
    verdict, meaning = _FAULTS[name]
    return f"{row.label} {verdict}{when}: {meaning}."


_TOPICS = {
    "accuracy": "accuracy",
    "rmse": "RMSE",
    "nll": "likelihood",
    "ece": "calibration",
    "auroc": "outliers",
    "robust_accuracy": "robustness",
    "miou": "labels",
    "content_kept": "contents",
    "kernel_distance": "nearness to real images",
    "latency": "speed",
}


def _circumstance(figure: Measure | None) -> str:
    """Where a figure holds: against which outliers, at which eps."""
    condition = figure.condition if figure else {}
    if "eps" in condition:
        return f"at eps {condition['eps']:g}"
    return f"against {condition['outliers']}" if "outliers" in condition else ""


def joined(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else ""


def _leading(columns: Sequence[Column]) -> list[Column]:
    """The first column of each name that the sentence speaks of; the likelihood only where there is no calibration."""
    found: dict[str, Column] = {}
    for column in columns:
        if column.name in _PRAISE:
            found.setdefault(column.name, column)
    return [column for name, column in found.items() if name != "nll" or "ece" not in found]
