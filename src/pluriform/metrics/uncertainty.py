"""Scores of how far inside the known distribution a prediction is; higher always means more in-distribution."""

import torch

from pluriform.axes import Members, Probabilities, Scores
from pluriform.errors import ShapeError, explain
from pluriform.metrics.classification import log_probabilities

__all__ = ["disagreement", "entropy", "max_probability", "mutual_information", "softmax_variance"]


def max_probability(probabilities: Probabilities) -> Scores:
    """The largest class probability.

    References:
        Hendrycks, Gimpel, 2017, A baseline for detecting misclassified and out-of-distribution examples,
        arXiv 1610.02136.
    """
    return probabilities.double().amax(-1)


def entropy(probabilities: Probabilities) -> Scores:
    """`-sum_c p_c log p_c` in nats, in `0..log(outputs)`; its negative is the score."""
    return -(probabilities.double() * log_probabilities(probabilities)).sum(-1)


def mutual_information(members: Members) -> Scores:
    """`H(mean_m p_m) - mean_m H(p_m)` in nats, in `0..log(min(member, outputs))`; its negative is the score.

    References:
        Houlsby, Huszar, Ghahramani, Lengyel, 2011, Bayesian active learning for classification, arXiv 1112.5745.
    """
    p = members.double()
    each = -(p * log_probabilities(p)).sum(-1)
    return (entropy(p.mean(0)) - each.mean(0)).clamp_min(0)


def disagreement(members: Members) -> Scores:
    """Share of the pairs of members whose most probable classes differ: `1 - sum_c n_c (n_c - 1) / (M (M - 1))`.

    Raises:
        ShapeError: Fewer than two members.
    """
    size = len(members)
    if size < 2:
        raise ShapeError(explain("at least 2 members", f"{size}", "disagreement", "draw more members"))
    votes = torch.nn.functional.one_hot(members.argmax(-1), members.shape[-1]).sum(0).double()
    return 1 - (votes * (votes - 1)).sum(-1) / (size * (size - 1))


def softmax_variance(members: Members) -> Scores:
    """`sum_c mean_m (p_m,c - mean_m p_m,c)^2`, in `0..1 - 1 / min(member, outputs)`; its negative is the score.

    References:
        Carlini, Wagner, 2017, Adversarial examples are not easily detected: bypassing ten detection methods, arXiv
        1705.07263, which calls it dropout uncertainty.
    """
    p = members.double()
    return (p - p.mean(0)).square().mean(0).sum(-1)
