"""`LowRankHead`: weights as a base plus a product of two thin matrices."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pluriform.ensemble.heads.head import Head
from pluriform.ensemble.heads.trunk import Trunk, drawn_map, halves, unit_of
from pluriform.ensemble.target import Entry, Layer

__all__ = ["LowRankHead", "low_rank_count"]

RANK = 4
MEASURED = 1024  # Codes on which products are measured.
LINES = 256  # Rows and columns of a product that are measured.


def low_rank_count(layers: Sequence[Layer], code_size: int, hidden: int, rank: int = RANK) -> int:
    """Parameters of a `LowRankHead`, normalisations included."""
    return hidden * (code_size + hidden + 4 + sum(_width(e, rank) for layer in layers for e in layer.entries))


def _is_product(entry: Entry, rank: int) -> bool:
    """Whether two factors hold fewer numbers than the tensor."""
    return len(entry.shape) > 1 and rank * (entry.shape[0] + entry.size // entry.shape[0]) < entry.size


def _width(entry: Entry, rank: int) -> int:
    """Numbers that are generated for a tensor."""
    return rank * (entry.shape[0] + entry.size // entry.shape[0]) if _is_product(entry, rank) else entry.size


class LowRankHead(Head):
    """theta = base + d U(z) V(z)', with r columns; tensors too small to gain from it are generated in full.

    Codes of different layers pass through one shared trunk; each layer has its own last map. U and V come from
    uncorrelated halves of the features, so that their product has mean zero over draws at the start, and d is the asked
    deviation over that of the product as measured. Of a tensor with more than two dimensions all but the first count as
    columns.

    Args:
        layers: Of the target.
        code_size: Length of a layer's code.
        hidden: Width of the trunk.
        deviations: Standard deviation over draws by name of the tensor; 0 starts at zero and is trained all the same.
        rank: r.

    References:
        Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        code_size: int,
        hidden: int,
        deviations: Mapping[str, float | int],
        rank: int = RANK,
    ) -> None:
        super().__init__()
        self.layers, self.rank = tuple(layers), rank
        self.units = {entry.name: unit_of(deviations[entry.name]) for layer in self.layers for entry in layer.entries}
        self.trunk = Trunk(1, code_size, hidden)
        features = self.trunk.measure(0)
        covariance = features.T @ features / len(features)
        bases = halves(covariance)
        self.maps = nn.ParameterList()
        for layer in self.layers:
            parts = []
            for entry in layer.entries:
                varies = deviations[entry.name] > 0
                if not _is_product(entry, rank):
                    parts.append(drawn_map(covariance, entry.size, varies=varies))
                    continue
                left, right = self._factors(covariance, bases, entry)
                self.units[entry.name] /= math.sqrt(self._variance(features[:MEASURED], left, right))
                parts += [left, right * varies]
            self.maps.append(nn.Parameter(torch.cat(parts, 1)))

    def _factors(self, covariance: Tensor, bases: tuple[Tensor, Tensor], entry: Entry) -> tuple[Tensor, Tensor]:
        """Maps to U, `(rows, rank)`, and to V', `(rank, columns)`, both flat and of unit variance."""
        left, right = (
            basis @ drawn_map(basis.T @ covariance @ basis, self.rank * size)
            for basis, size in zip(bases, (entry.shape[0], entry.size // entry.shape[0]), strict=True)
        )
        return left, right

    def _variance(self, features: Tensor, left: Tensor, right: Tensor) -> float:
        """Mean square of the entries of U V' over draws: E <U' U, V' V> / (rows columns)."""
        factors = (
            (features @ left[:, : LINES * self.rank]).unflatten(1, (-1, self.rank)),
            torch.einsum("kh,hrc->kcr", features, right.unflatten(1, (self.rank, -1))[:, :, :LINES]),
        )
        first, second = (factor.mT @ factor / factor.shape[1] for factor in factors)
        return float((first * second).sum((1, 2)).mean())

    def _width(self, entry: Entry) -> int:
        return _width(entry, self.rank)

    def _compose(self, entry: Entry, part: Tensor, base: Tensor) -> Tensor:
        if not _is_product(entry, self.rank):
            return super()._compose(entry, part, base)
        left, right = part.split([self.rank * entry.shape[0], part.shape[1] - self.rank * entry.shape[0]], 1)
        left, right = left.unflatten(1, (-1, self.rank)), right.unflatten(1, (self.rank, -1))
        shared = base.reshape(1, entry.shape[0], -1)
        return torch.baddbmm(shared, left, right, alpha=self.units[entry.name]).view(-1, *entry.shape)
