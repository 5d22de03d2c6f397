"""`Result`: the plain numbers of one evaluation, as JSON in and out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pluriform.errors import CorruptFileError, RunError, explain

__all__ = ["Curve", "Measure", "Pictures", "Result"]


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        name: In the field's words: `accuracy`, `nll`, `ece`, `auroc`, `robust_accuracy`, `latency` ...
        value: The figure.
        unit: `""` for shares and nats, else `ms`, `MiB`, `s`, `MAC`, `parameters`.
        better: Which direction is better; `None` where neither is.
        low: Lower end of the 95 % interval, where there is one.
        high: Upper end.
        count: Samples, repeats or seeds behind the figure.
        condition: Under which circumstances, for instance `{"outliers": "mnist", "score": "entropy"}`,
            `{"threat": "linf", "attack": "pgd", "eps": 0.1}` or `{"temperature": 1.31}`; empty for the plain figure.
        interval: How the interval was made (`"bootstrap over the test set"`, `"over 3 seeds"`).
    """

    name: str
    value: float
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    condition: Mapping[str, Any] = field(default_factory=dict)
    interval: str = ""


@dataclass(frozen=True)
class Curve:
    """Columns of numbers of equal length, to be drawn.

    Attributes:
        name: `reliability`, `score_histogram`, `robustness`, `risk_coverage`, `predictive_band`, `log_density` ...
        columns: Name to numbers.
        condition: As in `Measure`.
    """

    name: str
    columns: Mapping[str, list[float]]
    condition: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """Small pictures in the order in which they were made, with figures of each.

    Attributes:
        name: `samples`, inputs that the form draws; `chain`, states of chains over their steps; or of test samples
            under attack `clean`, `attacked`, `perturbation` and `input_gradient`, in the same order.
        png: Each picture as an 8-bit PNG in base64; few and small, since they live in the JSON.
        columns: Name to numbers, one a picture: `log_density`; `predicted` and `label`, places among the classes;
            `chain` and `step`; `sample`, the place in the test split, `confidence`; `factor`, by which a perturbation
            is magnified; `at_white`, the value that white stands for.
        condition: As in `Measure`.
    """

    name: str
    png: list[str]
    columns: Mapping[str, list[float]]
    condition: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Everything that one evaluation found out about one form.

    Attributes:
        form: Label of the row, for instance `DeepEnsemble(members=5)`.
        method: The method's JSON.
        network: What the form was made from, for instance `lenet`.
        data: Name, task, split sizes, classes, bounds.
        seed: Of the fit.
        status: `ok`, or why there are no figures.
        reason: The sentence shown to the user when `status` is not `ok`.
        measures: The figures.
        curves: The columns to be drawn.
        protocol: How it was measured: counts, bins, attack steps, seeds.
        environment: Versions, processor, cores.
        artefacts: Name to path, relative to the run, of pictures.
        pictures: To be shown, in the JSON itself.
    """

    form: str
    method: Mapping[str, Any]
    network: str
    data: Mapping[str, Any]
    seed: int
    status: Literal["ok", "not applicable", "does not fit memory", "failed"] = "ok"
    reason: str = ""
    measures: tuple[Measure, ...] = ()
    curves: tuple[Curve, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    artefacts: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[Pictures, ...] = ()

    def get(self, name: str, **condition: Any) -> Measure | None:
        """The measure of that name under exactly that condition, or `None`."""
        return next((m for m in self.measures if m.name == name and dict(m.condition) == condition), None)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Result":
        """Read what `to_json` wrote.

        Raises:
            CorruptFileError: Fields are missing or unknown.
        """
        try:
            fields = dict(value)
            fields["measures"] = tuple(Measure(**measure) for measure in fields.get("measures", ()))
            fields["curves"] = tuple(Curve(**curve) for curve in fields.get("curves", ()))
            fields["pictures"] = tuple(Pictures(**pictures) for pictures in fields.get("pictures", ()))
            return Result(**fields)
        except (TypeError, AttributeError) as error:
            raise CorruptFileError(
                explain(
                    "the fields of a Result", str(error), "result JSON", "write it again with this version of pluriform"
                )
            ) from None

    def save(self, path: str | Path) -> Path:
        """Write to a JSON file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1))
        return path

    @staticmethod
    def load(path: str | Path) -> "Result":
        """Read from a JSON file.

        Raises:
            RunError: There is none.
            CorruptFileError: It is not the JSON of one result.
        """
        try:
            value = json.loads(Path(path).read_text("utf-8"))
            if not isinstance(value, Mapping):
                raise TypeError(f"a JSON {type(value).__name__}")
            return Result.from_json(value)
        except FileNotFoundError:
            remedy = "name the JSON file that evaluate wrote"
            raise RunError(explain("a result file", "no such file", str(path), remedy)) from None
        except (TypeError, ValueError, CorruptFileError) as error:
            got, remedy = f"one that cannot be read: {error}", "delete it and evaluate again"
            raise CorruptFileError(explain("the JSON of one Result", got, str(path), remedy)) from None
