"""`FullHead`: every number of a layer from one linear map."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pluriform.ensemble.heads.head import Head
from pluriform.ensemble.heads.trunk import Trunk, drawn_map, unit_of
from pluriform.ensemble.target import Layer

__all__ = ["FullHead", "full_count"]


def full_count(layers: Sequence[Layer], code_size: int, hidden: int) -> int:
    """Parameters of a `FullHead`, normalisations included."""
    return sum(hidden * (code_size + hidden + 4 + layer.size) for layer in layers)


class FullHead(Head):
    """theta_i = base_i + d h(z_i) W_i: one generator a layer, as in HyperGAN, d the asked deviation of each tensor.

    Cost of a draw: hidden times the size of the target. At the start, h W has unit variance over draws, and mean zero.

    Args:
        layers: Of the target.
        code_size: Length of a layer's code.
        hidden: Width of the generators.
        deviations: Standard deviation over draws by name of the tensor; 0 starts at zero and is trained all the same.

    References:
        Ratzlaff, Li 2019, HyperGAN: A Generative Model for Diverse, Performant Neural Networks, arXiv:1901.11058.
    """

    def __init__(
        self, layers: Sequence[Layer], code_size: int, hidden: int, deviations: Mapping[str, float | int]
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.units = {entry.name: unit_of(deviations[entry.name]) for layer in self.layers for entry in layer.entries}
        self.trunk = Trunk(len(self.layers), code_size, hidden)
        self.maps = nn.ParameterList(self._map(i, layer, deviations) for i, layer in enumerate(self.layers))

    @torch.no_grad()
    def _map(self, position: int, layer: Layer, deviations: Mapping[str, float | int]) -> nn.Parameter:
        features = self.trunk.measure(position)
        covariance = features.T @ features / len(features)
        weight = torch.empty(features.shape[1], layer.size)
        for entry, part in zip(layer.entries, weight.split([entry.size for entry in layer.entries], 1), strict=True):
            part.copy_(drawn_map(covariance, entry.size, varies=deviations[entry.name] > 0))
        return nn.Parameter(weight)
