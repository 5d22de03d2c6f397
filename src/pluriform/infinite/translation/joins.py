"""Steps that join branches: sums, products, concatenations; and combinations with a number."""

from functools import partial
from typing import Any

import torch

from pluriform.graph.ops import Op
from pluriform.infinite.branch import concatenate, concatenate_positions, product, residual_sum, scale
from pluriform.infinite.norm import fixed_affine
from pluriform.infinite.plan import Step
from pluriform.infinite.translation.place import Place

__all__ = ["concat_step", "constant_of", "join_step"]


def join_step(place: Place, _: Any) -> Step:
    """Sum, difference or product of branches, or of one branch with a number."""
    multiplies, constant = place.node.op is Op.MULTIPLY, constant_of(place)
    if len(place.inputs) == 1 and constant is not None and place.node.op is not Op.DIVIDE:
        if multiplies:
            return place.step(partial(scale, factor=constant))
        shift = torch.tensor([constant * float(place.fact("alpha", 1))])
        return place.step(fixed_affine(torch.ones(1), shift), centres=True)
    if place.node.op is Op.DIVIDE and constant and place.node.inputs[0] == place.inputs[0]:
        return place.step(partial(scale, factor=1 / constant))
    if len(place.inputs) < 2 or place.node.op is Op.DIVIDE:
        raise place.refuse(
            "branches of the network, or a branch and a number",
            f"{place.node.op.value} with something else, such as a trainable tensor",
            "leave it out, or join branches of the network only",
        )
    if place.shape(0) != place.shape(1):
        raise place.refuse(
            "branches of one shape",
            f"{place.shape(0)} and {place.shape(1)}",
            "make both branches equally wide and large: broadcasting has no rule here",
        )
    if place.fact("alpha", 1) != 1:
        raise place.refuse("alpha=1", f"alpha={place.fact('alpha')}", "multiply the branch before adding it")
    axis = None if len(place.shape()) == 2 else place.channel_axis
    if multiplies:
        return place.step(product, joins="product", channel_axis=axis)
    return place.step(residual_sum, joins="sum", channel_axis=axis)


def constant_of(place: Place) -> float | None:
    """The number that a branch is combined with."""
    if isinstance(place.fact("scalar"), int | float):
        return float(place.fact("scalar"))
    tensors = [
        Place.tensor(place.graph, place.graph[n]) for n in place.node.inputs if place.graph[n].op is Op.PARAMETER
    ]
    if len(tensors) == 1 and tensors[0].numel() == 1 and not tensors[0].requires_grad:
        return float(tensors[0])
    return None


def concat_step(place: Place, _: Any) -> Step:
    """Concatenation of channels or of positions."""
    shapes, dim = [place.shape(i) for i in range(len(place.inputs))], int(place.fact("dim"))
    lengths = tuple(shape[dim] for shape in shapes)
    if dim == 0:
        raise place.refuse("a concatenation of channels or positions", "one of samples", "pass samples one by one")
    if dim == place.channel:
        axis = None if len(shapes[0]) == 2 else place.channel_axis
        return place.step(partial(concatenate, widths=lengths), channel_axis=axis)
    rule = partial(concatenate_positions, axis=place.positions.index(dim))
    return place.step(rule, joins="sum", uneven=True, channel_axis=place.channel_axis)
