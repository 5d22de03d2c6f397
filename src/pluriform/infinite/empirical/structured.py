"""Structured derivatives: the NTK layer by layer, from inputs and output cotangents of layers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.capture import Recording, cotangents, record
from pluriform.infinite.empirical.contraction import Over, contract
from pluriform.infinite.empirical.jacobian import jacobian
from pluriform.infinite.empirical.layer import Layer, layers_of
from pluriform.infinite.empirical.layer_ntk import Factors, Sizes, explicit_ntk, gram_ntk, inner_products
from pluriform.infinite.empirical.subject import Subject

__all__ = ["Side", "StructuredDerivatives"]


@dataclass(frozen=True, eq=False)
class Side:
    """What one batch contributes for a block of outputs.

    Attributes:
        recording: The forward pass.
        cotangents: Derivatives with respect to the outputs of layers, `(n, outputs, ...)`, by node.
        gradients: Gradients of the parameters that no layer claims, `(n, outputs, size)`, by name.
    """

    recording: Recording
    cotangents: dict[str, Tensor]
    gradients: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class StructuredDerivatives:
    """The NTK as a sum over layers, each contracted in the cheaper order.

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

    def prepare(self, x: Tensor) -> Recording:
        """One forward pass, which serves all blocks of outputs."""
        return record(self.subject.graph, self.layers, x)

    def side(self, recording: Recording, block: slice) -> Side:
        """One backward pass for each output."""
        gradients = jacobian(self.subject, recording.x, self.others, block) if self.others else {}
        found = cotangents(recording, block) if self.layers else {}
        return Side(recording, found, {name: part.flatten(2) for name, part in gradients.items()})

    def kernel(self, left: Side, right: Side, over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
        """The NTK of two batches."""
        parts = [self.scales.get(name, 1.0) * part for name, part in self.parts(left, right, over)]
        return sum(parts[1:], parts[0])

    def parts(self, left: Side, right: Side, over: Over) -> Iterator[tuple[str, Tensor]]:
        """The contribution of every parameter, by name."""
        for layer in self.layers:
            name = layer.node.name
            one, two = left.cotangents[name], right.cotangents[name]
            if layer.weight is not None:
                yield layer.weight, (_scale_ntk if layer.kind == "norm" else _weight_ntk)(layer, left, right, over)
            if layer.bias is not None:
                first = layer.reduced(one)
                yield layer.bias, contract(first, first if left is right else layer.reduced(two), over)
        for name in self.others:
            yield name, contract(left.gradients[name], right.gradients[name], over)


def _scale_ntk(layer: Layer, left: Side, right: Side, over: Over) -> Tensor:
    """Of the scale of a norm."""
    name = layer.node.name

    def gradients(side: Side) -> Tensor:
        plain = _kept(side.recording, (name, "normalised"), lambda: layer.normalised(side.recording.inputs[name]))
        return layer.reduced(side.cotangents[name] * plain[:, None])

    first = gradients(left)
    return contract(first, first if left is right else gradients(right), over)


def _weight_ntk(layer: Layer, left: Side, right: Side, over: Over) -> Tensor:
    """Of the weight of a linear or convolutional layer."""
    name, same = layer.node.name, left.recording is right.recording
    first = _factors(layer, left)
    second = first if left is right else _factors(layer, right)
    (n1, groups, patch, positions), (_, outputs, _, width, _) = first.a.shape, first.b.shape
    sizes = Sizes(n1, len(second.a), outputs, groups, patch, width, positions, same)
    whole = Sizes(n1, len(second.a), left.recording.outputs.shape[1], groups, patch, width, positions, same)
    if (sizes if over == "full" else whole).cheaper(over) == "explicit":
        return explicit_ntk(first, second, over)
    known = left.recording.inner
    if name not in known or known[name][0] is not right.recording.token:
        known[name] = (right.recording.token, inner_products(first.a, second.a))
    return gram_ntk(first, second, over, known[name][1])


def _factors(layer: Layer, side: Side) -> Factors:
    name, recording = layer.node.name, side.recording
    read = recording.inputs[name]
    patches = _kept(recording, (name, "patches"), lambda: layer.patches(read))
    return Factors(patches, layer.cotangents(side.cotangents[name], tuple(read.shape[2:])))


def _kept(recording: Recording, key: tuple[str, str], compute: Callable[[], Tensor]) -> Tensor:
    """What serves every output is computed once."""
    if key not in recording.kept:
        recording.kept[key] = compute()
    return recording.kept[key]
