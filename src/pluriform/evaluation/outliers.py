"""Telling other data from the data a form was fitted on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pluriform.axes import Inputs, Scores
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.signature import Bounds
from pluriform.errors import DataError, EmptySplitError, ShapeError, explain
from pluriform.evaluation.bootstrap import Bootstrap
from pluriform.evaluation.findings import Findings, measure, merged
from pluriform.evaluation.subject import Subject, stratified_index
from pluriform.metrics.detection import ScoreCounts, score_counts
from pluriform.metrics.diversity import even_splits
from pluriform.metrics.uncertainty import entropy, max_probability, mutual_information, softmax_variance
from pluriform.prediction import Prediction
from pluriform.result import Curve, Measure

__all__ = ["Adapted", "adapt", "measure_outliers", "scores_of"]

HISTOGRAM_BINS = 40
SPLIT = 0.5  # Sure members whose vote shares between two classes are spread over 0..1 split evenly on 0.2 of inputs.
ENOUGH = 5
WITH_GRADIENTS = 2000  # Inputs whose scores need a backward pass, inside and of each set.
MADE = ("noise", "inverted")
"""Sets that are made of the test images."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Adapted:
    """Outliers in the shape and range of the data.

    Attributes:
        inputs: Shape `(batch, *input_shape)`.
        steps: What was changed, in words.
    """

    inputs: Inputs
    steps: tuple[str, ...] = ()


def measure_outliers(subject: Subject, outliers: Sequence[Data]) -> Findings:
    """`auroc`, `aupr` and `fpr95` for every set of outliers and every score, and the curves `score_histogram`.

    Outliers are the positives: FPR95 is the share of test samples flagged when 95 % of the outliers are caught. `aupr`
    and `fpr95` with test samples as the positives carry the condition `{"positive": "inside"}`: there FPR95 is the
    share of outliers accepted when 95 % of the test samples are. At most as many outliers are taken as there are test
    samples. For image data, uniform noise and the inverted test images are always added. Scores that need gradients
    (`input_scores` of the form) are taken of at most 2,000 test samples and as many outliers of each set.

    Args:
        subject: The form and its answers.
        outliers: Data sets; their test split is used, or the largest where it is empty.
    """
    further = _further_inside(subject)
    inside = scores_of(subject.test.prediction) | further
    sets, skipped = _outlier_sets(subject, outliers)
    parts = [_against(subject, name, adapted, inside) for name, adapted in sets.items()]
    described = {
        name: {"samples": len(sets[name].inputs), "adapted": list(sets[name].steps), **part.protocol}
        for name, part in zip(sets, parts, strict=True)
    }
    protocol: dict[str, Any] = {
        "inside": len(subject.test),
        "positives": "outliers",
        "fpr95": "share of test samples flagged when 95 % of the outliers are caught (OpenOOD convention); with "
        "positive inside, share of outliers accepted when 95 % of the test samples are (ODIN convention)",
        "scores": sorted(inside),
        "energy_and_max_logit": "left out: an ensemble has no logits, only log mean probabilities of energy 0",
        "sets": described,
    }
    if further:
        size = len(next(iter(further.values())))
        protocol["need_gradients"] = (
            f"{', '.join(further)}: {size} test samples, stratified, and at most {WITH_GRADIENTS} outliers of each "
            f"set, seed {subject.seed}"
        )
    return merged(parts, {"outliers": protocol | ({"skipped": skipped} if skipped else {})})


def scores_of(prediction: Prediction) -> dict[str, Scores]:
    """Every score that a prediction has, higher meaning more in-distribution."""
    scores = {"max_probability": max_probability(prediction.mean), "entropy": -entropy(prediction.mean)}
    if prediction.members is not None and len(prediction.members) > 1:
        scores["mutual_information"] = -mutual_information(prediction.members)
        scores["variance"] = -softmax_variance(prediction.members)
    if prediction.score is not None:
        scores["score"] = prediction.score.double()
    return scores


def _further_inside(subject: Subject) -> dict[str, Scores]:
    index = stratified_index(subject.test.targets, WITH_GRADIENTS, subject.seed)
    return _further(subject, subject.data.test.batch(index)[0])


def _further(subject: Subject, inputs: Inputs) -> dict[str, Scores]:
    """Scores that need gradients, on the CPU."""
    return {kind: values.detach().cpu().double() for kind, values in subject.form.input_scores(inputs).items()}


def _outlier_sets(subject: Subject, outliers: Sequence[Data]) -> tuple[dict[str, Adapted], dict[str, str]]:
    sets: dict[str, Adapted] = {}
    skipped: dict[str, str] = {}
    for other in outliers:
        name = _new_name(other.name, {*sets, *skipped, *MADE})
        try:
            sets[name] = _taken(subject, other)
        except (DataError, ShapeError) as error:
            skipped[name] = str(error)
    data = subject.data
    if data.bounds is not None and len(data.input_shape) == 3:
        low, high = data.bounds
        inputs, _ = data.test.batch(stratified_index(subject.test.targets, 10_000, subject.seed))
        generator = torch.Generator().manual_seed(subject.seed)
        noise = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype) * (high - low) + low
        sets["noise"] = Adapted(noise, ("uniform in the bounds",))
        sets["inverted"] = Adapted(low + high - inputs, ("test images, inverted",))
    return sets, skipped


def _new_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered where there is one like it: sets of arrays are all called so."""
    names = (name, *(f"{name} ({number})" for number in range(2, len(taken) + 3)))
    return next(one for one in names if one not in taken)


def _taken(subject: Subject, other: Data) -> Adapted:
    split = other.test if len(other.test) else max((other.train, other.validation), key=len)
    if len(split) == 0:
        raise EmptySplitError(explain("outliers", "0 samples", other.name, "load the set with samples"))
    index = stratified_index(_targets(split), len(subject.test), subject.seed)
    inputs, _ = split.batch(index)
    return adapt(inputs, subject.data.input_shape, other.bounds, subject.data.bounds, other.name)


def _targets(split: Split | StreamSplit) -> Tensor:
    """Labels for strata; a stream is sampled without, since reading all labels would read all inputs."""
    return split.targets if isinstance(split, Split) else torch.zeros(len(split))


def adapt(inputs: Inputs, shape: tuple[int, ...], bounds: Bounds | None, wanted: Bounds | None, where: str) -> Adapted:
    """Bring outliers to the shape and range of the data: grey to RGB or back, bilinear resizing, linear rescaling.

    Args:
        inputs: Shape `(batch, ...)`.
        shape: Shape of one input of the data.
        bounds: Of the outliers.
        wanted: Bounds of the data.
        where: Name of the outliers, for the message.

    Raises:
        ShapeError: The shapes differ and are not both images of one or three channels.
    """
    steps = []
    got = tuple(inputs.shape[1:])
    if got != shape and not (len(got) == len(shape) == 3 and {got[0], shape[0]} <= {1, 3}):
        raise ShapeError(
            explain(f"outliers of shape {shape}, or images", f"{got}", where, "choose outliers of the same kind")
        )
    if got != shape and got[0] != shape[0]:
        steps.append("grey to RGB" if shape[0] == 3 else "RGB to grey")
        luma = torch.tensor(LUMA, dtype=inputs.dtype)
        inputs = inputs.expand(-1, 3, -1, -1) if shape[0] == 3 else torch.einsum("bchw,c->bhw", inputs, luma)[:, None]
    if got[1:] != shape[1:]:
        steps.append(f"resized from {got[1]}x{got[2]} to {shape[1]}x{shape[2]}, bilinear")
        inputs = F.interpolate(inputs, shape[1:], mode="bilinear", align_corners=False, antialias=True)
    if bounds is not None and wanted is not None:
        if bounds != wanted:
            steps.append(f"values rescaled from {bounds[0]:g}..{bounds[1]:g} to {wanted[0]:g}..{wanted[1]:g}")
            inputs = (inputs - bounds[0]) / (bounds[1] - bounds[0]) * (wanted[1] - wanted[0]) + wanted[0]
        inputs = inputs.clamp(*wanted)
    return Adapted(inputs.contiguous(), tuple(steps))


def _against(subject: Subject, name: str, adapted: Adapted, inside: Mapping[str, Scores]) -> Findings:
    prediction = subject.form.predict(adapted.inputs)
    outside = {kind: values.cpu() for kind, values in scores_of(prediction).items()}
    chosen = stratified_index(torch.zeros(len(adapted.inputs)), WITH_GRADIENTS, subject.seed)
    outside |= _further(subject, adapted.inputs[chosen])
    measures: list[Measure] = []
    curves = []
    for kind in inside.keys() & outside.keys():
        condition = {"outliers": name, "score": kind}
        measures += _detection(inside[kind], outside[kind], subject.bootstrap, condition)
        curves.append(_histogram(inside[kind], outside[kind], condition))
    order = {kind: place for place, kind in enumerate(inside)}
    measures.sort(key=lambda found: order[found.condition["score"]])
    curves.sort(key=lambda curve: order[curve.condition["score"]])
    return Findings(tuple(measures), tuple(curves), _modes(prediction))


def _modes(prediction: Prediction) -> dict[str, str]:
    """A warning where many outliers split sure members evenly, which draws of two or three modes do."""
    if prediction.members is None or len(prediction.members) < ENOUGH:
        return {}
    shares = even_splits(prediction.members).items()
    told = [f"{100 * share:.0f} % between {k} classes" for k, share in shares if share >= SPLIT]
    return {"modes": f"sure members split evenly on {', '.join(told)}: as if of so many modes"} if told else {}


def _detection(inside: Tensor, outside: Tensor, bootstrap: Bootstrap, condition: Mapping[str, Any]) -> list[Measure]:
    counts = score_counts(-outside, -inside)
    names = ("auroc", "aupr", "fpr95", "aupr", "fpr95")
    swapped = {**condition, "positive": "inside"}
    conditions = (condition, condition, condition, swapped, swapped)
    values = _statistics(ScoreCounts(counts.positives[None], counts.negatives[None]))[0].tolist()
    facts = zip(names, values, bootstrap.detection(counts, _statistics), conditions, strict=True)
    return [
        measure(name, value, interval, bootstrap.words, count=len(inside) + len(outside), condition=where)
        for name, value, interval, where in facts
    ]


def _statistics(counts: ScoreCounts) -> Tensor:
    swapped = ScoreCounts(counts.negatives.flip(-1), counts.positives.flip(-1))
    return torch.stack([counts.auroc(), counts.aupr(), counts.fpr_at(0.95), swapped.aupr(), swapped.fpr_at(0.95)], -1)


def _histogram(inside: Tensor, outside: Tensor, condition: Mapping[str, Any]) -> Curve:
    """Shares of both kinds in bins of equal width."""
    low, high = (float(end) for end in torch.cat([inside, outside]).aminmax())
    high = high if high > low else low + 1e-6
    edges = torch.linspace(low, high, HISTOGRAM_BINS + 1, dtype=torch.float64)
    columns = {"centers": ((edges[1:] + edges[:-1]) / 2).tolist()}
    for kind, values in (("inside", inside), ("outside", outside)):
        counts = torch.histc(values.double(), HISTOGRAM_BINS, low, high)
        columns[kind] = (counts / len(values)).tolist()
    return Curve("score_histogram", columns, condition)
