"""Whether the members of an ensemble are many networks or one, in a sentence."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from pluriform.axes import Labels, Members, Targets
from pluriform.errors import ShapeError, explain
from pluriform.metrics.classification import correct
from pluriform.metrics.diversity import WeightDiversity, effective_rank
from pluriform.metrics.uncertainty import disagreement, entropy, mutual_information

__all__ = ["Verdict", "judge_diversity", "judge_spread"]

# Measured on digits with a two-layer perceptron, information and disagreement as `Verdict` defines them: deep ensemble
# 0.038 and 0.36, dropout of rate 0.01 0.016 and 0.21; one network under noise of 3 % of its weights, which changes no
# figure of it, 0.0017 and 0.11. Disagreement is of first order in the distance of members, information of second.
COLLAPSED_INFORMATION = 0.005
COLLAPSED_DISAGREEMENT = 0.15
# In regression members rightly agree where data are dense: only a spread below 1 % of the error counts as none.
COLLAPSED_SPREAD = 1e-4
# Draws whose weights are within a thousandth of their mean are one network.
SAME_WEIGHTS = 1e-3
# Below this entropy of the mean, in nats, every member is certain of everything: what they say cannot tell them apart.
CERTAIN = 1e-5
# Two modes, or a curve of networks, however many are drawn, span one direction; M independent members nearly M - 1.
NARROW = 2.0
ENOUGH = 5


@dataclass(frozen=True)
class Verdict:
    """Whether members differ enough to be called an ensemble.

    Attributes:
        kind: `collapsed` (one network), `narrow` (several, but along one direction or of two modes only), `diverse`,
            or `unknown` where the data cannot tell.
        words: The sentence shown to the user.
        disagreement: Disagreement relative to twice the mean error rate, which no ensemble exceeds: where two members
            disagree, one of them errs. NaN where no member errs, and in regression.
        information: Mutual information relative to the entropy of the mean prediction; NaN where that is 0. In
            regression the variance between members relative to itself plus the squared error of their mean.
        effective_rank: Of the members' probabilities or means.
    """

    kind: Literal["collapsed", "narrow", "diverse", "unknown"]
    words: str
    disagreement: float
    information: float
    effective_rank: float


def judge_diversity(members: Members, labels: Labels, weights: WeightDiversity | None = None) -> Verdict:
    """Judge by what the members say on labelled samples; by their weights only where that is undecided.

    Args:
        members: Probabilities, shape `(member, batch, outputs)`.
        labels: True classes, shape `(batch,)`.
        weights: Of the same members.

    Raises:
        ShapeError: Fewer than two members.

    Example:
        >>> one = torch.tensor([[[0.9, 0.1], [0.6, 0.4]]])
        >>> judge_diversity(one.expand(10, -1, -1), torch.tensor([0, 1])).kind
        'collapsed'
    """
    size = len(members)
    _check(size, "judge_diversity")
    error = 1 - float(torch.stack([correct(p, labels) for p in members]).mean())
    whole = float(entropy(members.double().mean(0)).mean())
    shares = (
        float(disagreement(members).mean()) / (2 * error) if error > 0 else math.nan,
        float(mutual_information(members).mean()) / whole if whole > CERTAIN else math.nan,
        effective_rank(members),
    )
    kind = _kind(size, *shares, weights)
    return Verdict(kind, _words(kind, size, _differences(*shares[:2]), shares[2], weights), *shares)


def judge_spread(members: Members, targets: Targets, weights: WeightDiversity | None = None) -> Verdict:
    """The same in regression, where the variance between members is held against the squared error of their mean.

    Args:
        members: Means, shape `(member, batch, outputs)`.
        targets: True values, shape `(batch, outputs)` or `(batch,)`.
        weights: Of the same members.

    Raises:
        ShapeError: Fewer than two members.
    """
    size = len(members)
    _check(size, "judge_spread")
    means = members.double()
    spread = means.var(0).mean(0)
    error = (means.mean(0) - targets.reshape(means[0].shape)).square().mean(0)
    information = float((spread / (spread + error).clamp_min(torch.finfo(torch.float64).tiny)).mean())
    rank = effective_rank(members)
    narrow = size >= ENOUGH and rank < NARROW
    kind = "collapsed" if information < COLLAPSED_SPREAD else "narrow" if narrow else "diverse"
    said = [f"their standard deviation is {_percent(math.sqrt(information))} of their total error"]
    return Verdict(kind, _words(kind, size, said, rank, weights), math.nan, information, rank)


def _check(size: int, where: str) -> None:
    if size < 2:
        raise ShapeError(explain("at least 2 members", f"{size}", where, "draw more members"))


def _kind(
    size: int, apart: float, information: float, rank: float, weights: WeightDiversity | None
) -> Literal["collapsed", "narrow", "diverse", "unknown"]:
    if math.isnan(information):
        one = weights is not None and weights.distance < SAME_WEIGHTS
        return "collapsed" if one else "unknown"
    if information < COLLAPSED_INFORMATION and not apart >= COLLAPSED_DISAGREEMENT:
        return "collapsed"
    return "narrow" if size >= ENOUGH and rank < NARROW else "diverse"


def _differences(apart: float, information: float) -> list[str]:
    said = []
    if not math.isnan(information):
        said.append(f"{_percent(information)} of the predictive entropy comes from their differences")
    if not math.isnan(apart):
        said.append(f"their disagreement is {_percent(apart)} of what their errors allow")
    return said


def _words(kind: str, size: int, said: list[str], rank: float, weights: WeightDiversity | None) -> str:
    if weights is not None:
        said = [*said, f"their weights lie {_percent(weights.distance)} from their mean"]
    said = [*said, f"effective rank {rank:.1f} of at most {size - 1}"]
    opening = {
        "collapsed": f"collapsed: the {size} members are one network for all purposes",
        "narrow": f"narrow: the {size} members differ along one direction or are of two modes",
        "diverse": f"diverse: the {size} members differ",
        "unknown": f"unknown: all {size} members are certain on these samples, which cannot tell them apart",
    }[kind]
    return f"{opening} ({'; '.join(said)})"


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"
