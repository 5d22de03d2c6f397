"""MART: attacked samples with a margin, and more weight on what the network gets wrong."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.attacks.noise import gaussian
from pluriform.axes import Labels, Logits
from pluriform.robust.objective import Objective, Setting, climb, cross_entropy_of
from pluriform.robust.trades import JITTER, divergence
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

__all__ = ["MART", "boosted_margin"]

LEAST = 1e-4  # Of 1 - p, before the logarithm.


def boosted_margin(logits: Logits, labels: Labels) -> Tensor:
    """-log(1 - max_{k != y} p_k) of each sample, `(batch,)`; bounded by a guard of 1e-4."""
    others = logits.softmax(-1).scatter(-1, labels[:, None], -torch.inf)
    return -(1 + LEAST - others.amax(-1)).log()


@dataclass(frozen=True, eq=False)
class MART(Objective):
    """min CE(f(x'), y) - log(1 - max_{k != y} p_k(x')) + beta (1 - p_y(x)) KL(p(x) || p(x')).

    x' comes from ascent of the cross-entropy.

    Args:
        network: What is trained.
        attacked: The same, as its attacker computes it.
        loss: Of the first term.

    References:
        Wang et al. 2020, Improving adversarial robustness requires revisiting misclassified examples, ICLR.
    """

    network: nn.Module
    attacked: nn.Module
    loss: Loss

    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """The three terms."""
        inputs, labels, (low, high) = batch.inputs, batch.targets, setting.threat.box
        begin = setting.threat.project(inputs + JITTER * (high - low) * gaussian(inputs, setting.seed), inputs)
        moved = climb(self.attacked, cross_entropy_of(labels), begin, inputs, setting)
        return self.of(self.network(inputs), self.network(moved), labels, setting.weight)

    def of(self, clean: Logits, attacked: Logits, labels: Labels, beta: float) -> Tensor:
        """The loss of given logits."""
        doubt = 1 - clean.softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
        first = self.loss(attacked, labels) + boosted_margin(attacked, labels).mean()
        return first + beta * (doubt * divergence(clean, attacked)).mean()

    def forwards(self, setting: Setting) -> int:
        """2 n + 6: the gradient of clean and attacked samples."""
        return 2 * setting.steps + 6
