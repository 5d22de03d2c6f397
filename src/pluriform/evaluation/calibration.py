"""Calibration as it is, and after one temperature fitted on validation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pluriform.evaluation.bootstrap import Bootstrap, Interval
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject
from pluriform.metrics.calibration import (
    TEMPERATURE_RANGE,
    calibration_gap,
    confidence_bins,
    ece,
    fit_temperature,
    reliability,
    with_temperature,
)
from pluriform.metrics.classification import correct, nll_terms
from pluriform.metrics.uncertainty import max_probability
from pluriform.result import Curve, Measure

__all__ = ["measure_calibration"]


def measure_calibration(subject: Subject, bins: int = 15) -> Findings:
    """`ece`, `calibration_gap` and the curve `reliability`, plain and under the condition `{"temperature": T}`.

    The `nll` at that temperature is given too, since rankings by NLL mean little before calibration. ECE over bins of
    equal mass carries the condition `{"bins": "equal mass"}`.

    Args:
        subject: The form and its answers.
        bins: Bins of the largest probability.
    """
    p, labels, bootstrap = subject.test.prediction.mean, subject.test.targets, subject.bootstrap
    measures = _figures(p, labels, bins, bootstrap, {})
    measures.append(_ece(p, labels, bins, bootstrap, {"bins": "equal mass"}, adaptive=True))
    curves = [_diagram(p, labels, bins, {})]
    protocol: dict[str, Any] = {"bins": bins, "spacing": "equal width", "confidence": "largest probability"}
    protocol["ece_interval"] = "bootstrap, moved by the bias of resampling"
    if subject.validation is not None:
        temperature = fit_temperature(subject.validation.prediction.mean, subject.validation.targets)
        condition = {"temperature": temperature}
        tempered = with_temperature(p, temperature)
        measures += _figures(tempered, labels, bins, bootstrap, condition)
        terms = nll_terms(tempered, labels)[:, None]
        interval = bootstrap.means(terms)[0]
        measures.append(
            measure("nll", float(terms.mean()), interval, bootstrap.words, count=len(labels), condition=condition)
        )
        curves.append(_diagram(tempered, labels, bins, condition))
        protocol["temperature"] = {
            "value": temperature,
            "fitted_on": f"validation, {len(subject.validation)} samples",
            "range": list(TEMPERATURE_RANGE),
            "prior": "log T standard normal, the weight of less than one sample",
        }
    return Findings(tuple(measures), tuple(curves), {"calibration": protocol})


def _figures(p: Tensor, labels: Tensor, bins: int, bootstrap: Bootstrap, condition: Mapping[str, Any]) -> list[Measure]:
    gap = max_probability(p) - correct(p, labels)
    interval = bootstrap.means(gap[:, None])[0]
    facts: dict[str, Any] = {"count": len(labels), "condition": condition}
    return [
        _ece(p, labels, bins, bootstrap, condition),
        measure("calibration_gap", calibration_gap(p, labels), interval, bootstrap.words, **facts),
    ]


def _ece(
    p: Tensor,
    labels: Tensor,
    bins: int,
    bootstrap: Bootstrap,
    condition: Mapping[str, Any],
    adaptive: bool = False,
) -> Measure:
    confidence = max_probability(p)
    value = ece(p, labels, bins, adaptive)
    index = confidence_bins(confidence, bins, adaptive)
    interval = _ece_interval(confidence - correct(p, labels), index, bins, value, bootstrap)
    return measure("ece", value, interval, bootstrap.words, count=len(labels), condition=condition)


def _ece_interval(gap: Tensor, index: Tensor, bins: int, value: float, bootstrap: Bootstrap) -> Interval:
    """ECE of a resample is `sum_b |sum of the gaps in bin b| / n`: one matrix product for all resamples.

    Resampling adds noise to every bin and so raises ECE; the mean rise is taken back.
    """
    spread = torch.zeros(len(gap), bins)
    spread[torch.arange(len(gap)), index] = gap.float()
    drawn = bootstrap.statistics(len(gap), lambda counts: (counts @ spread).abs().sum(1, keepdim=True) / len(gap))
    return bootstrap.intervals(drawn - drawn.mean() + value, 0.0, 1.0)[0]


def _diagram(p: Tensor, labels: Tensor, bins: int, condition: Mapping[str, Any]) -> Curve:
    diagram = reliability(p, labels, bins)
    columns = {name: getattr(diagram, name).tolist() for name in ("confidence", "accuracy", "count")}
    return Curve("reliability", columns, condition)
