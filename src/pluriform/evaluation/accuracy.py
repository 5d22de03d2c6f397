"""Accuracy, likelihood, Brier score and selective risk on the test split."""

import torch
from torch import Tensor

from pluriform.evaluation.bootstrap import Bootstrap, Interval
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject
from pluriform.metrics.classification import LOG_FLOOR, brier_terms, correct, nll_terms
from pluriform.metrics.selective import RiskCoverage, risk_coverage
from pluriform.metrics.uncertainty import max_probability
from pluriform.result import Curve

__all__ = ["measure_accuracy"]

CURVE_POINTS = 200


def measure_accuracy(subject: Subject) -> Findings:
    """`accuracy`, `nll`, `brier` and `aurc` with bootstrap intervals, and the curve `risk_coverage`."""
    p, labels, bootstrap = subject.test.prediction.mean, subject.test.targets, subject.bootstrap
    terms = torch.stack([correct(p, labels), nll_terms(p, labels), brier_terms(p, labels)], 1)
    measures = [
        measure(name, value, interval, bootstrap.words, count=len(labels))
        for name, value, interval in zip(
            ("accuracy", "nll", "brier"), terms.mean(0).tolist(), bootstrap.means(terms), strict=True
        )
    ]
    confidence, errors = max_probability(p), 1 - terms[:, 0]
    curve = risk_coverage(confidence, errors)
    interval = _aurc_interval(confidence, errors, bootstrap)
    measures.append(measure("aurc", float(curve.risk.mean()), interval, bootstrap.words, count=len(labels)))
    protocol = {
        "samples": len(labels),
        "split": "test",
        "probability_floor": LOG_FLOOR,
        "brier": "sum over classes, 0 to 2",
        "aurc": "mean selective risk, ranked by the largest probability, ties shared",
        "intervals": bootstrap.words,
        "bootstrap_seed": bootstrap.seed,
    }
    return Findings(tuple(measures), (_thinned(curve),), {"accuracy": protocol})


def _aurc_interval(confidence: Tensor, errors: Tensor, bootstrap: Bootstrap) -> Interval:
    """Samples of equal confidence stay in their drawn order here: only the point value shares them out."""
    wrong = errors[confidence.argsort(descending=True, stable=True)].float()

    def statistic(counts: Tensor) -> Tensor:
        kept = counts.cumsum(1)
        risk = (counts * wrong).cumsum(1) / kept.clamp_min(1)
        return ((counts * risk).sum(1) / kept[:, -1])[:, None]

    return bootstrap.intervals(bootstrap.statistics(len(wrong), statistic), 0.0, 1.0)[0]


def _thinned(curve: RiskCoverage) -> Curve:
    size = len(curve.risk)
    kept = torch.linspace(0, size - 1, min(size, CURVE_POINTS), dtype=torch.float64).round().long()
    return Curve("risk_coverage", {"coverage": curve.coverage[kept].tolist(), "risk": curve.risk[kept].tolist()})
