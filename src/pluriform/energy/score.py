"""What the logits of a classifier say about the density of its inputs."""

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs, Scores
from pluriform.errors import ConfigError, explain

__all__ = ["Score", "approximate_mass", "check_logits", "log_density"]

NORMALISED = 1e-5
HALVES = (torch.bfloat16, torch.float16)


def log_density(logits: Tensor, labels: Tensor | None = None) -> Scores:
    """Log p(x) + log Z = logsumexp of the logits, or log p(x, y) + log Z, the logit of a class; `(batch,)`.

    References:
        Grathwohl et al. 2020, Your Classifier is Secretly an Energy Based Model, arXiv:1912.03263.
    """
    logits = logits.float() if logits.dtype in HALVES else logits  # Their sums would be off by whole numbers.
    if labels is None:
        return logits.logsumexp(-1)
    return logits.gather(-1, labels[:, None]).squeeze(-1)


class Score:
    """log p(x), or log p(x, label) of each input, as a function of the inputs.

    Args:
        network: Gives logits.
        labels: Of the inputs, for class-conditional chains.
    """

    def __init__(self, network: nn.Module, labels: Tensor | None = None) -> None:
        self.network, self.labels = network, labels

    def __call__(self, inputs: Inputs) -> Scores:
        """Up to a constant, `(batch,)`."""
        return log_density(self.network(inputs), self.labels)


def approximate_mass(network: nn.Module, inputs: Inputs) -> Scores:
    """-||grad_x log p(x)||_2 of each input, near 0 where the density is flat, as in a typical set; `(batch,)`.

    Args:
        network: Gives logits; must be in evaluation mode, so that samples do not touch one another.
        inputs: Shape `(batch, *features)`.

    References:
        Grathwohl et al. 2020, arXiv:1912.03263, section 5.4.
    """
    inputs = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(log_density(network(inputs)).sum(), inputs)
    return -gradient.flatten(1).norm(dim=1)


def check_logits(logits: Tensor, where: str) -> None:
    """Raise where the outputs are probabilities or their logarithms, whose density is the same everywhere.

    Raises:
        ConfigError: They are normalised.
    """
    if bool((logits.logsumexp(-1).abs() < NORMALISED).all()):
        got, remedy = "log-probabilities (logsumexp is 0 for every input)", "take the log-softmax out of the network"
        raise ConfigError(explain("a network that returns logits", got, where, remedy))
    sums = logits.sum(-1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < NORMALISED).all()):
        remedy = "take the softmax out of the network"
        raise ConfigError(explain("a network that returns logits", "probabilities", where, remedy))
