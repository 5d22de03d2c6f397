"""`Plan`: the rules of a network in order, with what each demands of its inputs."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pluriform.errors import UnsupportedOpError, explain
from pluriform.infinite.features import input_kernel
from pluriform.infinite.kernel import Kernel, Layout

__all__ = ["Plan", "Step", "dry_run", "propagate"]

Demand = Literal["same", "full", "diagonal"]


@dataclass(frozen=True, eq=False)
class Step:
    """One node with its rule.

    Attributes:
        name: Name of the node.
        inputs: Nodes that it takes records of.
        rule: Maps their records to one: a function of this room, or a `functools.partial` of one, so that the fused
            engine can read which and with what facts.
        where: Node, module path and source line, for messages.
        demand: Pairs of positions that the rule needs of its inputs: those it is asked for (`"same"`), all, or equal
            ones.
        weighted: Has weights of its own, so that its output is independent of all else.
        bends: A nonlinearity: needs Gaussian units.
        centres: Needs units of mean zero.
        joins: Needs independent branches.
        uneven: Takes branches of different spatial sizes.
        channel_axis: Where the layer expects channels; `None` where it does not care.
    """

    name: str
    inputs: tuple[str, ...]
    rule: Callable[..., Kernel]
    where: str
    demand: Demand = "same"
    weighted: bool = False
    bends: bool = False
    centres: bool = False
    joins: Literal["sum", "product"] | None = None
    uneven: bool = False
    channel_axis: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A network as steps.

    Attributes:
        steps: In order; the last one is the output.
        features: Computes what is deterministic given the input (the input itself, a flattened or normalised one), by
            name, for the nodes that steps take as inputs.
    """

    steps: tuple[Step, ...]
    features: Callable[[Tensor], dict[str, Tensor]]

    def layouts(self) -> dict[str, Layout]:
        """Layout of every node: full where anything that follows mixes positions, else diagonal.

        A pass from the output backwards; the output itself has no positions.
        """
        asked: dict[str, Layout] = {self.steps[-1].name: "diagonal"}
        for step in reversed(self.steps):
            own = asked.setdefault(step.name, "diagonal")
            wanted: Layout = own if step.demand == "same" else step.demand
            for name in step.inputs:
                if asked.get(name) != "full":
                    asked[name] = wanted
        return asked

    def check_branches(self) -> None:
        """Refuse sums and products of branches that share their last layer with weights.

        Raises:
            UnsupportedOpError: Such a node exists.
        """
        heads: dict[str, frozenset[str]] = {}
        for step in self.steps:
            branches = [heads.get(name, frozenset({f"input {name}"})) for name in step.inputs]
            if step.joins:
                _check_disjoint(step, branches)
            heads[step.name] = frozenset({step.name}) if step.weighted else frozenset().union(*branches)


def _check_disjoint(step: Step, branches: list[frozenset[str]]) -> None:
    for position, branch in enumerate(branches):
        for other in branches[:position]:
            if shared := sorted(branch & other):
                raise UnsupportedOpError(
                    explain(
                        f"a {step.joins} of independent branches",
                        f"branches that share {', '.join(shared)} with no layer of weights of their own after it",
                        step.where,
                        "end every branch but one in its own linear or convolutional layer",
                    )
                )


def propagate(plan: Plan, x1: Tensor, x2: Tensor, *, same: bool, ntk: bool) -> Kernel:
    """Apply every rule in order.

    Args:
        plan: The network.
        x1: First inputs, `(n1, *input_shape)`.
        x2: Second inputs; `x1` itself where `same`.
        same: Whether both sides are the same samples.
        ntk: Whether to carry the NTK.

    Returns:
        The record of the output.

    Raises:
        UnsupportedOpError: A rule meets units that it has no limit for.
    """
    layouts, last_use = plan.layouts(), {name: step for step in plan.steps for name in step.inputs}
    first = plan.features(x1)
    second = first if same else plan.features(x2)
    records: dict[str, Kernel] = {}
    for step in plan.steps:
        wanted: Layout = layouts[step.name] if step.demand == "same" else step.demand
        taken = []
        for name in step.inputs:
            if name in records:
                record = records[name]
            else:
                axis = step.channel_axis or 1
                record = input_kernel(first[name], second[name], same=same, ntk=ntk, layout=wanted, channel_axis=axis)
            taken.append(record.diagonal() if wanted == "diagonal" else record)
        for name in {name for name in step.inputs if last_use[name] is step}:
            records.pop(name, None)
        _check(step, taken)
        record = step.rule(*taken)
        records[step.name] = record.diagonal() if layouts[step.name] == "diagonal" else record
    return records[plan.steps[-1].name]


def _check(step: Step, taken: list[Kernel]) -> None:
    expected = got = remedy = ""
    if step.bends and not taken[0].gaussian:
        expected = "Gaussian units before a nonlinearity"
        got = (
            "units that are not: a nonlinearity, a sum or concatenation with a branch that ends in one, or a layer "
            "that keeps channels apart comes before"
        )
        remedy = "put a linear or convolutional layer before it, as residual blocks with pre-activation do"
    elif step.centres and not taken[0].zero_mean:
        expected, got = "units of mean zero before a layer that subtracts the mean", "units after a nonlinearity"
        remedy = "put a linear or convolutional layer before it, or use RMSNorm"
    elif step.joins == "sum" and sum(not record.zero_mean for record in taken) > 1:
        expected, got = "at most one branch of a sum whose units have a mean", "two of them"
        remedy = "end the other branches in a linear or convolutional layer"
    elif step.channel_axis is not None and taken[0].spatial and taken[0].channel_axis != step.channel_axis:
        expected, got = "channels where the layers before have them", "a layer that takes positions for channels"
        remedy = "flatten before the linear layer"
    elif not step.uneven and len({record.spatial for record in taken}) > 1:
        expected, got = "branches of the same spatial size", " and ".join(str(record.spatial) for record in taken)
        remedy = "expand the smaller branch by hand; broadcasting over positions has no rule here"
    if expected:
        raise UnsupportedOpError(explain(expected, got, step.where, remedy))


@dataclass(frozen=True, eq=False)
class DryRun:
    """What is known of a plan without numbers: the record of the output, and the most entries a pair needs."""

    output: Kernel
    entries: int


def dry_run(plan: Plan, example: Tensor) -> DryRun:
    """Propagate shapes alone, on the meta device, so that every check has spoken before a kernel is asked for."""
    shapes = {name: torch.empty_like(value, device="meta") for name, value in plan.features(example).items()}
    sizes = [1]

    def watched(step: Step) -> Step:
        def rule(*records: Kernel) -> Kernel:
            record = step.rule(*records)
            sizes.extend(part.nngp.shape[2:].numel() for part in (*records, record))
            return record

        return dataclasses.replace(step, rule=rule)

    watching = Plan(tuple(watched(step) for step in plan.steps), lambda _: shapes)
    output = propagate(watching, example, example, same=True, ntk=True)
    return DryRun(output, max(sizes))
