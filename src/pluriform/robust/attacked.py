"""Cross-entropy on attacked samples alone: PGD training, and FGSM with a random start."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pluriform.attacks.noise import start
from pluriform.robust.objective import Objective, Setting, climb, cross_entropy_of
from pluriform.training.feed import Batch

__all__ = ["Attacked"]


@dataclass(frozen=True, eq=False)
class Attacked(Objective):
    """min CE(f(x'), y), x' from projected ascent of the cross-entropy after a random start.

    With one step of 1.25 eps it is FGSM-RS; with that step of length 0, training with noise.

    Args:
        attacked: What is trained, as its attacker computes it.
        plain: The step of plain training.

    References:
        Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
        Wong, Rice, Kolter 2020, Fast is better than free, arXiv:2001.03994 (one step, random start).
    """

    attacked: nn.Module
    plain: Callable[[Batch], Tensor]

    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """Cross-entropy of the attacked batch."""
        begin = start(batch.inputs, setting.threat, setting.seed)
        moved = climb(self.attacked, cross_entropy_of(batch.targets), begin, batch.inputs, setting)
        return self.plain(Batch(moved, batch.targets))

    def forwards(self, setting: Setting) -> int:
        """2 n + 3."""
        return 2 * setting.steps + 3
