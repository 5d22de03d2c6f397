"""What a form that learned from a wide network tells of it: costs side by side, imitation, and the merge."""

from collections.abc import Mapping
from typing import Any

from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject
from pluriform.result import Measure

__all__ = ["measure_narrowing"]

KEPT = ("networks", "explained", "merge", "cost")


def measure_narrowing(subject: Subject) -> Findings:
    """Costs of the wide network, and how much of its variance each unit explains; none where no form tells of them.

    Forms of `WideThenNarrow` and of its rivals carry a mapping `facts`.
    """
    facts: Mapping[str, Any] = getattr(subject.form, "facts", None) or {}
    if "networks" not in facts:
        return Findings()
    wide = facts["networks"]["wide"]
    measures: list[Measure] = [
        measure("wide_parameters", float(wide["parameters"]), unit="parameters"),
        measure("wide_macs", float(wide["macs"]), unit="MAC"),
        *(
            measure("wide_latency", float(value), unit="ms", condition={"batch": int(size)})
            for size, value in wide["latency"].items()
        ),
        measure(
            "wide_peak_memory", float(wide["memory"]), unit="MiB", condition={"batch": max(map(int, wide["latency"]))}
        ),
    ]
    units = facts.get("explained", {})
    measures += [
        measure("explained_variance", float(share), condition={"unit": place, "end": end})
        for place, (end, share) in enumerate(units.items(), 1)
        if end != "output"  # The last unit is compared by its class probabilities.
    ]
    protocol = {
        "latency_of_networks": "median of calls of the networks in turns, in ms, by samples a call",
        "thin_passes": "forward and backward, units by their share of the thin network",
        **{name: facts[name] for name in KEPT if name in facts},
    }
    return Findings(tuple(measures), (), {"wide_then_narrow": protocol})
