"""How many digits a figure is shown with."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from pluriform.report.row import number

__all__ = ["Format", "column_format", "format_of", "plain", "share", "signed", "tick"]

_SHARES = frozenset(
    {
        "accuracy",
        "robust_accuracy",
        "corrupted_accuracy",
        "coverage",
        "member_accuracy",
        "disagreement",
        "explained_variance",
        "pixel_accuracy",
        "miou",
        "content_kept",
    }
)
_COUNTS = frozenset({"parameters", "macs", "wide_parameters", "wide_macs"})
_MINUS, _THIN, _DASH = "\u2212", "\u202f", "\u2013"


@dataclass(frozen=True)
class Format:
    """How the numbers of one column are written.

    Attributes:
        kind: Shares become per cent with one decimal, counts get a prefix (k, M, G), quantities three significant
            digits, scores a fixed number of decimals.
        decimals: For scores.
        factor: Scores are shown times this; 1000 for very small ones, said in the heading.
    """

    kind: Literal["share", "count", "quantity", "score"]
    decimals: int = 3
    factor: int = 1

    def __call__(self, value: Any) -> str:
        """The number as text; a dash where there is none."""
        finite = number(value)
        if finite is None:
            return _DASH
        return _sign({"share": share, "count": prefixed, "quantity": significant}.get(self.kind, self._score)(finite))

    def _score(self, value: float) -> str:
        return f"{self.factor * value:.{self.decimals}f}"

    def interval(self, low: Any, high: Any) -> str:
        """Both ends, or nothing where one is missing."""
        below, above = number(low), number(high)
        if below is None or above is None:
            return ""
        return f"{self(below)}{_DASH if below >= 0 else ' to '}{self(above)}"


def format_of(name: str, unit: str = "", values: Iterable[Any] = ()) -> Format:
    """The format for a measure; `values` of the same column settle the decimals that they need."""
    if name in _SHARES:
        return Format("share")
    if name in _COUNTS:
        return Format("count")
    if unit:
        return Format("quantity")
    typical = median([abs(v) for v in map(number, values) if v] or [1.0])
    return Format("score", min(5, max(3, 1 - math.floor(math.log10(typical)))))


def column_format(name: str, unit: str, values: Sequence[Any]) -> Format:
    """As `format_of`, but a column of very small scores is shown in thousandths."""
    form = format_of(name, unit, values)
    return Format("score", 2, 1000) if form.kind == "score" and form.decimals > 4 else form


def plain(name: str, unit: str, value: Any) -> str:
    """One number outside a column, with its unit."""
    text = format_of(name, unit, [value])(value)
    suffix = "%" if name in _SHARES else "" if name in _COUNTS and unit == name else unit
    return f"{text}{_THIN}{suffix}" if suffix and text != _DASH else text


def share(value: float) -> str:
    """A share in per cent, one decimal, without the sign."""
    return f"{100 * value:.1f}"


def prefixed(value: float) -> str:
    """A count with three significant digits and a prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{significant(value / factor)}{_THIN}{prefix}"
    return significant(value)


def signed(value: float) -> str:
    """A score on a scale that has no natural zero: two decimals, fewer for large ones."""
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    text = f"{value:.{decimals}f}"
    return _sign(text if float(text) else text.removeprefix("-"))


def tick(value: float) -> str:
    """A number for an axis, without closing zeros."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{_THIN}{prefix}"
    return f"{value:g}"


def significant(value: float) -> str:
    """Three significant digits, never in exponent notation within 0.001 to a million."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{decimals}f}" if decimals > 0 else f"{round(value):,}".replace(",", _THIN)


def _sign(text: str) -> str:
    return text.replace("-", _MINUS, 1) if text.startswith("-") else text
