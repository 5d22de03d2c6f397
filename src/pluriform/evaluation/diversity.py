"""How the members of an ensemble do alone, how much they differ, and whether they are an ensemble at all."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject
from pluriform.metrics.classification import correct, nll_terms
from pluriform.metrics.collapse import Verdict, judge_diversity, judge_spread
from pluriform.metrics.diversity import WeightDiversity, ensemble_gain, error_correlation, weight_diversity
from pluriform.metrics.regression import squared_errors
from pluriform.metrics.uncertainty import disagreement, mutual_information
from pluriform.prediction import Predictor
from pluriform.result import Curve, Measure

__all__ = ["measure_diversity", "member_weights"]


def measure_diversity(subject: Subject) -> Findings:
    """What members do alone and how they differ on the test split, with a verdict; the curve `diversity_history`.

    Classification: `member_accuracy`, `member_nll` (means over members), `ensemble_gain` (`member_nll - nll`, at least
    0 by Jensen's inequality), `disagreement`, `mutual_information`, with bootstrap intervals, and `error_correlation`
    where it exists. Regression: `member_rmse` and `member_spread`, the standard deviation over members. Both:
    `effective_rank` of what members say, and of their weights, where a form gives them as `member_weights()` or
    `members`: `weight_spread` (each tensor's under the condition `layer`), `weight_distance`, `weight_cosine`.
    `collapsed` is 1 where the members are one network, else 0; the protocol says the verdict in words. Nothing of this
    is measured for a single network.

    A form that keeps columns of figures through training as `history` has them as a curve.
    """
    curves = _history(getattr(subject.form, "history", None))
    members = subject.test.prediction.members
    if members is None or len(members) < 2:
        return Findings((), curves)
    stacked = member_weights(subject.form)
    weights = weight_diversity(stacked) if stacked else None
    classes = subject.data.task == "classification"
    measures, verdict = (_classification if classes else _regression)(subject, members, weights)
    measures += [
        measure("effective_rank", verdict.effective_rank, condition={"of": "probabilities" if classes else "means"}),
        measure("collapsed", float(verdict.kind == "collapsed")),
        *_weights(weights),
    ]
    protocol = {
        "members": len(members),
        "verdict": verdict.words,
        "disagreement": "pairs whose most probable class differs",
        "error_correlation": "Pearson, of the pairs of members that both err somewhere",
        "weights": "parameters of every member" if weights else "the form does not give those of its members",
    }
    return Findings(tuple(measures), curves, {"diversity": protocol})


def _classification(
    subject: Subject, members: Tensor, weights: WeightDiversity | None
) -> tuple[list[Measure], Verdict]:
    labels, bootstrap = subject.test.targets, subject.bootstrap
    columns = {
        "member_accuracy": torch.stack([correct(p, labels) for p in members]).mean(0),
        "member_nll": torch.stack([nll_terms(p, labels) for p in members]).mean(0),
        "ensemble_gain": ensemble_gain(members, labels),
        "disagreement": disagreement(members),
        "mutual_information": mutual_information(members),
    }
    terms = torch.stack(list(columns.values()), 1)
    facts = zip(columns, terms.mean(0).tolist(), bootstrap.means(terms), strict=True)
    measures = [measure(name, value, span, bootstrap.words, count=len(labels)) for name, value, span in facts]
    correlation = error_correlation(members, labels)
    if correlation == correlation:
        measures.append(measure("error_correlation", correlation, count=len(labels)))
    return measures, judge_diversity(members, labels, weights)


def _regression(subject: Subject, members: Tensor, weights: WeightDiversity | None) -> tuple[list[Measure], Verdict]:
    targets = subject.test.targets.reshape(members[0].shape)
    errors = torch.stack([squared_errors(mean, targets).mean().sqrt() for mean in members])
    spread = members.double().var(0).mean().sqrt()
    count = len(targets)
    measures = [
        measure("member_rmse", float(errors.mean()), count=count),
        measure("member_spread", float(spread), count=count),
    ]
    return measures, judge_spread(members, targets, weights)


def _weights(weights: WeightDiversity | None) -> list[Measure]:
    if weights is None:
        return []
    each = [measure("weight_spread", value, condition={"layer": name}) for name, value in weights.spread.items()]
    return [
        measure("weight_distance", weights.distance),
        measure("weight_cosine", weights.cosine),
        measure("effective_rank", weights.effective_rank, condition={"of": "weights"}),
        measure("weight_spread", weights.mean_spread),
        *each,
    ]


def member_weights(form: Predictor) -> Mapping[str, Tensor]:
    """Parameters of every member by name, `(member, *shape)`; empty where the form does not give them.

    Running statistics are no parameters: they follow from weights and data.
    """
    given: Any = getattr(form, "member_weights", None)
    if given is not None:
        template = getattr(form, "template", None)
        statistics = {name for name, _ in template.named_buffers()} if isinstance(template, nn.Module) else set()
        return {name: value for name, value in given().items() if name not in statistics}
    members = getattr(form, "members", None)
    if not isinstance(members, nn.ModuleList) or len({type(member) for member in members}) != 1:
        return {}
    return _stacked([dict(member.named_parameters()) for member in members])


@torch.no_grad()
def _stacked(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    shapes = [{name: weight.shape for name, weight in member.items()} for member in members]
    if any(shape != shapes[0] for shape in shapes):
        return {}
    return {name: torch.stack([member[name] for member in members]) for name in shapes[0]}


def _history(history: Any) -> tuple[Curve, ...]:
    """The columns as a curve; single numbers, and the last epoch marked in a column `kept`, become its condition."""
    if not isinstance(history, Mapping) or "epoch" not in history:
        return ()
    size = len(history["epoch"])
    columns = {name: list(values) for name, values in history.items() if isinstance(values, Iterable)}
    columns = {name: values for name, values in columns.items() if len(values) == size and any(map(_number, values))}
    condition = {name: value for name, value in history.items() if _number(value)}
    marked = [epoch for epoch, kept in zip(history["epoch"], columns.pop("kept", []), strict=False) if kept]
    condition |= {"kept": marked[-1]} if marked else {}
    rows = [i for i in range(size) if all(_number(values[i]) for values in columns.values())]
    told = {name: [float(values[i]) for i in rows] for name, values in columns.items()}
    return (Curve("diversity_history", told, condition),) if rows and len(told) > 1 else ()


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")
