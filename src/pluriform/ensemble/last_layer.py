"""The last layer of any network, found by its numbers: what its output is an affine function of."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pluriform.axes import Inputs
from pluriform.ensemble.layer_inputs import layer_inputs
from pluriform.errors import GraphError, explain

__all__ = ["LastLayer", "find_last_layer"]

TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A linear layer, or a convolution of size 1 that is averaged over its positions.

    Outputs of the network are `features @ weights.T`, features with a constant one at the end where it has a bias.

    Attributes:
        network: Has it.
        name: Dotted path of the layer.
        layer: The layer.
    """

    network: nn.Module
    name: str
    layer: Any

    @property
    def weights(self) -> Float[Tensor, "outputs features"]:
        """The weight with the bias as its last column."""
        weight = self.layer.weight.detach().flatten(1)
        return weight if self.layer.bias is None else torch.cat([weight, self.layer.bias.detach()[:, None]], 1)

    @property
    def names(self) -> list[str]:
        """Of the weight, and of the bias where there is one, in the network."""
        prefix = f"{self.name}." if self.name else ""
        return [prefix + own for own in ("weight", "bias") if getattr(self.layer, own) is not None]

    @torch.no_grad()
    def features(self, inputs: Inputs) -> Float[Tensor, "batch features"]:
        """What the weights are applied to, averaged over positions, in evaluation mode."""
        (given,) = layer_inputs(self.network.eval(), {self.name: self.layer}, inputs)[self.name]
        return _features(self.layer, given)


def find_last_layer(network: nn.Module, inputs: Inputs, classes: bool) -> LastLayer:
    """The layer whose output is, but for an average over positions, the output of the network; no tracing is needed.

    Args:
        network: Any module.
        inputs: A few samples.
        classes: Whether outputs are logits, where a number added to all outputs of a sample changes nothing.

    Raises:
        GraphError: There is none, or its weight is shared with another layer.
    """
    layers = {name: layer for name, layer in network.named_modules() if _is_candidate(layer)}
    with torch.no_grad():
        outputs = network.eval()(inputs)
    calls = layer_inputs(network, layers, inputs)
    for name in reversed(calls):
        found = LastLayer(network, name, layers[name])
        if (
            len(calls[name]) == 1
            and len(found.weights) == outputs.shape[1]
            and _gives(found, calls[name][0], outputs, classes)
        ):
            _check_alone(network, found)
            return found
    raise GraphError(
        explain(
            "a network whose output is that of one linear layer (or of a 1 x 1 convolution, averaged)",
            f"none of {', '.join(list(calls)[-3:]) or 'its layers'} gives it",
            type(network).__name__,
            "let forward end with a torch.nn.Linear that is called once, without a function behind it",
        )
    )


def _is_candidate(layer: nn.Module) -> bool:
    if not isinstance(layer.__dict__.get("_parameters", {}).get("weight"), nn.Parameter):
        return False
    if isinstance(layer, _ConvNd):
        return not layer.transposed and set(layer.kernel_size) == {1} and layer.groups == 1
    return isinstance(layer, nn.Linear)


def _features(layer: Any, given: Tensor) -> Tensor:
    channel = 1 if isinstance(layer, _ConvNd) else -1
    flat = given.movedim(channel, 1).flatten(2).mean(2) if given.dim() > 2 else given
    return flat if layer.bias is None else torch.cat([flat, flat.new_ones(len(flat), 1)], 1)


def _gives(found: LastLayer, given: Tensor, outputs: Tensor, classes: bool) -> bool:
    features = _features(found.layer, given)
    if len(features) != len(outputs):
        return False
    difference = features @ found.weights.T - outputs
    if classes:
        difference = difference - difference.mean(1, keepdim=True)
    return bool(difference.abs().max() <= TOLERANCE * outputs.abs().max().clamp(min=1e-6))


def _check_alone(network: nn.Module, found: LastLayer) -> None:
    """Raise `GraphError` where other layers use the weight: a draw of it would change them too."""
    holders = [name for name, own in network.named_parameters(remove_duplicate=False) if own is found.layer.weight]
    if len(holders) > 1:
        raise GraphError(
            explain(
                "a last layer with a weight of its own",
                f"one weight under the names {', '.join(holders)}",
                type(network).__name__,
                "untie it: give the last layer a copy of the weight",
            )
        )
