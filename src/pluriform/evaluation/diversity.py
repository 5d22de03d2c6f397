"""How the members of an ensemble do alone, and how much they differ."""

import torch

from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject
from pluriform.metrics.classification import correct, nll_terms
from pluriform.metrics.uncertainty import disagreement

__all__ = ["measure_diversity"]


def measure_diversity(subject: Subject) -> Findings:
    """`member_accuracy` and `member_nll`, the means over members, and `disagreement`; nothing for a single network.

    The gain of the ensemble is `member_nll - nll`, at least 0 by Jensen's inequality.
    """
    members, labels, bootstrap = subject.test.prediction.members, subject.test.targets, subject.bootstrap
    if members is None or len(members) < 2:
        return Findings()
    columns = {
        "member_accuracy": torch.stack([correct(p, labels) for p in members]).mean(0),
        "member_nll": torch.stack([nll_terms(p, labels) for p in members]).mean(0),
        "disagreement": disagreement(members),
    }
    terms = torch.stack(list(columns.values()), 1)
    facts = zip(columns, terms.mean(0).tolist(), bootstrap.means(terms), strict=True)
    measures = [measure(name, value, span, bootstrap.words, count=len(labels)) for name, value, span in facts]
    return Findings(tuple(measures), (), {"diversity": {"members": len(members), "pairs": "most probable class"}})
