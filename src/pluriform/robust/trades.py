"""TRADES: clean accuracy, and outputs that do not change within the threat."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.noise import gaussian
from pluriform.axes import Logits
from pluriform.robust.objective import Objective, Setting, climb
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

__all__ = ["TRADES", "divergence"]

JITTER = 1e-3  # Of the range: at x itself the divergence has no slope.


def divergence(clean: Logits, moved: Logits) -> Tensor:
    """KL(p || p') = sum_k p_k (log p_k - log p'_k) of each sample, p and p' the softmax of the logits; `(batch,)`."""
    terms = F.kl_div(moved.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="none")
    return terms.sum(-1)


@dataclass(frozen=True, eq=False)
class TRADES(Objective):
    """min CE(f(x), y) + beta KL(p(x) || p(x')), x' from ascent of that divergence.

    The clean distribution that the ascent moves away from is computed once a batch. Gradients flow through both.
    With beta = 0 it is plain training.

    Args:
        network: What is trained.
        attacked: The same, as its attacker computes it.
        loss: Of the clean term.

    References:
        Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy, arXiv:1901.08573.
    """

    network: nn.Module
    attacked: nn.Module
    loss: Loss

    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """Both terms."""
        if not setting.weight:
            return self.loss(self.network(batch.inputs), batch.targets)
        inputs, (low, high) = batch.inputs, setting.threat.box
        with attack_mode(self.attacked), torch.no_grad():
            aim = self.attacked(inputs)
        begin = inputs + JITTER * (high - low) * gaussian(inputs, setting.seed)
        begin = setting.threat.project(begin, inputs)
        moved = climb(self.attacked, lambda logits: divergence(aim, logits).sum(), begin, inputs, setting)
        clean, attacked = self.network(inputs), self.network(moved)
        return self.loss(clean, batch.targets) + setting.weight * divergence(clean, attacked).mean()

    def forwards(self, setting: Setting) -> int:
        """2 n + 7: the clean distribution once, and the gradient of both terms; 3 without the second."""
        return 2 * setting.steps + 7 if setting.weight else 3
