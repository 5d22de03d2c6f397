"""`Head`: the base of all maps from codes to weights."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.ensemble.heads.trunk import Trunk
from pluriform.ensemble.target import Entry, Layer

__all__ = ["Head"]


class Head(nn.Module):
    """Codes of the layers and a shared base to complete weights.

    Attributes:
        layers: Of the target.
        units: By name of a tensor, the factor of what is added to its base.
        trunk: Codes to features.
        maps: One a layer, features to numbers.
    """

    layers: tuple[Layer, ...]
    units: dict[str, float]
    trunk: Trunk
    maps: nn.ParameterList

    def forward(self, codes: Float[Tensor, "member layer code"], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Complete weights of every member.

        Args:
            codes: One a member and layer.
            base: What all members share, by name.

        Returns:
            By name, `(member, *shape)`.
        """
        weights: dict[str, Tensor] = {}
        for layer, numbers in zip(self.layers, self._numbers(codes), strict=True):
            parts = numbers.split([self._width(entry) for entry in layer.entries], 1)
            for entry, part in zip(layer.entries, parts, strict=True):
                weights[entry.name] = self._compose(entry, part, base[entry.name])
        return weights

    def _numbers(self, codes: Tensor) -> list[Tensor]:
        """What the weights of each layer are made of, `(member, numbers)`: by default a linear map of the features."""
        return [features @ matrix for features, matrix in zip(self.trunk(codes).unbind(), self.maps, strict=True)]

    def _width(self, entry: Entry) -> int:
        """How many of those numbers make a tensor."""
        return entry.size

    def _compose(self, entry: Entry, part: Tensor, base: Tensor) -> Tensor:
        """A tensor of every member from its numbers."""
        return torch.add(base, part.view(-1, *entry.shape), alpha=self.units[entry.name])
