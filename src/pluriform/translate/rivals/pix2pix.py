"""`Pix2Pix`: a U-Net against one patch discriminator, for pairs."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from pluriform.data.data import Data
from pluriform.translate.conditional import CROSS_ENTROPY, OneScale, OneWayGame, Sketch, Weights
from pluriform.translate.discriminator import PatchDiscriminator, recommended_patch_layers
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.scale import Scale
from pluriform.translate.translated import Painter
from pluriform.translate.translation import Cast, Translation
from pluriform.translate.unet import UNet, recommended_halvings

__all__ = ["Pix2Pix"]


@dataclass(frozen=True)
class Pix2Pix(Translation):
    """A U-Net from content to target, trained by cross-entropy against a patch discriminator and L1 to the truth.

    The published training takes one image a step for 200 epochs; BatchNorm then computes other things in training and
    in use, so 8 a step are the default here. The discriminator sees real and fake images as one batch.

    Args:
        width: Channels of generator and discriminator at their first layer.
        l1: Weight of the truth.
        training: The game.

    References:
        Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
        arXiv:1611.07004.
    """

    reads_features: ClassVar[bool] = False

    width: int = 64
    l1: float | int = 100.0
    training: GameRecipe = field(
        default_factory=lambda: GameRecipe(generator_rate=2e-4, discriminator_rate=2e-4, beta1=0.5, beta2=0.999)
    )

    def __post_init__(self) -> None:
        self._require_least(width=1, l1=0)

    @property
    def recipe(self) -> GameRecipe:
        """How the game is played."""
        return self.training

    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        del module
        height, width = self._size(data)
        halvings, layers = recommended_halvings(height, width), recommended_patch_layers(height, width)
        generator = UNet(scale.channels, scale.outputs, halvings=halvings, width=self.width)
        seen = scale.channels + scale.outputs
        discriminator = OneScale(PatchDiscriminator(seen, self.width, layers, "batch", 1))

        def sketch(batch: ImageBatch, player: str) -> Sketch:
            del player
            return Sketch(generator(batch.content))

        weights = Weights(feature_matching=0.0, l1=float(self.l1))
        rules = OneWayGame(generator, sketch, discriminator, weights, conditional=True, adversarial=CROSS_ENTROPY)
        facts = {"task": "paired", "halvings": halvings, "discriminator": f"{layers} layers, batch norm"}
        return Cast(rules, Painter(generator), facts, True)
