"""Loss, correctness and input gradient of a batch: the one thing that gradient attacks ask of a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from pluriform.attacks.objective import Objective, cross_entropy
from pluriform.axes import Inputs, Labels, Scores
from pluriform.errors import UnsupportedOpError, explain
from pluriform.graph.parameters import frozen, modes_kept

__all__ = ["Ascent", "Verdict", "ascend", "attack_mode", "judge"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the network says at a point.

    Attributes:
        loss: The objective of every sample.
        broken: Whether the sample is misclassified.
    """

    loss: Scores
    broken: Bool[Tensor, "batch"]


@dataclass(frozen=True, eq=False)
class Ascent:
    """A verdict and the way up.

    Attributes:
        verdict: What the network says at the point.
        gradient: Of the summed loss in the inputs.
    """

    verdict: Verdict
    gradient: Inputs


def judge(module: nn.Module, inputs: Inputs, labels: Labels, objective: Objective = cross_entropy) -> Verdict:
    """Loss and correctness without a gradient."""
    with torch.no_grad():
        outputs = module(inputs)
        return Verdict(objective(outputs, labels), outputs.argmax(-1) != labels)


def ascend(module: nn.Module, inputs: Inputs, labels: Labels, objective: Objective = cross_entropy) -> Ascent:
    """Verdict and gradient of the summed loss in `inputs` alone; no `.grad` is written.

    The loss is summed, never averaged, so that a sample's gradient does not depend on the size of its batch.

    Raises:
        UnsupportedOpError: The outputs do not depend differentiably on the inputs.
    """
    with torch.enable_grad():
        point = inputs.detach().requires_grad_()
        outputs = module(point)
        loss = objective(outputs, labels)
        gradient = torch.autograd.grad(loss.sum(), point, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise UnsupportedOpError(
            explain(
                "outputs differentiable in the inputs",
                f"no gradient from the forward of {type(module).__name__}",
                "attack",
                "remove detach, no_grad and rounding from its forward",
            )
        )
    return Ascent(Verdict(loss.detach(), outputs.detach().argmax(-1) != labels), gradient)


@contextmanager
def attack_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without weight gradients; the mode of every submodule and every flag comes back afterwards."""
    with modes_kept(module), frozen(module):
        module.eval()
        yield
