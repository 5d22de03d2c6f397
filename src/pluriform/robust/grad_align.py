"""GradAlign: FGSM whose input gradients are kept alike within the threat."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.noise import start
from pluriform.axes import Inputs
from pluriform.graph.parameters import modes_kept
from pluriform.robust.objective import Objective, Setting, climb, cross_entropy_of
from pluriform.training.feed import Batch

__all__ = ["GradAlign", "misalignment"]


def misalignment(first: Inputs, second: Inputs) -> Tensor:
    """Mean of 1 - cos(g, g') over the samples where both gradients are there; 0 where there is none."""
    first, second = first.flatten(1), second.flatten(1)
    present = first.detach().ne(0).any(1) & second.detach().ne(0).any(1)
    if not bool(present.any()):
        return second.sum() * 0
    return (1 - torch.cosine_similarity(first[present], second[present], dim=1, eps=1e-20)).mean()


@dataclass(frozen=True, eq=False)
class GradAlign(Objective):
    """min CE(f(x'), y) + lambda (1 - cos(g(x), g(x + u))), x' = P(x + a s(g(x))), u uniform in the threat.

    g is the gradient of the cross-entropy, in evaluation mode; g(x), which also gives x', counts as a constant, and the
    second order is that of g(x + u). With lambda = 0 it is FGSM.

    Args:
        network: What is trained.
        plain: The step of plain training.

    References:
        Andriushchenko, Flammarion 2020, Understanding and improving fast adversarial training, arXiv:2007.02617.
    """

    network: nn.Module
    plain: Callable[[Batch], Tensor]

    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """Cross-entropy of the attacked batch, and the penalty."""
        inputs, threat, loss = batch.inputs, setting.threat, cross_entropy_of(batch.targets)
        with attack_mode(self.network):
            point = inputs.detach().requires_grad_()
            (here,) = torch.autograd.grad(loss(self.network(point)), point)
            here = here.nan_to_num(0.0, 0.0, 0.0)
        moved = threat.project(inputs + setting.step_size * threat.steepest(here), inputs) if setting.steps else inputs
        if setting.steps > 1:
            moved = climb(self.network, loss, moved, inputs, replace(setting, steps=setting.steps - 1))
        if not setting.weight:
            return self.plain(Batch(moved, batch.targets))
        with modes_kept(self.network):
            self.network.eval()
            point = start(inputs, threat, setting.seed).requires_grad_()
            (there,) = torch.autograd.grad(loss(self.network(point)), point, create_graph=True)
        apart = misalignment(here, there.nan_to_num(0.0, 0.0, 0.0))
        return self.plain(Batch(moved, batch.targets)) + setting.weight * apart

    def forwards(self, setting: Setting) -> int:
        """2 n + 9: two for g(x + u) and four for its own gradient, three for the attacked batch."""
        return 2 * max(1, setting.steps) + (9 if setting.weight else 3)

    def gentler(self, setting: Setting) -> tuple[Setting, str]:
        """Twice lambda (where it is 0, the default), and more steps: lambda alone did not bring MNIST at 0.3 back."""
        setting, words = super().gentler(setting)
        softer = replace(setting, weight=2 * setting.weight or 0.2)
        return softer, ", ".join([f"lambda {softer.weight:g}", *filter(None, [words])])
