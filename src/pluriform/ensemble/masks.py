"""Dropout masks as weights: layers that hold one, layers whose columns take one, and the source that draws them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from pluriform.axes import Inputs
from pluriform.ensemble.layer_inputs import layer_inputs
from pluriform.errors import ConfigError, explain

__all__ = ["MASKED", "MaskSource", "Masked", "dropping", "is_dropout", "masked_layers"]


class Masked(nn.Module):
    """A dropout layer: random for each sample in training mode, multiplied by its mask in evaluation mode.

    It has one mask for each shape that it was called with, a buffer without batch axis; ones after training, which is
    the deterministic network.
    """

    p: float

    def forward(self, input: Tensor) -> Tensor:
        """Random zeros in training mode, the mask of this shape in evaluation mode."""
        if self.training:
            return super().forward(input)
        mask = self._buffers.get(_mask_name(self._mask_shape(input)))
        if mask is None:
            known = ", ".join(name.removeprefix("mask_") for name in self._buffers)
            got = f"{tuple(input.shape[1:])}"
            remedy = "predict inputs of the shape of the training data; masks belong to fixed shapes"
            raise ConfigError(explain(f"activations of shape {known}", got, "dropout layer", remedy))
        return input * mask

    def _mask_shape(self, input: Tensor) -> tuple[int, ...]:
        channels = isinstance(self, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d)
        return (input.shape[1], *(1 for _ in input.shape[2:])) if channels else tuple(input.shape[1:])

    def add_mask(self, input: Tensor) -> None:
        """Make room for the mask of activations like `input`."""
        shape = self._mask_shape(input)
        self.register_buffer(_mask_name(shape), input.new_ones(shape))


class MaskedDropout(Masked, nn.Dropout):
    """One zero for each feature."""


class MaskedDropout1d(Masked, nn.Dropout1d):
    """One zero for each channel of a sequence."""


class MaskedDropout2d(Masked, nn.Dropout2d):
    """One zero for each channel of an image."""


class MaskedDropout3d(Masked, nn.Dropout3d):
    """One zero for each channel of a volume."""


MASKED: dict[type[nn.Module], type[Masked]] = {
    nn.Dropout: MaskedDropout,
    nn.Dropout1d: MaskedDropout1d,
    nn.Dropout2d: MaskedDropout2d,
    nn.Dropout3d: MaskedDropout3d,
}
"""Layers of torch and what they become; the class of a layer is exchanged in place, so that all who hold it see it."""


def masked_layers(network: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, nn.Module]:
    """Turn dropout layers of `network` into masked ones, in place.

    Args:
        network: In evaluation mode.
        layers: Dropout layers of torch, by name.
        inputs: At least two samples, which show the shapes.

    Returns:
        Those that are called in evaluation mode.

    Raises:
        ConfigError: A layer sees activations whose first axis is not the batch.
    """
    together, alone = layer_inputs(network, layers, inputs), layer_inputs(network, layers, inputs[:1])
    for name, tensors in together.items():
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if shapes != [(len(inputs), *tensor.shape[1:]) for tensor in alone[name]]:
            expected, got = "activations (batch, *features)", f"shapes {shapes} for {len(inputs)} samples"
            remedy = "put the batch first (batch_first=True), or set rate to drop inputs of linear layers instead"
            raise ConfigError(explain(expected, got, f"dropout layer {name}", remedy))
    for name, tensors in together.items():
        layer: Any = layers[name]
        layer.__class__ = MASKED[type(layer)]
        for tensor in tensors:
            layer.add_mask(tensor)
    return {name: layers[name] for name in together}


@contextmanager
def dropping(layers: Mapping[str, nn.Module], rate: float) -> Iterator[None]:
    """Dropout at the input of linear and convolutional layers while they are in training mode.

    A linear layer loses features (the same at every position of a sample), a convolution channels, each sample its own.
    """

    def dropped(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not layer.training:
            return None
        inputs, *rest = args
        ones = [1] * (inputs.dim() - 2)
        feature = inputs.shape[1 if isinstance(layer, _ConvNd) else -1]
        kept = (len(inputs), feature, *ones) if isinstance(layer, _ConvNd) else (len(inputs), *ones, feature)
        return (inputs * F.dropout(inputs.new_ones(kept), rate, training=True), *rest)

    handles = [layer.register_forward_pre_hook(dropped) for layer in layers.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class MaskSource(nn.Module):
    """Draws masks: of masked layers as their buffers, of linear and convolutional layers as zeros in the weight.

    A mask is Bernoulli(1 - rate) / (1 - rate). Dropping input j of a linear layer is a zero column: W diag(mask).

    Args:
        layers: By name in the template, whose own layers they are.
        rate: Of the linear and convolutional layers; masked layers have their own.
    """

    def __init__(self, layers: Mapping[str, nn.Module], rate: float) -> None:
        super().__init__()
        self.names = list(layers)
        self.layers = nn.ModuleList(layers.values())
        self.rate = rate

    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Buffers and weights by name, each `(member, *shape)`."""
        members = [self._one(torch.Generator().manual_seed(seed)) for seed in seeds]
        return {name: torch.stack([own[name] for own in members]) for name in members[0]}

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for name, layer in zip(self.names, self.layers, strict=True):
            if isinstance(layer, Masked):
                for own, buffer in layer.named_buffers():
                    drawn[f"{name}.{own}"] = _mask(tuple(buffer.shape), float(layer.p), generator).to(buffer)
            else:
                weight: Any = layer.weight
                drawn[f"{name}.weight"] = weight * _columns(layer, self.rate, generator).to(weight)
        return drawn


def _columns(layer: Any, rate: float, generator: torch.Generator) -> Tensor:
    """The mask of a layer's inputs, in the shape of its weight but for axes of length 1."""
    if not isinstance(layer, _ConvNd):
        return _mask((1, layer.in_features), rate, generator)
    mask = _mask((layer.in_channels,), rate, generator).view(layer.groups, -1)
    rows = mask.repeat_interleave(layer.out_channels // layer.groups, 0)
    return rows.view(*rows.shape, *(1 for _ in layer.kernel_size))


def _mask(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(shape, generator=generator) >= rate
    return kept * (1 / (1 - rate) if rate < 1 else 0.0)


def _mask_name(shape: tuple[int, ...]) -> str:
    return "mask_" + "x".join(map(str, shape))


def is_dropout(layer: nn.Module) -> bool:
    """Whether it is a dropout layer of any kind."""
    return isinstance(layer, _DropoutNd)
