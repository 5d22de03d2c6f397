"""N-FGSM: one step from noise wider than the threat, not brought back into it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from pluriform.attacks.noise import start
from pluriform.robust.objective import Objective, Setting, climb, cross_entropy_of
from pluriform.training.feed import Batch

__all__ = ["NoisyFGSM"]


@dataclass(frozen=True, eq=False)
class NoisyFGSM(Objective):
    """min CE(f(x'), y), x' = clip(x + u + a s(g(x + u))), u uniform in k eps.

    The wide noise keeps catastrophic overfitting away at the price of FGSM; `weight` is k.

    Args:
        attacked: What is trained, as its attacker computes it.
        plain: The step of plain training.

    References:
        de Jorge et al. 2022, Make some noise: reliable and efficient single-step adversarial training,
        arXiv:2202.01181.
    """

    attacked: nn.Module
    plain: Callable[[Batch], Tensor]

    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """Cross-entropy of the attacked batch."""
        begin = start(batch.inputs, setting.threat.scaled(setting.weight), setting.seed)
        reach = setting.weight + 1 + setting.steps * setting.step_size / setting.threat.eps
        wide = replace(setting, threat=setting.threat.scaled(reach))  # Only the bounds are kept to.
        moved = climb(self.attacked, cross_entropy_of(batch.targets), begin, batch.inputs, wide)
        return self.plain(Batch(moved, batch.targets))

    def forwards(self, setting: Setting) -> int:
        """2 n + 3."""
        return 2 * setting.steps + 3

    def gentler(self, setting: Setting) -> tuple[Setting, str]:
        """Noise wider by eps."""
        return replace(setting, weight=setting.weight + 1), f"noise of {setting.weight + 1:g} eps"
