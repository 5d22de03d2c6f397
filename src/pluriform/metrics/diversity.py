"""How much the members of an ensemble differ, in what they say and in their weights, and whether they have collapsed.

What they say decides; weights are diagnostics, since scale and permutation symmetries make them ambiguous.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.axes import Labels, Members, Scores
from pluriform.errors import ShapeError, explain
from pluriform.metrics.classification import correct, log_probabilities, nll_terms

__all__ = [
    "WeightDiversity",
    "effective_rank",
    "ensemble_gain",
    "error_correlation",
    "even_splits",
    "weight_diversity",
]

SAME = 1e-6  # Members nearer than this, relative to their size, differ by the rounding of float32 only.
COLUMNS_AT_ONCE = 1 << 16
CONFIDENT = 0.1  # Share of the entropy of the mean that may be the members' own.
NEAR = 0.02  # Nats; a split of four to six lies just outside, 0.0201 below log 2.


def ensemble_gain(members: Members, labels: Labels) -> Scores:
    """`mean_m (-log p_m,y) + log mean_m p_m,y` in nats for every sample; at least 0 by Jensen's inequality.

    Args:
        members: Probabilities, shape `(member, batch, outputs)`.
        labels: True classes, shape `(batch,)`.
    """
    each = torch.stack([nll_terms(p, labels) for p in members])
    return (each.mean(0) - nll_terms(members.double().mean(0), labels)).clamp_min(0)


def error_correlation(members: Members, labels: Labels) -> float:
    """Mean over pairs of members of the Pearson correlation between their error indicators.

    1 means that they err on the same samples, 0 that they err independently. A member that is always right, or always
    wrong, has no correlation with any other: its pairs are left out.

    Args:
        members: Probabilities, shape `(member, batch, outputs)`.
        labels: True classes, shape `(batch,)`.

    Returns:
        In -1..1; NaN where no pair has a correlation.

    Raises:
        ShapeError: Fewer than two members.
    """
    _check_pairs(len(members), "error_correlation")
    errors = 1 - torch.stack([correct(p, labels) for p in members])
    errors = errors[(errors != errors[:, :1]).any(1)]
    if len(errors) < 2:
        return math.nan
    return float(_off_diagonal(torch.corrcoef(errors)).mean())


def effective_rank(rows: Float[Tensor, "member *features"]) -> float:
    """`exp(-sum_i q_i log q_i)`, `q` the eigenvalues of the covariance over members, normalised to sum 1.

    The number of directions in which members differ, in `0..member - 1`: 0 where all are the same up to rounding, 1
    where they lie on a line. It serves for outputs, codes and weights alike.

    Args:
        rows: One row a member.

    References:
        Roy, Vetterli, 2007, The effective rank: a measure of effective dimensionality, EUSIPCO.

    Example:
        >>> round(effective_rank(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 6.0]])), 6)
        1.0
    """
    return _rank_of(_gram(rows))


def even_splits(members: Members) -> dict[int, float]:
    """Share of the inputs on which members that are sure of themselves split evenly among `k` classes.

    There the entropy of the mean lies within 0.02 nats of `log k`, and at most a tenth of it is the members' own. Much
    of it at `k = 2` or `k = 3` on outliers is the mark of a generator with two or three modes.

    Args:
        members: Probabilities, shape `(member, batch, outputs)`.

    Returns:
        For `k` of 2 and 3, as far as there are more outputs than that: votes over all outputs may well be even.
    """
    p = members.double()
    whole = -(p.mean(0) * log_probabilities(p.mean(0))).sum(-1)
    own = -(p * log_probabilities(p)).sum(-1).mean(0)
    sure = own <= CONFIDENT * whole
    return {k: float((sure & ((whole - math.log(k)).abs() <= NEAR)).double().mean()) for k in (2, 3) if k < p.shape[-1]}


@dataclass(frozen=True)
class WeightDiversity:
    """How far apart the members' weights are.

    Attributes:
        spread: For every tensor, the standard deviation of its L2 norm over members, relative to the mean norm.
        distance: Root mean square distance of a member from the mean of all, relative to the root mean square norm;
            0 for identical members, near 1 for independent directions.
        cosine: Mean over pairs of the cosine between all weights of two members.
        effective_rank: Of all weights together.
    """

    spread: Mapping[str, float]
    distance: float
    cosine: float
    effective_rank: float

    @property
    def mean_spread(self) -> float:
        """Mean of `spread` over the tensors."""
        return sum(self.spread.values()) / len(self.spread)


def weight_diversity(weights: Mapping[str, Tensor]) -> WeightDiversity:
    """Compare the weights of members.

    Args:
        weights: Name to values, shape `(member, *shape)`; integers are left out.

    Raises:
        ShapeError: No weights, fewer than two members, or tensors of different numbers of members.

    Example:
        >>> twins = weight_diversity({"weight": torch.tensor([[3.0, 4.0], [3.0, 4.0]])})
        >>> twins.distance, round(twins.cosine, 6)
        (0.0, 1.0)
    """
    tensors = {name: value.detach() for name, value in weights.items() if value.is_floating_point()}
    sizes = {len(value) for value in tensors.values()}
    if len(sizes) != 1:
        got = f"tensors of {', '.join(map(str, sorted(sizes))) or 'no'} members"
        raise ShapeError(explain("weights of one number of members", got, "weight_diversity", "stack all alike"))
    _check_pairs(next(iter(sizes)), "weight_diversity")
    grams = {name: _gram(value) for name, value in tensors.items()}
    whole = torch.stack(list(grams.values())).sum(0)
    size = whole.diagonal().clamp_min(0)
    scale = size.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    apart = _centred(whole).diagonal().clamp_min(0).mean() / size.mean().clamp_min(torch.finfo(torch.float64).tiny)
    return WeightDiversity(
        {name: _spread(gram) for name, gram in grams.items()},
        _unless_rounding(float(apart.sqrt())),
        float(_off_diagonal(whole / scale[:, None] / scale).mean()),
        _rank_of(whole),
    )


def _gram(rows: Tensor) -> Tensor:
    """Inner products of the rows in double precision, a few columns at a time."""
    parts = [part.double() for part in rows.detach().flatten(1).split(COLUMNS_AT_ONCE, 1)]
    return torch.stack([part @ part.T for part in parts]).sum(0).cpu()


def _centred(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _rank_of(gram: Tensor) -> float:
    values = torch.linalg.eigvalsh(_centred(gram)).clamp_min(0)
    if values.sum() <= SAME**2 * gram.diagonal().sum():
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def _spread(gram: Tensor) -> float:
    norms = gram.diagonal().clamp_min(0).sqrt()
    return float(norms.std() / norms.mean()) if norms.mean() > 0 else 0.0


def _unless_rounding(distance: float) -> float:
    return distance if distance > SAME else 0.0


def _off_diagonal(square: Tensor) -> Tensor:
    return square[~torch.eye(len(square), dtype=torch.bool)]


def _check_pairs(size: int, where: str) -> None:
    if size < 2:
        raise ShapeError(explain("at least 2 members", f"{size}", where, "draw more members"))
