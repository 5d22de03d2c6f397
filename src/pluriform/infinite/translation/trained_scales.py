"""Trained scales of normalisation layers with a nonlinearity behind them.

A scale that starts at 1 adds the second moment of its units to the NTK where a layer with weights follows. With a
nonlinearity between, its part is that of `x phi'(x)`, which is no product of the two moments.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from pluriform.errors import UnsupportedOpError, explain
from pluriform.infinite.activation.rule import activation, activation_of_trained_scale
from pluriform.infinite.activation.tilted import tilted_dual
from pluriform.infinite.branch import gated, identity
from pluriform.infinite.norm import layer_norm, trained_affine
from pluriform.infinite.plan import Step

__all__ = ["with_trained_scales"]


def with_trained_scales(steps: Sequence[Step]) -> list[Step]:
    """Steps in which every nonlinearity behind a trained scale takes its part into the NTK.

    Raises:
        UnsupportedOpError: Something else comes between, or the nonlinearity has no such part here.
    """
    pending: dict[str, Step] = {}
    return [new for step in steps for new in _taken(step, pending)]


def _taken(step: Step, pending: dict[str, Step]) -> Iterator[Step]:
    function, facts = _rule(step)
    source = next((pending[name] for name in step.inputs if name in pending), None)
    if function in (activation, gated) and source is not None:
        yield from _bent(step, facts, source)
        return
    if source is not None and (not step.weighted or function is identity):
        pending[step.name] = source
    if function in (layer_norm, trained_affine) and facts.get("weight_rate"):
        pending[step.name] = step
    yield step


def _bent(step: Step, facts: dict[str, Any], source: Step) -> Iterator[Step]:
    tilted = tilted_dual(facts["dual"]) if "dual" in facts and step.inputs == (source.name,) else None
    if tilted is None:
        raise UnsupportedOpError(
            explain(
                "a trained scale with a layer with weights behind it, or a smooth nonlinearity at once",
                f"the trained scale of {source.where} before something else",
                step.where,
                "freeze its weight with requires_grad_(False), or use parameterization='ntk'",
            )
        )
    function, known = _rule(source)
    fixed = dataclasses.replace(
        source, name=f"{step.name}~fixed", rule=partial(function, **{**known, "weight_rate": 0.0})
    )
    yield fixed
    rule = partial(activation_of_trained_scale, dual=facts["dual"], tilted=tilted, rate=known["weight_rate"])
    yield dataclasses.replace(step, inputs=(fixed.name,), rule=rule)


def _rule(step: Step) -> tuple[Any, dict[str, Any]]:
    return (step.rule.func, step.rule.keywords) if isinstance(step.rule, partial) else (step.rule, {})
