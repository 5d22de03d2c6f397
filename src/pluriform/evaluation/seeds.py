"""`combine`: one result from several seeds of the same form, with intervals over the seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pluriform.errors import ConfigError, explain
from pluriform.result import Curve, Measure, Result

__all__ = ["combine"]

FITTED = frozenset({"temperature", "variance_scale"})
AVERAGED = {"robustness": "eps", "risk_coverage": "coverage"}


def combine(results: Sequence[Result]) -> Result:
    """Means over seeds with 95 % t-intervals; `interval` says over how many.

    Curves over a fixed axis are averaged, reliability diagrams are pooled, others and pictures are those of the first
    seed. Roll-backs of all trainings are told. Seeds that gave no figures are left out and counted in the protocol.

    Args:
        results: Of the same form, network and data, each with another seed.

    Returns:
        One result; the only one, unchanged, where a single one was given.

    Raises:
        ConfigError: Results of different forms, networks or data, or a seed twice.

    References:
        Student, 1908, The probable error of a mean.
    """
    _check(results)
    good = [result for result in results if result.status == "ok"]
    if len(results) == 1 or not good:
        return results[0]
    words = f"over {len(good)} seeds"
    groups: dict[Any, list[Measure]] = {}
    for result in good:
        for found in result.measures:
            groups.setdefault((found.name, _key(found.condition)), []).append(found)
    protocol = {**good[0].protocol, "seeds": [result.seed for result in good], "intervals": f"95 % t-interval {words}"}
    if len(good) < len(results):
        protocol["seeds_without_figures"] = [result.seed for result in results if result.status != "ok"]
    protocol |= _roll_backs(good)
    measures = tuple(_mean(group) for group in groups.values())
    return replace(good[0], measures=measures, curves=_curves(good), protocol=protocol)


def _roll_backs(results: Sequence[Result]) -> dict[str, Any]:
    told = [(result.seed, result.protocol["roll_backs"]) for result in results if "roll_backs" in result.protocol]
    if not told:
        return {}
    events = [f"seed {seed}, {event}" for seed, found in told for event in found.get("events", ())]
    count = sum(found["count"] for _, found in told)
    return {"roll_backs": {"trainings": len(told), "count": count, **({"events": events} if events else {})}}


def _check(results: Sequence[Result]) -> None:
    kinds = {(result.form, result.network, result.data.get("name")) for result in results}
    seeds = [result.seed for result in results]
    if len(kinds) == 1 and len(set(seeds)) == len(seeds):
        return
    got = f"{len(kinds)} different kinds" if len(kinds) != 1 else f"seeds {seeds}"
    raise ConfigError(
        explain("results of one form, network and data, each with its own seed", got, "combine", "group them first")
    )


def _key(condition: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A condition without what every seed fits anew."""
    return tuple(sorted((name, "" if name in FITTED else repr(value)) for name, value in condition.items()))


def _mean_condition(conditions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged = dict(conditions[0])
    for name in merged.keys() & FITTED:
        merged[name] = sum(where[name] for where in conditions) / len(conditions)
    return merged


def _mean(group: Sequence[Measure]) -> Measure:
    values = [found.value for found in group]
    mean = sum(values) / len(values)
    condition = _mean_condition([found.condition for found in group])
    if len(values) == 1:
        return replace(group[0], low=None, high=None, count=1, condition=condition, interval="")
    from scipy.stats import t

    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(t.ppf(0.975, len(values) - 1)) * (variance / len(values)) ** 0.5
    interval = f"over {len(values)} seeds"
    return replace(
        group[0],
        value=mean,
        low=mean - half,
        high=mean + half,
        count=len(values),
        condition=condition,
        interval=interval,
    )


def _curves(results: Sequence[Result]) -> tuple[Curve, ...]:
    combined = []
    for curve in results[0].curves:
        twins = [
            twin
            for result in results
            for twin in result.curves
            if twin.name == curve.name and _key(twin.condition) == _key(curve.condition)
        ]
        combined.append(_combined(twins))
    return tuple(combined)


def _combined(twins: Sequence[Curve]) -> Curve:
    first = twins[0]
    condition = _mean_condition([twin.condition for twin in twins])
    axis = AVERAGED.get(first.name)
    if axis is not None and all(twin.columns[axis] == first.columns[axis] for twin in twins):
        kept = {name for name in first.columns if name not in ("low", "high")}
        columns = {name: _average([twin.columns[name] for twin in twins]) for name in first.columns if name in kept}
        return Curve(first.name, columns, condition)
    if first.name == "reliability":
        return Curve(first.name, _pooled(twins), condition)
    return first


def _average(columns: Sequence[list[float]]) -> list[float]:
    return [sum(row) / len(row) for row in zip(*columns, strict=True)]


def _pooled(twins: Sequence[Curve]) -> dict[str, list[float]]:
    counts = [float(sum(row)) for row in zip(*(twin.columns["count"] for twin in twins), strict=True)]
    pooled: dict[str, list[float]] = {}
    for name in ("confidence", "accuracy"):
        plain = _average([twin.columns[name] for twin in twins])
        weighted = [[a * n for a, n in zip(twin.columns[name], twin.columns["count"], strict=True)] for twin in twins]
        sums = [sum(row) for row in zip(*weighted, strict=True)]
        pooled[name] = [total / n if n else other for total, n, other in zip(sums, counts, plain, strict=True)]
    return {**pooled, "count": counts}
