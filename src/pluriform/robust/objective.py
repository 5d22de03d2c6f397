"""What the schemes of adversarial training share: the setting of a step, the inner ascent, the objective."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Logits
from pluriform.training.feed import Batch

__all__ = ["Objective", "Setting", "climb", "cross_entropy_of"]

FEW = 4  # Attacks of fewer steps than this overfit to their own crudeness; they get more steps after a roll-back.


@dataclass(frozen=True)
class Setting:
    """How one batch is attacked.

    Attributes:
        threat: With bounds; its radius is that of this step of the training.
        steps: Of the ascent.
        step_size: Length of each, in input units.
        weight: Of the second term of the loss, beta of TRADES and MART, lambda of GradAlign; of N-FGSM the width of the
            noise, k.
        seed: Of the random starts.
    """

    threat: Threat
    steps: int
    step_size: float
    weight: float = 0.0
    seed: int = 0

    def at(self, fraction: float, seed: int) -> "Setting":
        """The same attack with a fraction of its radius and step."""
        return replace(self, threat=self.threat.scaled(fraction), step_size=self.step_size * fraction, seed=seed)


class Objective(ABC):
    """Batch and setting to the loss that the outer step descends."""

    @abstractmethod
    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """The loss, a scalar."""

    @abstractmethod
    def forwards(self, setting: Setting) -> int:
        """Forward passes that a sample costs; a gradient of the inputs counts as one, one of the weights as two."""

    def gentler(self, setting: Setting) -> tuple[Setting, str]:
        """What follows a roll-back, and in words: twice as many steps of half the length, where there were few."""
        if setting.steps >= FEW:
            return setting, ""
        softer = replace(setting, steps=2 * setting.steps, step_size=setting.step_size / 2)
        return softer, f"attacks of {softer.steps} steps of half the length"


def cross_entropy_of(labels: Tensor) -> Callable[[Logits], Tensor]:
    """Summed cross-entropy as a function of the logits, for `climb`."""
    return lambda logits: F.cross_entropy(logits, labels, reduction="sum")


def climb(
    network: nn.Module, loss: Callable[[Logits], Tensor], start: Inputs, inputs: Inputs, setting: Setting
) -> Inputs:
    """The last of the iterates x' <- P(x' + a s(grad loss(f(x')))), two passes a step.

    The network is attacked in evaluation mode without gradients of its weights; every mode and flag comes back.

    Args:
        network: Gives logits.
        loss: Summed over the samples.
        start: Where the ascent begins.
        inputs: Centres of the balls that it must not leave.
        setting: Threat, steps and their length.

    References:
        Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
    """
    points = start
    with attack_mode(network):
        for _ in range(setting.steps):
            point = points.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(network(point)), point)
            ahead = point.detach() + setting.step_size * setting.threat.steepest(gradient.nan_to_num())
            points = setting.threat.project(ahead, inputs)
    return points.detach()
