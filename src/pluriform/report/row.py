"""`Row`: one result with the short label and the index that stand for it in every table and figure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pluriform.result import Curve, Measure, Result

__all__ = ["Row", "number", "rows_of"]


@dataclass(frozen=True)
class Row:
    """A result as the page shows it.

    Attributes:
        result: The figures.
        label: Short name, unique on the page.
        index: Position on the page; colour and marker follow from it, so they are the same in every figure.
    """

    result: Result
    label: str
    index: int

    @property
    def ok(self) -> bool:
        """Whether there are figures."""
        return self.result.status == "ok"

    @property
    def name(self) -> str:
        """The label without arguments."""
        return self.label.split("(")[0].strip() or self.label

    @property
    def arguments(self) -> str:
        """What the name leaves out of the label and of the form."""
        longer = max(self.label, self.result.form, key=len)
        left = longer.removeprefix(self.name).strip() if longer.startswith(self.name) else ""
        return "" if left == "()" else left

    def measure(self, name: str, **condition: Any) -> Measure | None:
        """The finite measure of that name under exactly that condition."""
        return next((m for m in self.measures(name) if dict(m.condition) == condition), None)

    def measures(self, name: str, *keys: str) -> list[Measure]:
        """Every finite measure of that name; with `keys`, those whose condition has exactly these keys."""
        found = [m for m in self.result.measures if m.name == name and number(m.value) is not None]
        return [m for m in found if set(m.condition) == set(keys)] if keys else found

    def curves(self, name: str) -> list[Curve]:
        """Every curve of that name."""
        return [curve for curve in self.result.curves if curve.name == name]


def number(value: Any) -> float | None:
    """`value` as a finite float, or `None`."""
    try:
        converted = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return converted if abs(converted) != float("inf") and converted == converted else None


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Number the results and give each the shortest label that tells it from the others.

    `DeepEnsemble(members=5)` is `DeepEnsemble` unless another row would have the same name; then the arguments, the
    network, the seed and, last, the position are added, for the clashing rows only.
    """
    spellings: list[Callable[[int, Result], str]] = [
        lambda _, r: r.form.split("(")[0].strip() or r.form or "unnamed",
        lambda _, r: r.form,
        lambda _, r: f"{r.form}, {r.network}",
        lambda _, r: f"{r.form}, {r.network}, seed {r.seed}",
        lambda i, r: f"{r.form}, {r.network}, seed {r.seed}, no. {i + 1}",
    ]
    labels = [spellings[0](i, r) for i, r in enumerate(results)]
    data = [str(r.data.get("name", "")) for r in results]
    for spelling in spellings[1:]:
        taken = Counter(zip(data, labels, strict=True))
        clashes = [i for i in range(len(results)) if taken[data[i], labels[i]] > 1]
        for i in clashes:
            labels[i] = spelling(i, results[i])
    indices: dict[str, int] = {}
    for measured in (True, False):  # Colours go to the rows that are drawn.
        for result, label in zip(results, labels, strict=True):
            if (result.status == "ok") is measured:
                indices.setdefault(label, len(indices))
    return [Row(result, label, indices[label]) for result, label in zip(results, labels, strict=True)]
