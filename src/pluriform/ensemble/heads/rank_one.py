"""`RankOneHead`: a base whose rows and columns are multiplied by generated factors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pluriform.ensemble.heads.head import Head
from pluriform.ensemble.heads.trunk import START_AT_ZERO, Trunk, drawn_map, halves, unit_of
from pluriform.ensemble.target import Entry, Layer

__all__ = ["RankOneHead", "rank_one_count"]

LARGEST_RATIO = 10.0
"""Of the deviation to the root mean square of the base: a product cannot move a base of zero."""


def rank_one_count(layers: Sequence[Layer], code_size: int, hidden: int) -> int:
    """Parameters of a `RankOneHead`, normalisations included."""
    return hidden * (code_size + hidden + 4 + sum(_width(entry) for layer in layers for entry in layer.entries))


def _axes(entry: Entry) -> tuple[int, int] | None:
    """Outputs and inputs: the first two axes that are longer than 1, where their factors are fewer than the tensor."""
    long = [axis for axis, length in enumerate(entry.shape) if length > 1]
    if len(long) < 2 or entry.shape[long[0]] + entry.shape[long[1]] >= entry.size:
        return None
    return long[0], long[1]


def _width(entry: Entry) -> int:
    """Numbers that are generated for a tensor."""
    axes = _axes(entry)
    return entry.size if axes is None else entry.shape[axes[0]] + entry.shape[axes[1]]


class RankOneHead(Head):
    """theta = base * (1 + a r(z)) (1 + a s(z))', r over outputs and s over inputs; biases are generated in full.

    With u = (deviation / rms(base))^2 and k = E[r^2 s^2], a^2 = (sqrt(1 + k u) - 1) / k gives the varying part the
    asked deviation; a follows the base as that is trained. r and s come from uncorrelated halves of the features, so
    the mean over draws is the base. A tensor whose base is zero cannot vary.

    Args:
        layers: Of the target.
        code_size: Length of a layer's code.
        hidden: Width of the trunk, which all layers share.
        deviations: Standard deviation over draws by name of the tensor; 0 starts at zero and is trained all the same.

    References:
        Wen, Tran, Ba 2020, BatchEnsemble, arXiv:2002.06715; Dusenberry et al. 2020, Efficient and Scalable Bayesian
        Neural Nets with Rank-1 Factors, arXiv:2005.07186.
    """

    def __init__(
        self, layers: Sequence[Layer], code_size: int, hidden: int, deviations: Mapping[str, float | int]
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        names = [entry.name for layer in self.layers for entry in layer.entries]
        self.deviations = {name: float(deviations[name]) for name in names}
        self.joint = dict.fromkeys(names, 1.0)
        self.trunk = Trunk(1, code_size, hidden)
        features = self.trunk.measure(0)
        covariance = features.T @ features / len(features)
        bases = halves(covariance)
        self.maps = nn.ParameterList()
        for layer in self.layers:
            parts = []
            for entry in layer.entries:
                varies = self.deviations[entry.name] > 0
                if _axes(entry) is None:
                    parts.append(drawn_map(covariance, entry.size, varies=varies))
                else:
                    parts += [factor * varies for factor in self._factors(features, covariance, bases, entry)]
            self.maps.append(nn.Parameter(torch.cat(parts, 1)))

    def _factors(
        self, features: Tensor, covariance: Tensor, bases: tuple[Tensor, Tensor], entry: Entry
    ) -> tuple[Tensor, Tensor]:
        """Maps to r and s of unit variance; E[r^2 s^2] is noted."""
        left, right = (
            basis @ drawn_map(basis.T @ covariance @ basis, entry.shape[axis])
            for basis, axis in zip(bases, _axes(entry) or (), strict=True)
        )
        first, second = ((features @ factor).square().mean(1) for factor in (left, right))
        self.joint[entry.name] = float((first * second).mean())
        return left, right

    def _width(self, entry: Entry) -> int:
        return _width(entry)

    def _compose(self, entry: Entry, part: Tensor, base: Tensor) -> Tensor:
        axes = _axes(entry)
        deviation = self.deviations[entry.name]
        if axes is None:
            return torch.add(base, part.view(-1, *entry.shape), alpha=unit_of(deviation))
        amount = _amount(base, deviation, self.joint[entry.name]) if deviation else START_AT_ZERO
        factors = (1 + part * amount).split([entry.shape[axis] for axis in axes], 1)
        left, right = (
            factor.view(-1, *(length if axis == own else 1 for axis, length in enumerate(entry.shape)))
            for factor, own in zip(factors, axes, strict=True)
        )
        return base * (left * right)


def _amount(base: Tensor, deviation: float, joint: float) -> Tensor:
    """a, with u / (sqrt(1 + k u) + 1) for (sqrt(1 + k u) - 1) / k, which loses digits where u is small."""
    ratio = deviation / base.square().mean().clamp_min((deviation / LARGEST_RATIO) ** 2).sqrt()
    return ratio / ((1 + joint * ratio.square()).sqrt() + 1).sqrt()
