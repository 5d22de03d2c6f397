"""`evaluate`: every protocol that applies to a form and its data, in one `Result`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pluriform.attacks.threat import Threat
from pluriform.data.data import Data
from pluriform.data.signature import Signature
from pluriform.data.split import check_seed
from pluriform.errors import ConfigError, explain
from pluriform.evaluation.accuracy import measure_accuracy
from pluriform.evaluation.adversarial import measure_adversarial
from pluriform.evaluation.calibration import measure_calibration
from pluriform.evaluation.check import check_match
from pluriform.evaluation.corruption import measure_corruption
from pluriform.evaluation.cost import measure_cost
from pluriform.evaluation.detection import SAMPLES as DETECTED
from pluriform.evaluation.detection import measure_detection
from pluriform.evaluation.diversity import measure_diversity
from pluriform.evaluation.environment import environment
from pluriform.evaluation.findings import Findings, merged
from pluriform.evaluation.images import Translating, measure_images, measure_translator_cost
from pluriform.evaluation.narrowing import measure_narrowing
from pluriform.evaluation.outliers import measure_outliers
from pluriform.evaluation.regression import measure_regression
from pluriform.evaluation.robustness import CLIMBED, check_attacks, measure_robustness
from pluriform.evaluation.samples import measure_samples
from pluriform.evaluation.searching import measure_search
from pluriform.evaluation.subject import Subject
from pluriform.evaluation.translations import measure_translations
from pluriform.evaluation.worst_case import measure_worst_case
from pluriform.freed_memory import keep_freed_memory
from pluriform.prediction import Predictor, Translator
from pluriform.result import Result
from pluriform.runs import Run, replace_file

__all__ = ["evaluate"]


def evaluate(
    form: nn.Module,
    data: Data,
    *,
    outliers: Sequence[Data] = (),
    threats: Sequence[Threat] = (),
    seed: int = 0,
    label: str | None = None,
    network: str = "",
    method: Mapping[str, Any] | None = None,
    corruptions: Sequence[str] | None = None,
    samples: int = 1000,
    attacks: Sequence[str] = CLIMBED,
    auto_attack: bool = False,
    extractors: Sequence[nn.Module] = (),
    segmentation: nn.Module | None = None,
    run: Run | str | Path | None = None,
) -> Result:
    """Judge a form by every protocol that applies to it, on the test split.

    A translator is judged by `measure_images`, which needs other networks for distances of features and for labels.

    Args:
        form: A fitted form, or a plain module, which is then taken as fitted on `data`.
        data: Data like those the form was fitted on. Validation gives temperature and noise, test all figures.
        outliers: Data sets to be told apart from `data`; images are resized to fit.
        threats: Threat models, each climbed in steps of its eps under `attacks`; on fewer samples, attacked inputs are
            told from clean ones.
        seed: Of bootstrap, subsets, attacks and noise; noted as the result's seed.
        label: Name of the row; by default that of the method that made the form.
        network: What the form was made from; by default the class of the network.
        method: JSON of the method that made it, which the form knows itself.
        corruptions: Names for the corrupted test; a few by default, `()` for none.
        samples: At most so many test samples are attacked and corrupted, stratified by class.
        attacks: Names of attacks whose figures are drawn against eps, as in `attack`.
        auto_attack: Also run AutoAttack at the full eps of each threat: slow, and the figure to be quoted.
        extractors: Of a translator only: classifiers whose features tell images apart.
        segmentation: Of a translator of label maps only: labels photographs, trained on the real pairs.
        run: A run, or a folder, where `result.json` is written, and where AutoAttack goes on after it was killed.

    Returns:
        Plain numbers with intervals, curves to be drawn, and how all were measured.

    Raises:
        ShapeError: The form was fitted on data of another shape, number of outputs or task.
        EmptySplitError: No test samples.
        ConfigError: An unknown corruption or attack, a radius in the wrong scale, AutoAttack without a threat, or a
            task without figures.
        DivergenceError: The form predicts NaN or infinity.
        LabelError: A label outside the form's classes.
        NonFiniteError: NaN or infinity in the data.
    """
    check_attacks(attacks, threats, auto_attack)
    check_seed(seed)
    if isinstance(form, Translator):
        asked = bool(outliers or threats or corruptions)
        predictor = form
        with keep_freed_memory():
            parts = _of_translator(form, data, seed, asked, extractors, segmentation)
    else:
        _refuse_judges(form, extractors, segmentation)
        predictor = form if isinstance(form, Predictor) else _Plain(form, data.signature)
        check_match(predictor, data)
        subject = Subject(predictor, data, seed)
        attacked = None if run is None or not auto_attack else _folder(run) / "auto_attack"
        with keep_freed_memory():
            parts = _findings(subject, outliers, threats, corruptions, samples, attacks, auto_attack, attacked)
    whole = merged(parts, {name: value for part in parts for name, value in part.protocol.items()})
    result = Result(
        form=label or predictor.origin.get("label") or type(form).__name__,
        method=method or predictor.origin.get("method", {}),
        network=network or predictor.origin.get("network", ""),
        data=describe(data),
        seed=seed,
        measures=whole.measures,
        curves=whole.curves,
        pictures=whole.pictures,
        protocol={"seed": seed, **whole.protocol, **_source(predictor)},
        environment=environment(predictor.device),
    )
    if run is not None:
        _write(result, run)
    return result


def _of_translator(
    form: Translator,
    data: Data,
    seed: int,
    asked: bool,
    extractors: Sequence[nn.Module],
    segmentation: nn.Module | None,
) -> list[Findings]:
    if asked:
        remedy = "leave outliers, threats and corruptions out"
        raise ConfigError(explain("a form that predicts classes", type(form).__name__, "evaluate", remedy))
    if not isinstance(form, Translating):
        raise ConfigError(explain("a form with translate", type(form).__name__, "evaluate", "give it that method"))
    return [
        measure_images(form, data, extractors=extractors, segmentation=segmentation, seed=seed),
        measure_translations(form, data, segmentation=segmentation, seed=seed),
        measure_translator_cost(form, data),
    ]


def _refuse_judges(form: nn.Module, extractors: Sequence[nn.Module], segmentation: nn.Module | None) -> None:
    if extractors or segmentation is not None:
        remedy = "leave extractors and segmentation out"
        raise ConfigError(explain("a translator for these", type(form).__name__, "evaluate", remedy))


def _source(form: Predictor | Translator) -> dict[str, Any]:
    """The form that this one was made from, where it was."""
    source = form.origin.get("source")
    return {} if source is None else {"source": source}


def _findings(
    subject: Subject,
    outliers: Sequence[Data],
    threats: Sequence[Threat],
    corruptions: Sequence[str] | None,
    samples: int,
    attacks: Sequence[str],
    auto_attack: bool,
    attacked: Path | None,
) -> list[Findings]:
    if subject.data.task == "classification":
        return [
            measure_accuracy(subject),
            measure_calibration(subject),
            measure_diversity(subject),
            measure_outliers(subject, outliers),
            measure_robustness(subject, threats, samples=samples, attacks=attacks) if threats else Findings(),
            measure_worst_case(subject, threats, samples, attacked) if auto_attack else Findings(),
            measure_adversarial(subject, threats),
            measure_detection(subject, threats, samples=min(samples, DETECTED)) if threats else Findings(),
            Findings() if corruptions == () else measure_corruption(subject, corruptions, samples=samples),
            measure_samples(subject),
            measure_cost(subject),
            measure_narrowing(subject),
            measure_search(subject),
        ]
    given = {"outliers": outliers, "robustness": threats, "corruptions": corruptions, "auto_attack": auto_attack}
    skipped = {name: {"skipped": "defined for classification"} for name, value in given.items() if value}
    return [
        measure_regression(subject),
        measure_diversity(subject),
        measure_cost(subject),
        measure_narrowing(subject),
        measure_search(subject),
        Findings(protocol=skipped),
    ]


def _write(result: Result, run: Run | str | Path) -> None:
    if isinstance(run, Run):
        run.write_json("result.json", result.to_json())
        return
    with replace_file(Path(run) / "result.json") as temporary:
        result.save(temporary)


def _folder(run: Run | str | Path) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def describe(data: Data) -> dict[str, Any]:
    """The facts of a data set as plain JSON."""
    return {
        "name": data.name,
        "task": data.task,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "classes": list(data.classes),
        "input_shape": list(data.input_shape),
        "outputs": data.outputs,
        "bounds": None if data.bounds is None else list(data.bounds),
    }


class _Plain(Predictor):
    """A module that is no form yet, seen as one."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__(signature)
        self.module = module

    def forward(self, inputs: Any) -> Any:
        return self.module(inputs)
