"""The fast gradient sign method: one step along the gradient, to the edge of the threat."""

from torch import nn

from pluriform.attacks import l1
from pluriform.attacks.gradient import ascend
from pluriform.attacks.noise import direction
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels

__all__ = ["fgsm"]


def fgsm(module: nn.Module, inputs: Inputs, labels: Labels, threat: Threat, *, seed: int = 0) -> Inputs:
    """`P(x + eps sign g)` for Linf, `P(x + eps g / ||g||)` for L2, without a random start.

    For L1 the values of largest `|g|` move to the edge of the box until `eps` is spent. Each is the best answer to a
    linear network in its ball.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds.
        seed: Of the direction taken by samples with a zero gradient.

    References:
        Goodfellow, Shlens, Szegedy, 2015, Explaining and harnessing adversarial examples, arXiv 1412.6572.
    """
    gradient = ascend(module, inputs, labels).gradient
    if threat.norm == "l1":
        return l1.fill(gradient, inputs, threat.eps, *threat.box)
    return threat.project(inputs + threat.eps * direction(gradient, inputs, threat, seed), inputs)
