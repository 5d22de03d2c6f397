"""`Recipe`: the hyper-parameters of the training loop."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pluriform.errors import require
from pluriform.training.augmentation import Augmentation
from pluriform.training.schedule import Schedule

__all__ = ["Recipe"]

STEPS, LEAST_STEPS = 6000, 600
LEAST_EPOCHS, MOST_EPOCHS = 15, 60


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: Passes over the training split; `None` for about 6,000 steps, at least 15 epochs and at most 60 (or, for
            small data, as many as make 600 steps).
        batch_size: Samples a step.
        learning_rate: Peak of the schedule.
        optimizer: AdamW, or SGD with momentum 0.9.
        weight_decay: Decoupled in AdamW, part of the gradient in SGD.
        schedule: Of the learning rate, after the warm-up: `cosine`, `step` (a tenth at 50 % and 75 %), `constant`,
            `one-cycle`.
        warmup: Share of all steps with a linearly rising rate.
        label_smoothing: Share of the target probability spread over all classes.
        class_weights: `balanced` weighs each class by the inverse of its frequency; or one weight a class.
        augmentation: Random changes of the training images.
        patience: Stop after this many epochs without a lower validation loss and restore the best; `None` never stops.
        clip_norm: Largest norm of the gradient (of each member's, in an ensemble).
        ema: Decay of an exponential moving average of the weights, which then become the result; `None` for none.
        precision: `bf16` computes matrix products and convolutions in bfloat16, weights stay in float32.
        tensorboard: Also write TensorBoard files into the run; needs the extra `tensorboard`.
    """

    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float | int = 3e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float | int = 1e-2
    schedule: Schedule = "cosine"
    warmup: float | int = 0.05
    label_smoothing: float | int = 0.0
    class_weights: Literal["none", "balanced"] | tuple[float | int, ...] = "none"
    augmentation: Augmentation = field(default_factory=Augmentation)
    patience: int | None = None
    clip_norm: float | int | None = None
    ema: float | int | None = None
    precision: Literal["32", "bf16"] = "32"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        require(self, self.epochs is None or self.epochs >= 1, "epochs", "at least 1")
        require(self, self.batch_size >= 1, "batch_size", "at least 1")
        require(self, _positive(self.learning_rate), "learning_rate", "a number above 0")
        require(self, self.optimizer in ("adamw", "sgd"), "optimizer", "'adamw' or 'sgd'")
        require(self, math.isfinite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "0 or more")
        require(
            self,
            self.schedule in ("cosine", "step", "constant", "one-cycle"),
            "schedule",
            "'cosine', 'step', 'constant' or 'one-cycle'",
        )
        require(self, 0 <= self.warmup < 1, "warmup", "a share in [0, 1)")
        require(self, 0 <= self.label_smoothing < 1, "label_smoothing", "a share in [0, 1)")
        require(
            self,
            self.class_weights in ("none", "balanced")
            or (isinstance(self.class_weights, tuple) and all(_positive(weight) for weight in self.class_weights)),
            "class_weights",
            "'none', 'balanced' or one number above 0 for each class",
        )
        require(self, self.patience is None or self.patience >= 1, "patience", "at least 1 epoch, or None")
        require(self, self.clip_norm is None or _positive(self.clip_norm), "clip_norm", "a number above 0, or None")
        require(self, self.ema is None or 0 < self.ema < 1, "ema", "a decay in (0, 1), or None")
        require(self, self.precision in ("32", "bf16"), "precision", "'32' or 'bf16'")

    def epochs_for(self, samples: int) -> int:
        """Epochs for a training split of that many samples."""
        if self.epochs is not None:
            return self.epochs
        per_epoch = math.ceil(samples / self.batch_size)
        most = max(MOST_EPOCHS, math.ceil(LEAST_STEPS / per_epoch))
        return max(LEAST_EPOCHS, min(most, math.ceil(STEPS / per_epoch)))


def _positive(value: float | int) -> bool:
    return math.isfinite(value) and value > 0
