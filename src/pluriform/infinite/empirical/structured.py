"""Structured derivatives: the NTK layer by layer, from inputs and output cotangents of layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.capture import Captured, capture
from pluriform.infinite.empirical.contraction import Over, contract
from pluriform.infinite.empirical.jacobian import jacobian
from pluriform.infinite.empirical.layer import Layer, layers_of
from pluriform.infinite.empirical.layer_ntk import bilinear_ntk
from pluriform.infinite.empirical.subject import Subject

__all__ = ["Side", "StructuredDerivatives"]


@dataclass(frozen=True, eq=False)
class Side:
    """What one batch contributes.

    Attributes:
        captured: Inputs and cotangents of layers, by node.
        gradients: Gradients of the parameters that no layer claims, `(n, outputs, size)`, by name.
    """

    captured: dict[str, Captured]
    gradients: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class StructuredDerivatives:
    """The NTK as a sum over layers, each contracted in the cheapest order.

        Theta = sum_layers sum_pp' (a_p . a'_p') (b_p . b'_p')

    Time `N O` backward passes without gradients of weights, and the contractions; parameters that are used at several
    places, or by an operation without such a form, take explicit gradients of that parameter alone.

    Attributes:
        subject: The network.
        scales: Factor of the contribution of a parameter, by name; 1 for the others.

    References:
        Novak, Sohl-Dickstein, Schoenholz 2022, Fast Finite Width Neural Tangent Kernel, arXiv:2206.08720.
    """

    subject: Subject
    scales: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Layers with structure."""
        return layers_of(self.subject.graph, self.subject.parameters)

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Parameters that no layer claims."""
        claimed = {name for layer in self.layers for name in layer.names}
        return tuple(name for name in self.subject.parameters if name not in claimed)

    def side(self, x: Tensor, block: slice) -> Side:
        """One forward pass, and one backward pass for each output."""
        captured = capture(self.subject.graph, self.layers, x, block) if self.layers else {}
        gradients = jacobian(self.subject, x, self.others, block) if self.others else {}
        return Side(captured, {name: part.flatten(2) for name, part in gradients.items()})

    def kernel(self, left: Side, right: Side, over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
        """The NTK of two batches."""
        parts = [self.scales.get(name, 1.0) * part for name, part in self.parts(left, right, over)]
        return sum(parts[1:], parts[0])

    def parts(self, left: Side, right: Side, over: Over) -> Iterator[tuple[str, Tensor]]:
        """The contribution of every parameter, by name."""
        for layer in self.layers:
            one, two = left.captured[layer.node.name], right.captured[layer.node.name]
            if layer.weight is not None:
                yield layer.weight, _weight_ntk(layer, one, two, over)
            if layer.bias is not None:
                first = layer.reduced(one.b)
                yield layer.bias, contract(first, first if one is two else layer.reduced(two.b), over)
        for name in self.others:
            yield name, contract(left.gradients[name], right.gradients[name], over)


def _weight_ntk(layer: Layer, left: Captured, right: Captured, over: Over) -> Tensor:
    if layer.kind == "norm":
        first = layer.reduced(left.b * layer.normalised(left.a)[:, None])
        second = first if left is right else layer.reduced(right.b * layer.normalised(right.a)[:, None])
        return contract(first, second, over)
    first = layer.factors(left.a, left.b)
    return bilinear_ntk(first, first if left is right else layer.factors(right.a, right.b), over)
