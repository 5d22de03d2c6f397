"""`Adversary`: the step closure of adversarial training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pluriform.attacks.threat import Threat
from pluriform.robust.objective import Objective, Setting
from pluriform.robust.probe import Probe
from pluriform.training.feed import Batch
from pluriform.training.seeds import derive_seed

__all__ = ["Adversary"]


class Adversary:
    """Batch to loss: eps grows linearly over the first `ramp` steps, a probe looks for catastrophic overfitting.

    Args:
        objective: The scheme of training.
        setting: At the full radius.
        probe: Looks at the network before updates.
        ramp: Steps until the radius is full; 0 for at once.
        seed: Of the random starts.
    """

    def __init__(self, objective: Objective, setting: Setting, probe: Probe, ramp: int, seed: int) -> None:
        self.objective, self.setting, self.probe, self.ramp, self.seed = objective, setting, probe, ramp, seed
        self.fault: str | None = None
        self.done = torch.zeros((), dtype=torch.int64)
        self.forwards = torch.zeros((), dtype=torch.int64)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, beside the network."""
        return {**self.probe.state, "done": self.done, "forwards": self.forwards}

    def fraction(self, step: int) -> float:
        """Of the full radius, at a step."""
        return min(1.0, (step + 1) / self.ramp) if self.ramp else 1.0

    def threat(self, step: int) -> Threat:
        """The threat at a step."""
        return self.setting.threat.scaled(self.fraction(step))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and figures of a step."""
        step = int(self.done)
        now, following = self.threat(step), self.threat(step + self.probe.every)
        if self.probe.due:
            self.forwards += self.probe.forwards(1 if now == following else 2)
        self.fault = self.probe.look(now, following)
        setting = self.setting.at(self.fraction(step), derive_seed(self.seed, "attack", step))
        self.done += 1
        self.forwards += len(batch.inputs) * self.objective.forwards(setting)
        loss = self.objective(batch, setting)
        return {"loss": loss, "eps": torch.tensor(float(now.eps)), "probe": self.probe.accuracy.clone()}

    def check(self, figures: Mapping[str, Tensor]) -> str | None:
        """What is wrong with a step, in words, or `None`."""
        loss = figures["loss"].detach()
        return self.fault if bool(loss.isfinite()) else f"loss is {float(loss)}"

    def gentler(self) -> str:
        """What follows a roll-back, in words."""
        self.setting, words = self.objective.gentler(self.setting)
        return words

    def afterwards(self, _: int) -> None:
        """The probe starts anew."""
        self.probe.forget()
