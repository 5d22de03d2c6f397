"""Adversarial examples to train on."""

from torch import nn

from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.pgd import pgd
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels

__all__ = ["adversarial_examples"]


def adversarial_examples(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    steps: int = 10,
    step_size: float | int | None = None,
    random_start: bool = False,
    seed: int = 0,
) -> Inputs:
    """The points of highest loss that PGD finds from a batch in the midst of its training.

    The network is attacked in evaluation mode. Its weights, their gradients, its buffers and the mode of every
    submodule stay as they are. Arguments are not checked again in every step: `check_scale` once is enough.

    Args:
        module: Gives logits.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds.
        steps: Gradient steps.
        step_size: In input units; `2.5 eps / steps` unless given.
        random_start: Start inside the ball instead of at the inputs.
        seed: Of the random starts.

    Returns:
        Perturbed inputs, detached; copies of the inputs where eps or `steps` is 0.

    References:
        Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
    """
    if threat.eps == 0 or steps == 0:
        return inputs.clone()
    with attack_mode(module):
        return pgd(
            module,
            inputs,
            labels,
            threat,
            seed=seed,
            steps=steps,
            step_size=step_size,
            random_start=random_start,
            stop_when_broken=False,
        )
