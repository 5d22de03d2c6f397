"""Free adversarial training: each pass gives the gradients of weights and inputs at once."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.robust.objective import Objective, Setting
from pluriform.training.feed import Batch, Feed
from pluriform.training.loss import Loss

__all__ = ["Free", "Replays"]


class Replays(Feed):
    """A feed that gives every batch `replays` times in a row.

    Args:
        replays: How often, m.
        feed: As those of `Feed`.
    """

    def __init__(self, replays: int, *feed: Any) -> None:
        super().__init__(*feed)
        self.replays = replays
        self.distinct, self.steps = self.steps, self.steps * replays

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from step `start` on."""
        first, done = divmod(start, self.replays)
        for batch in itertools.islice(super().batches(epoch, first), self.distinct - first):
            yield from itertools.repeat(batch, self.replays - done)
            done = 0


@dataclass(frozen=True, eq=False)
class Free(Objective):
    """min CE(f(x + d), y); the backward pass of each update also moves d <- clamp(d + a s(g)), kept across batches.

    The network is in training mode, since its pass is that of the update.

    Args:
        network: What is trained.
        loss: Of the attacked batch.
        perturbation: d, `(batch_size, *input_shape)`; changed in place.

    References:
        Shafahi et al. 2019, Adversarial training for free!, arXiv:1904.12843.
    """

    network: nn.Module
    loss: Loss
    perturbation: Tensor

    def __call__(self, batch: Batch, setting: Setting) -> Tensor:
        """Cross-entropy of the batch under the carried perturbation, whose next step waits for the backward pass."""
        own = self.perturbation[: len(batch.inputs)]
        own.copy_(_inside(own, setting))  # A roll-back or a smaller radius may have left it outside.
        point = (batch.inputs + own).clamp(*setting.threat.box).requires_grad_()

        def ascend(gradient: Tensor) -> None:
            with torch.no_grad():
                own.copy_(_inside(own + setting.step_size * setting.threat.steepest(gradient.nan_to_num()), setting))

        point.register_hook(ascend)
        return self.loss(self.network(point), batch.targets)

    def forwards(self, setting: Setting) -> int:
        """3, as in plain training."""
        del setting
        return 3

    def gentler(self, setting: Setting) -> tuple[Setting, str]:
        """Steps of half the length."""
        return replace(setting, step_size=setting.step_size / 2), "steps of half the length"


def _inside(perturbation: Tensor, setting: Setting) -> Tensor:
    """Brought back to the radius; bounds are kept by the inputs, as the next batch has others."""
    unbounded = replace(setting.threat, bounds=(-math.inf, math.inf))
    return unbounded.project(perturbation, torch.zeros_like(perturbation))
