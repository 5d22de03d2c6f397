"""Steps that act on every channel alike, moved before a concatenation of channels.

A nonlinearity after a concatenation has a limit: it is the concatenation of the nonlinearity of each branch. The same
holds for pooling, padding and sums of equally wide branches.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pluriform.infinite.activation.rule import activation
from pluriform.infinite.branch import concatenate, identity, residual_sum, scale
from pluriform.infinite.dropout import dropout
from pluriform.infinite.norm import affine
from pluriform.infinite.plan import Step
from pluriform.infinite.spatial import pad, pooling, respatial, select, transpose

__all__ = ["through_concatenations"]

CHANNELWISE = (activation, scale, identity, dropout, pooling, pad, respatial, select, transpose)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Branches that stand side by side in the channels of a node."""

    names: tuple[str, ...]
    widths: tuple[int, ...]


def through_concatenations(steps: Sequence[Step]) -> list[Step]:
    """Steps with what is alike for all channels done to branches first; records of nodes stay under their names."""
    known: dict[str, _Parts] = {}
    return [moved for step in steps for moved in _moved(step, known)]


def _moved(step: Step, known: dict[str, _Parts]) -> Iterator[Step]:
    function, facts = _rule(step)
    if function is concatenate:
        inside = [known.get(name, _Parts((name,), (width,))) for name, width in _widths(step, facts)]
        widths = tuple(width for parts in inside for width in parts.widths)
        known[step.name] = _Parts(tuple(name for parts in inside for name in parts.names), widths)
        yield step
        return
    parts = _alike([known.get(name) for name in step.inputs]) if _channelwise(function, facts) else None
    if parts is None:
        yield step
        return
    names = tuple(f"{step.name}#{place}" for place in range(len(parts[0].names)))
    for place, name in enumerate(names):
        yield dataclasses.replace(step, name=name, inputs=tuple(part.names[place] for part in parts))
    known[step.name] = _Parts(names, parts[0].widths)
    rule = partial(concatenate, widths=parts[0].widths)
    yield Step(step.name, names, rule, step.where, channel_axis=None)


def _rule(step: Step) -> tuple[object, dict]:
    if isinstance(step.rule, partial):
        return step.rule.func, step.rule.keywords
    return step.rule, {}


def _widths(step: Step, facts: dict) -> list[tuple[str, int]]:
    return list(zip(step.inputs, facts["widths"], strict=True))


def _channelwise(function: object, facts: dict) -> bool:
    return function in CHANNELWISE or function is residual_sum or (function is affine and facts["alike"])


def _alike(inputs: list[_Parts | None]) -> list[_Parts] | None:
    """Branches of all inputs, where all have them and they line up."""
    parts = [part for part in inputs if part is not None]
    return parts if len(parts) == len(inputs) and len({part.widths for part in parts}) == 1 else None
