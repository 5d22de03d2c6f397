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

__all__ = ["Ascent", "Verdict", "ascend", "attack_mode", "judge", "no_gradient", "raw_ascent"]


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
    passes = [raw_ascent(module, inputs, labels, objective) for _ in range(eot)]
    gradients = [each.gradient.nan_to_num() for each in passes]
    gradient = gradients[0] if eot == 1 else torch.stack(gradients).mean(0)
    return Ascent(_averaged([each.verdict for each in passes]), gradient)


def raw_ascent(module: nn.Module, inputs: Inputs, labels: Labels, objective: Objective = cross_entropy) -> Ascent:
    """As `ascend` in one pass, with the gradient as the network gives it, NaN included."""
    with torch.enable_grad():
        point = inputs.detach().requires_grad_()
        verdict = _verdict(module(point), labels, objective)
        loss = verdict.loss
        gradient = torch.autograd.grad(loss.sum(), point, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise no_gradient(module)
    return Ascent(Verdict(loss.detach(), verdict.broken), gradient)


def no_gradient(module: nn.Module) -> UnsupportedOpError:
    """The error of a forward that gradients do not pass."""
    remedy = "remove detach, no_grad and rounding from its forward, or use the attack square"
    if torch.is_inference_mode_enabled():
        remedy = "leave torch.inference_mode to attack"
    got = f"no gradient from the forward of {type(module).__name__}"
    return UnsupportedOpError(explain("outputs differentiable in the inputs", got, "attack", remedy))


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
