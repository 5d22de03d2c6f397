"""What a form that was found by a search tells of it: the tree of trials, what was expected of them, what they cost."""

from collections.abc import Mapping
from typing import Any

from pluriform.evaluation.findings import Findings
from pluriform.evaluation.subject import Subject

__all__ = ["measure_search"]


def measure_search(subject: Subject) -> Findings:
    """Facts of the search, as they are, under `search` in the protocol; none where no form tells of one.

    Forms of `MorphismSearch` carry a mapping `facts` with `trials` and `strategy`.
    """
    facts: Mapping[str, Any] = getattr(subject.form, "facts", None) or {}
    if "trials" not in facts or "strategy" not in facts:
        return Findings()
    return Findings(protocol={"search": dict(facts)})
