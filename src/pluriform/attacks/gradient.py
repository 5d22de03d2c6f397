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


def judge(
    module: nn.Module, inputs: Inputs, labels: Labels, objective: Objective = cross_entropy, eot: int = 1
) -> Verdict:
    """Loss and correctness without a gradient; arguments as in `ascend`."""
    with torch.no_grad():
        return _averaged([_verdict(module(inputs), labels, objective) for _ in range(eot)])


def ascend(
    module: nn.Module, inputs: Inputs, labels: Labels, objective: Objective = cross_entropy, eot: int = 1
) -> Ascent:
    """Verdict and gradient of the summed loss in `inputs` alone, by one forward and one backward.

    No `.grad` is written. The loss is summed, never averaged, so that a sample's gradient does not depend on the size
    of its batch.

    Args:
        module: Gives logits.
        inputs: Where to look.
        labels: True classes.
        objective: The loss.
        eot: Passes to average (expectation over transformation), for networks that answer at random. A sample is
            broken when at least half of them misclassify it.

    Raises:
        UnsupportedOpError: The outputs do not depend differentiably on the inputs.

    References:
        Athalye, Engstrom, Ilyas, Kwok, 2018, Synthesizing robust adversarial examples, arXiv 1707.07397 (EOT).
    """
    found = _ascend_once(module, inputs, labels, objective)
    if eot == 1:
        return found
    passes = [found, *(_ascend_once(module, inputs, labels, objective) for _ in range(eot - 1))]
    gradient = torch.stack([each.gradient for each in passes]).mean(0)
    return Ascent(_averaged([each.verdict for each in passes]), gradient)


def _ascend_once(module: nn.Module, inputs: Tensor, labels: Tensor, objective: Objective) -> Ascent:
    with torch.enable_grad():
        point = inputs.detach().requires_grad_()
        verdict = _verdict(module(point), labels, objective)
        loss = verdict.loss
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
    return Ascent(Verdict(loss.detach(), verdict.broken), gradient)


def _verdict(outputs: Tensor, labels: Tensor, objective: Objective) -> Verdict:
    return Verdict(objective(outputs, labels), outputs.detach().argmax(-1) != labels)


def _averaged(verdicts: list[Verdict]) -> Verdict:
    if len(verdicts) == 1:
        return verdicts[0]
    broken = torch.stack([each.broken for each in verdicts]).double().mean(0) >= 0.5
    return Verdict(torch.stack([each.loss for each in verdicts]).mean(0), broken)


@contextmanager
def attack_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without weight gradients; the mode of every submodule and every flag comes back afterwards."""
    with modes_kept(module), frozen(module):
        module.eval()
        yield
