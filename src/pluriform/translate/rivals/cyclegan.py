"""`CycleGAN`: two residual generators that undo each other, for unpaired sides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.translate.conditional import LEAST_SQUARES
from pluriform.translate.discriminator import PatchDiscriminator, recommended_patch_layers
from pluriform.translate.fake_buffer import FakeBuffer
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.losses import l1, r1_penalty
from pluriform.translate.resnet_generator import ResNetGenerator, recommended_blocks
from pluriform.translate.scale import Scale
from pluriform.translate.told_apart import told_apart
from pluriform.translate.translated import Painter
from pluriform.translate.translation import Cast, Translation

__all__ = ["CycleGAN"]

STORED = 50


@dataclass(frozen=True)
class CycleGAN(Translation):
    """Least-squares losses in both directions, and each image comes back to itself after both.

    Args:
        width: Channels of generators at full resolution and of discriminators at their first layer.
        blocks: Residual blocks; `None` for 9 from 256 pixels on, else 6.
        cycle: Weight of coming back.
        identity: Weight of leaving images of the target side alone, where both sides have the same channels.
        training: The game; the published one takes one image a step.

    References:
        Zhu, Park, Isola, Efros 2017, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks,
        arXiv:1703.10593.
    """

    reads_features: ClassVar[bool] = False

    width: int = 64
    blocks: int | None = None
    cycle: float | int = 10.0
    identity: float | int = 5.0
    training: GameRecipe = field(
        default_factory=lambda: GameRecipe(
            batch_size=1, generator_rate=2e-4, discriminator_rate=2e-4, beta1=0.5, beta2=0.999
        )
    )

    def __post_init__(self) -> None:
        self._require_least(width=1, blocks=1, cycle=0, identity=0)

    @property
    def recipe(self) -> GameRecipe:
        """How the game is played."""
        return self.training

    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        del module
        if data.classes:
            expected, remedy = "pictures on both sides", "use TSIT, SPADE or Pix2Pix for label maps"
            raise ConfigError(explain(expected, f"{data.name}, whose inputs are label maps", "CycleGAN", remedy))
        height, width = self._size(data)
        blocks = recommended_blocks(height, width) if self.blocks is None else self.blocks
        layers = recommended_patch_layers(height, width)
        there = ResNetGenerator(scale.channels, scale.outputs, blocks=blocks, width=self.width)
        back = ResNetGenerator(scale.outputs, scale.channels, blocks=blocks, width=self.width)
        judges = [
            PatchDiscriminator(sees, self.width, layers, "instance", 1) for sees in (scale.outputs, scale.channels)
        ]
        shapes = [self._shape(data, side) for side in ("targets", "inputs")]
        rules = CycleGame(there, back, judges, shapes, float(self.cycle), float(self.identity))
        facts = {"task": "unpaired", "blocks": blocks, "discriminator": f"{layers} layers, instance norm, both sides"}
        return Cast(rules, Painter(there), facts, False)

    def _shape(self, data: Data, side: str) -> tuple[int, ...]:
        images = data.train.batch(torch.arange(1))[0 if side == "inputs" else 1]
        sides = (self.training.crop,) * 2 if self.training.crop else tuple(images.shape[2:])
        return (int(images.shape[1]), *sides)


class CycleGame:
    """Both directions at once: contents to targets (`there`) and `back`.

    Args:
        there: From contents to targets.
        back: From targets to contents.
        judges: Of targets, and of contents.
        shapes: Of targets, and of contents.
        cycle: Weight.
        identity: Weight.
    """

    def __init__(
        self,
        there: nn.Module,
        back: nn.Module,
        judges: list[PatchDiscriminator],
        shapes: list[tuple[int, ...]],
        cycle: float,
        identity: float,
    ) -> None:
        self.generator = nn.ModuleDict({"there": there, "back": back})
        self.discriminator = nn.ModuleDict({"target": judges[0], "content": judges[1]})
        self.buffers = {
            name: FakeBuffer(STORED, shape) for name, shape in zip(("target", "content"), shapes, strict=True)
        }
        self.cycle, self.identity = cycle, identity if shapes[0][0] == shapes[1][0] else 0.0

    def generator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Least squares, cycle and identity of both directions."""
        there, back = self.generator["there"], self.generator["back"]
        target, content = there(batch.content), back(batch.target)
        adversarial = [
            LEAST_SQUARES.generator([self.discriminator[name](fake)])
            for name, fake in (("target", target), ("content", content))
        ]
        parts = {"adversarial": torch.stack(adversarial).sum()}
        parts["cycle"] = self.cycle * (l1(back(target), batch.content) + l1(there(content), batch.target))
        if self.identity:
            same = l1(there(batch.target), batch.target) + l1(back(batch.content), batch.content)
            parts["identity"] = self.identity * same
        return {"generator": torch.stack(list(parts.values())).sum(), **parts}

    def fakes(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Of both sides, some exchanged for earlier ones."""
        made = {"target": self.generator["there"](batch.content), "content": self.generator["back"](batch.target)}
        return {name: self.buffers[name].exchange(fake, batch.generator("buffer", name)) for name, fake in made.items()}

    def discriminator_losses(self, batch: ImageBatch, fakes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Least squares of both."""
        losses, apart = [], []
        for name, real in (("target", batch.target), ("content", batch.content)):
            judge = self.discriminator[name]
            outputs = [[judge(images.to(real.dtype))] for images in (real, fakes[name])]
            losses.append(LEAST_SQUARES.discriminator(outputs[0], outputs[1]))
            apart.append(told_apart(outputs[0], outputs[1], LEAST_SQUARES.threshold))
        return {"discriminator": torch.stack(losses).sum(), "told_apart": torch.stack(apart).mean()}

    def r1(self, batch: ImageBatch) -> Tensor:
        """Of both sides."""
        sides = (("target", batch.target), ("content", batch.content))
        return torch.stack(
            [r1_penalty(lambda x, n=name: [self.discriminator[n](x)], real) for name, real in sides]
        ).sum()

    def state(self) -> dict[str, Tensor]:
        """The stored fakes."""
        return {
            f"{name}/{part}": tensor
            for name, buffer in self.buffers.items()
            for part, tensor in (("stored", buffer.stored), ("count", buffer.count))
        }
