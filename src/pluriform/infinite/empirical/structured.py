"""Structured derivatives: the NTK layer by layer, from inputs and output cotangents of layers."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.capture import Recording, cotangents, record
from pluriform.infinite.empirical.contraction import Over, contract
from pluriform.infinite.empirical.jacobian import jacobian
from pluriform.infinite.empirical.layer import Layer, layers_of
from pluriform.infinite.empirical.layer_ntk import Factors, Sizes, explicit_ntk, gradients, gram_ntk
from pluriform.infinite.empirical.patch_products import patch_products, product_cost
from pluriform.infinite.empirical.subject import Subject

__all__ = ["Side", "StructuredDerivatives", "layer_sizes"]


@dataclass(frozen=True, eq=False)
class Side:
    """What one batch contributes for a block of outputs.

    Attributes:
        recording: The forward pass.
        gradients: Gradients of parameters, `(n, outputs, size)`, by name, where they are small or have no structure.
        cotangents: Derivatives with respect to the outputs of the other layers, `(n, outputs, ...)`, by node.
    """

    recording: Recording
    gradients: dict[str, Tensor]
    cotangents: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class StructuredDerivatives:
    """The NTK as a sum over layers, each contracted in the cheaper order.

        Theta = sum_layers sum_pp' (a_p . a'_p') (b_p . b'_p')

    Time `N O` backward passes without gradients of weights, and the contractions; parameters that are used at several
    places, or by an operation without such a form, take explicit gradients of that parameter alone.

    Attributes:
        subject: The network.
        over: Pairs of outputs.
        scales: Factor of the contribution of a parameter, by name; 1 for the others.

    References:
        Novak, Sohl-Dickstein, Schoenholz 2022, Fast Finite Width Neural Tangent Kernel, arXiv:2206.08720.
    """

    subject: Subject
    over: Over
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

    def side(self, prepared: Recording, block: slice) -> Side:
        """One backward pass for each output; what is smaller as a gradient than as a cotangent becomes one at once."""
        rows: dict[str, list[Tensor]] = {}
        held: dict[str, list[Tensor]] = {}
        for found in cotangents(prepared, block) if self.layers else ():
            for layer in self.layers:
                b = found[layer.node.name]
                if layer.bias is not None:
                    rows.setdefault(layer.bias, []).append(layer.reduced(b))
                if layer.weight is None:
                    continue
                row = self._small_gradient(layer, prepared, b)
                if row is None:
                    held.setdefault(layer.node.name, []).append(b)
                else:
                    rows.setdefault(layer.weight, []).append(row)
        explicit = jacobian(self.subject, prepared.x, self.others, block) if self.others else {}
        made = {name: part.flatten(2) for name, part in explicit.items()}
        return Side(prepared, made | _joined(rows), _joined(held))

    def kernel(self, left: Side, right: Side) -> Float[Tensor, "n1 n2 *pairs"]:
        """The NTK of two batches."""
        parts = [self.scales.get(name, 1.0) * part for name, part in self.parts(left, right)]
        return sum(parts[1:], parts[0])

    def parts(self, left: Side, right: Side) -> Iterator[tuple[str, Tensor]]:
        """The contribution of every parameter, by name."""
        for name, rows in left.gradients.items():
            yield name, contract(rows, right.gradients[name], self.over)
        for layer in self.layers:
            if layer.weight is not None and layer.node.name in left.cotangents:
                yield layer.weight, _weight_ntk(layer, left, right, self.over)

    def _small_gradient(self, layer: Layer, recording: Recording, b: Tensor) -> Tensor | None:
        """The gradient of a weight, or None where cotangents are to be kept: they are smaller, or contract cheaper."""
        name = layer.node.name
        read = recording.inputs[name]
        if layer.kind == "norm":
            plain = _kept(recording, (name, "normalised"), lambda: layer.normalised(read))
            return layer.scale_gradient(plain, b)
        sizes = layer_sizes(layer, tuple(read.shape), len(read), len(read), recording.outputs.shape[1], same=False)
        if sizes.patch > sizes.positions or sizes.cheaper(self.over) == "gram":
            return None
        return gradients(_factors(layer, recording, b))


def layer_sizes(layer: Layer, shape: tuple[int, ...], n1: int, n2: int, outputs: int, *, same: bool) -> Sizes:
    """Extents of a layer whose input has a given shape.

    Args:
        layer: A linear or convolutional layer.
        shape: Of its input, the batch axis first.
        n1: First inputs.
        n2: Second inputs.
        outputs: Network outputs.
        same: Both sides are the same batch.
    """
    channels, weight = layer.shape[0], math.prod(layer.shape)
    if layer.kind == "conv_transpose":
        positions, patch, width = math.prod(shape[2:]), channels // layer.groups, weight // channels
    else:
        positions = math.prod(layer.node.shape[1:]) // channels
        patch, width = weight // channels, channels // layer.groups
    inner = product_cost(layer, shape, positions)
    return Sizes(n1, n2, outputs, layer.groups, patch, width, positions, same, inner)


def _weight_ntk(layer: Layer, left: Side, right: Side, over: Over) -> Tensor:
    """Of the weight of a linear or convolutional layer whose cotangents were kept."""
    name, same = layer.node.name, left is right
    one, two = left.recording.inputs[name], right.recording.inputs[name]
    outputs = left.recording.outputs.shape[1]
    sizes = layer_sizes(layer, tuple(one.shape), len(one), len(two), outputs, same=same)
    if sizes.cheaper(over) == "explicit":
        first = _factors(layer, left.recording, left.cotangents[name])
        second = first if same else _factors(layer, right.recording, right.cotangents[name])
        return explicit_ntk(first, second, over)
    known = left.recording.inner
    if name not in known or known[name][0] is not right.recording.token:
        known[name] = (right.recording.token, patch_products(layer, one, two))
    first_b = layer.cotangents(left.cotangents[name], tuple(one.shape[2:]))
    second_b = first_b if same else layer.cotangents(right.cotangents[name], tuple(two.shape[2:]))
    return gram_ntk(first_b, second_b, over, known[name][1])


def _factors(layer: Layer, recording: Recording, b: Tensor) -> Factors:
    name = layer.node.name
    read = recording.inputs[name]
    patches = _kept(recording, (name, "patches"), lambda: layer.patches(read))
    return Factors(patches, layer.cotangents(b, tuple(read.shape[2:])))


def _kept(recording: Recording, key: tuple[str, str], compute: Callable[[], Tensor]) -> Tensor:
    """What serves every output is computed once."""
    if key not in recording.kept:
        recording.kept[key] = compute()
    return recording.kept[key]


def _joined(rows: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Outputs side by side."""
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts, 1) for name, parts in rows.items()}
