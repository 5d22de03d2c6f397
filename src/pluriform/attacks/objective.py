"""The losses that attacks climb: of every sample, higher where the network is more wrong."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pluriform.axes import Labels, Logits, Scores
from pluriform.errors import ConfigError, explain

__all__ = ["Objective", "cross_entropy", "dlr", "margin", "targeted_dlr"]

Objective = Callable[[Logits, Labels], Scores]
EPSILON = 1e-12


def cross_entropy(logits: Logits, labels: Labels) -> Scores:
    """`-log softmax(z)_y`; vanishes, with its gradient, where the logits are large.

    Args:
        logits: Shape `(batch, classes)`.
        labels: True classes.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Logits, labels: Labels) -> Scores:
    """`max_{i != y} z_i - z_y`, negative exactly where the sample is classified correctly.

    Args:
        logits: Shape `(batch, classes)`.
        labels: True classes.

    Raises:
        ConfigError: Fewer than 2 classes.

    References:
        Carlini, Wagner, 2017, Towards evaluating the robustness of neural networks, arXiv 1608.04644.

    Example:
        >>> margin(torch.tensor([[2.0, 1.0, -3.0]]), torch.tensor([0]))
        tensor([-1.])
    """
    _need_classes(logits, 2, "margin", "give the network an output for each class")
    return _lead_of_others(logits, labels, logits.topk(2))


def dlr(logits: Logits, labels: Labels) -> Scores:
    """`(max_{i != y} z_i - z_y) / (z_(1) - z_(3))`, the difference of logits ratio, `z_(1) >= z_(2) >= ...`.

    Shifting or scaling the logits changes nothing. In -1..0 where the sample is classified correctly.

    Args:
        logits: Shape `(batch, classes)`.
        labels: True classes.

    Raises:
        ConfigError: Fewer than 3 classes.

    References:
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, arXiv 2003.01690.

    Example:
        >>> dlr(torch.tensor([[2.0, 1.0, -3.0]]), torch.tensor([0]))
        tensor([-0.2000])
    """
    _need_classes(logits, 3, "the DLR loss", "attack cross-entropy or the margin instead")
    top = logits.topk(3)
    return _lead_of_others(logits, labels, top) / (top[0][:, 0] - top[0][:, 2] + EPSILON)


def targeted_dlr(targets: Labels) -> Objective:
    """The loss `(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)` towards given classes `t`.

    Args:
        targets: A wrong class for each sample of the batches that the loss will see.

    Returns:
        A loss that raises ConfigError on fewer than 4 classes.

    References:
        Croce, Hein, 2020, arXiv 2003.01690.

    Example:
        >>> targeted_dlr(torch.tensor([1]))(torch.tensor([[4.0, 1.0, 0.0, -2.0]]), torch.tensor([0]))
        tensor([-0.6000])
    """

    def towards_targets(logits: Logits, labels: Labels) -> Scores:
        _need_classes(logits, 4, "the targeted DLR loss", "attack cross-entropy or the margin instead")
        top = logits.topk(4)[0]
        lead = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
        return lead.squeeze(1) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + EPSILON)

    return towards_targets


def _lead_of_others(logits: Tensor, labels: Tensor, top: tuple[Tensor, Tensor]) -> Tensor:
    values, classes = top
    return torch.where(classes[:, 0] == labels, values[:, 1], values[:, 0]) - logits.gather(1, labels[:, None])[:, 0]


def _need_classes(logits: Tensor, least: int, loss: str, remedy: str) -> None:
    if logits.shape[1] < least:
        raise ConfigError(explain(f"at least {least} classes for {loss}", f"{logits.shape[1]}", "attack", remedy))
