"""`GameRecipe`: the hyper-parameters of a game of generator and discriminator."""

import math
from dataclasses import dataclass
from typing import Literal

from pluriform.errors import require

__all__ = ["GameRecipe"]


@dataclass(frozen=True)
class GameRecipe:
    """How generator and discriminator are trained against each other.

    Each update is one step of the generator, then one of the discriminator with the fake drawn again. Both use Adam,
    the discriminator with a rate of its own (two time scales).

    Args:
        updates: Steps of each player.
        batch_size: Images a step.
        generator_rate: Learning rate.
        discriminator_rate: Learning rate.
        beta1: Of Adam.
        beta2: Of Adam.
        decay: Share of the updates, the last ones, over which both rates fall to 0 in a line.
        ema: Decay of an exponential moving average of the generator, which becomes the result; `None` for none.
        r1: Weight of the R1 penalty on the discriminator, taken every 16 updates; 0 leaves it to its spectral norm.
        flip: Mirror content and target together with this probability.
        crop: Side of the random pieces that are trained on; `None` for whole images. It must suit the network.
        precision: `bf16` computes matrix products and convolutions in bfloat16, weights stay in float32.

    References:
        Heusel et al. 2017, arXiv:1706.08500 (two time scales); Mescheder et al. 2018, arXiv:1801.04406 (R1).
    """

    updates: int = 4000
    batch_size: int = 8
    generator_rate: float | int = 1e-4
    discriminator_rate: float | int = 4e-4
    beta1: float | int = 0.0
    beta2: float | int = 0.9
    decay: float | int = 0.5
    ema: float | int | None = 0.999
    r1: float | int = 0.0
    flip: float | int = 0.5
    crop: int | None = None
    precision: Literal["32", "bf16"] = "32"

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size"):
            require(self, getattr(self, name) >= 1, name, "at least 1")
        for name in ("generator_rate", "discriminator_rate"):
            value = getattr(self, name)
            require(self, math.isfinite(value) and value > 0, name, "a number above 0")
        for name in ("beta1", "beta2"):
            require(self, 0 <= getattr(self, name) < 1, name, "in [0, 1)")
        for name in ("decay", "flip"):
            require(self, 0 <= getattr(self, name) <= 1, name, "in [0, 1]")
        require(self, self.ema is None or 0 < self.ema < 1, "ema", "a decay in (0, 1), or None")
        require(self, math.isfinite(self.r1) and self.r1 >= 0, "r1", "0 or more")
        require(self, self.crop is None or self.crop >= 1, "crop", "pixels, or None")
        require(self, self.precision in ("32", "bf16"), "precision", "'32' or 'bf16'")

    def factor(self, update: int) -> float:
        """Factor of both learning rates at an update, from 0: 1, then a line to 0 over the last `decay` of them."""
        falling = self.decay * self.updates
        return 1.0 if not falling else min(1.0, (self.updates - update) / falling)
