"""`ChunkedHead`: one small head that gives all weights, some at a time."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pluriform.ensemble.heads.head import Head
from pluriform.ensemble.heads.trunk import COLUMNS, Trunk, spread, unit_of
from pluriform.ensemble.target import Entry, Layer

__all__ = ["ChunkedHead", "chunked_count"]

EMBEDDING = 8
CONTRAST = 2.0  # Deviation of what enters the tanh of the gates: larger ones make chunks less alike.
SMALLEST_CHUNK = 32


def chunked_count(layers: Sequence[Layer], code_size: int, hidden: int) -> int:
    """Parameters of a `ChunkedHead`, normalisations included."""
    chunk = _chunk_size(layers)
    embeddings = EMBEDDING * sum(_chunks(layer, chunk) for layer in layers)
    tensors = sum(len(layer.entries) for layer in layers)
    return hidden * (code_size + 2 * hidden + 4 + EMBEDDING + chunk) + embeddings + tensors


def _chunk_size(layers: Sequence[Layer]) -> int:
    """The square root of the target, so that the head and the embeddings both stay small."""
    return max(SMALLEST_CHUNK, math.isqrt(sum(layer.size for layer in layers)))


def _chunks(layer: Layer, chunk: int) -> int:
    return -(-layer.size // chunk)


class ChunkedHead(Head):
    """theta = base + d t (h(z) * g(e_j)) W, chunk j of c = sqrt(P) numbers: P is the size of the target.

    The last map of a full head, W_j = diag(g_j) W, from one W for all chunks of all layers and one gate a chunk, a
    network of its embedding e_j in R^8. A chunk lies within a layer and may cross its tensors; d is the asked deviation
    of each tensor and t one learnt number, which starts at what makes the rest of unit variance. Gates multiply the
    features, where an embedding beside the code would shift them: so every chunk has mean zero over draws at the start,
    and gates are computed once for all members.

    Args:
        layers: Of the target.
        code_size: Length of a layer's code.
        hidden: Width of the trunk, which all layers share.
        deviations: Standard deviation over draws by name of the tensor; 0 starts at zero and is trained all the same.

    References:
        von Oswald, Henning, Grewe, Sacramento 2020, Continual learning with hypernetworks, arXiv:1906.00695.
    """

    def __init__(
        self, layers: Sequence[Layer], code_size: int, hidden: int, deviations: Mapping[str, float | int]
    ) -> None:
        super().__init__()
        self.layers, self.chunk = tuple(layers), _chunk_size(layers)
        self.units = {entry.name: unit_of(deviations[entry.name]) for layer in self.layers for entry in layer.entries}
        self.trunk = Trunk(1, code_size, hidden)
        chunks = sum(_chunks(layer, self.chunk) for layer in self.layers)
        self.embeddings = nn.Parameter(torch.randn(chunks, EMBEDDING))
        self.first = nn.Parameter(torch.randn(EMBEDDING, hidden) * CONTRAST / math.sqrt(EMBEDDING))
        self.second = nn.Parameter(torch.randn(hidden, hidden) / math.sqrt(hidden))
        self.map = nn.Parameter(torch.randn(hidden, self.chunk) / math.sqrt(hidden))
        self.scales = nn.Parameter(torch.tensor(self._scales(deviations)))

    @torch.no_grad()
    def _scales(self, deviations: Mapping[str, float | int]) -> list[float]:
        features, gates = self.trunk.measure(0), self.gates()
        covariance = features.T @ features / len(features)
        scales, first = [], 0
        for layer in self.layers:
            ends = accumulate(entry.size for entry in layer.entries)
            for entry, end in zip(layer.entries, ends, strict=True):
                places = end - entry.size + torch.arange(0, entry.size, -(-entry.size // COLUMNS))
                maps = self.map[:, places % self.chunk] * gates[first + places // self.chunk].T
                scales.append((deviations[entry.name] > 0) / math.sqrt(spread(covariance, maps)))
            first += _chunks(layer, self.chunk)
        return scales

    def gates(self) -> Float[Tensor, "chunks hidden"]:
        """g_j = LN(tanh(e_j A) B); odd, so that gates have no part in common."""
        return functional.layer_norm(torch.tanh(self.embeddings @ self.first) @ self.second, self.second.shape[1:])

    def _numbers(self, codes: Tensor) -> list[Tensor]:
        gates = self.gates().split([_chunks(layer, self.chunk) for layer in self.layers])
        columns = zip(self.layers, self.trunk(codes).unbind(), gates, strict=True)
        return [((h.unsqueeze(1) * own) @ self.map).flatten(1)[:, : layer.size] for layer, h, own in columns]

    def _compose(self, entry: Entry, part: Tensor, base: Tensor) -> Tensor:
        scale = self.scales[list(self.units).index(entry.name)] * self.units[entry.name]
        return torch.addcmul(base, part.view(-1, *entry.shape), scale)
