"""Replacing the layers of a network by MNF layers, and drawing whole weight sets from those."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.ensemble.mnf.layers import MNFLayer, supported
from pluriform.errors import ConfigError, explain

__all__ = ["MNFSource", "replace_layers"]


class MNFSource(nn.Module):
    """Weights of the layers, by the names they have in the user's network.

    A draw takes one z a layer, then W and the bias given it.

    Args:
        layers: By name of the layer.
    """

    def __init__(self, layers: dict[str, MNFLayer]) -> None:
        super().__init__()
        self.names = list(layers)
        self.layers = nn.ModuleList(layers.values())

    @torch.no_grad()
    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Weights of one network a seed, stacked."""
        sets = [self._one(torch.Generator().manual_seed(seed)) for seed in seeds]
        return {name: torch.stack([drawn[name] for drawn in sets]) for name in sets[0]}

    def _one(self, generator: torch.Generator) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        layer: Any
        for name, layer in zip(self.names, self.layers, strict=True):
            prefix = f"{name}." if name else ""
            latent, noise = (_normal(like, generator) for like in (layer.z_mean, layer.mu))
            drawn[f"{prefix}weight"] = layer.weights(latent, noise)
            if layer.mu_bias is not None:
                drawn[f"{prefix}bias"] = layer.biases(_normal(layer.mu_bias, generator))
        return drawn


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values of a tensor's shape, drawn on the CPU so that every device gets the same."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def replace_layers(network: nn.Module, flows: int) -> dict[str, MNFLayer]:
    """Put MNF layers in the place of all supported ones whose weights are used nowhere else.

    Args:
        network: Changed in place, unless it is itself such a layer.
        flows: Steps of the flows.

    Returns:
        The MNF layers by name; the name of the network itself is empty.

    Raises:
        ConfigError: It has no layer that could be replaced.
    """
    uses = Counter(id(own) for layer in network.modules() for own in layer._parameters.values() if own is not None)
    chosen = {
        name: layer
        for name, layer in network.named_modules()
        if supported(layer) and all(uses[id(own)] == 1 for own in layer.parameters(recurse=False))
    }
    if not chosen:
        expected = "a network with a trainable Linear or Conv layer of its own weights"
        kinds = ", ".join(sorted({type(layer).__name__ for layer in network.modules()}))
        raise ConfigError(explain(expected, f"only {kinds}", "MNF", "use HyperGAN or APD, which take any layer"))
    made = {name: MNFLayer(layer, flows).to(next(layer.parameters())) for name, layer in chosen.items()}
    by_layer = {id(chosen[name]): layer for name, layer in made.items()}
    for place, layer in list(network.named_modules(remove_duplicate=False)):
        if place and id(layer) in by_layer:
            parent, _, name = place.rpartition(".")
            setattr(network.get_submodule(parent), name, by_layer[id(layer)])
    return made
