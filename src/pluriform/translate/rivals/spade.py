"""`SPADE`: label maps to photographs."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.translate.conditional import OneWayGame, Sketch, Weights
from pluriform.translate.discriminator import MultiScaleDiscriminator, recommended_patch_layers, recommended_scales
from pluriform.translate.encoder import StyleEncoder
from pluriform.translate.extractor import extractor_of
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.losses import gaussian_kl
from pluriform.translate.normalisation import recommended_norm
from pluriform.translate.scale import Scale
from pluriform.translate.spade import SPADEGenerator, recommended_doublings
from pluriform.translate.translated import Painter
from pluriform.translate.translation import Cast, Translation

__all__ = ["SPADE"]

KL = 0.05
CAP = 8


@dataclass(frozen=True)
class SPADE(Translation):
    """Label maps scale and shift the pixels of a trunk; hinge loss, feature matching, perceptual loss or L1.

    Args:
        width: Channels at full resolution, 64 as published.
        cap: Most channels over `width`, a power of two, 16 as published; `None` for 8, or 16 from 128 pixels on, where
            the trunk is doubled five times.
        hidden: Channels within the modulation, 128 as published.
        discriminator_width: Channels of its first layer, 64 as published.
        encoder: Whether the trunk starts from a latent vector, for several answers to one label map.
        feature_matching: Weight.
        perceptual: Weight of features of `module`.
        l1: Weight of the truth; `None` for 10 without `module` and 0 with one.
        training: The game.

    References:
        Park, Liu, Wang, Zhu 2019, Semantic Image Synthesis with Spatially-Adaptive Normalization, arXiv:1903.07291.
        Written from the paper's description.
    """

    width: int = 16
    cap: int | None = None
    hidden: int = 32
    discriminator_width: int = 32
    encoder: bool = False
    feature_matching: float | int = 10.0
    perceptual: float | int = 10.0
    l1: float | int | None = None
    training: GameRecipe = field(default_factory=GameRecipe)

    def __post_init__(self) -> None:
        self._require_least(width=1, cap=1, hidden=1, discriminator_width=1, feature_matching=0, perceptual=0, l1=0)

    @property
    def recipe(self) -> GameRecipe:
        """How the game is played."""
        return self.training

    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        if not data.classes:
            expected, remedy = "label maps as inputs", "name the folder label, give classes=, or use Pix2Pix"
            raise ConfigError(explain(expected, f"{data.name}, whose inputs are pictures", "SPADE", remedy))
        height, width = self._size(data)
        norm, doublings = recommended_norm(self.training.batch_size), recommended_doublings(height, width)
        generator = SPADEGenerator(
            scale.channels,
            scale.outputs,
            doublings=doublings,
            width=self.width,
            cap=self.cap or max(CAP, 2 ** (doublings - 1)),
            hidden=self.hidden,
            norm=norm,
            size=(height, width) if self.encoder else None,
        )
        encoder = None
        if self.encoder:
            self._require_whole(data)
            encoder = StyleEncoder(scale.outputs, side=StyleEncoder.side_for(height, width), width=self.width)
        player = SPADEPlayer(generator, encoder)
        layers, scales = recommended_patch_layers(height, width), recommended_scales(height, width)
        seen = scale.channels + scale.outputs
        discriminator = MultiScaleDiscriminator(seen, self.discriminator_width, layers, scales)
        extractor = extractor_of(module, data, scale)
        weights = Weights(
            float(self.feature_matching),
            float(self.perceptual) if extractor else 0.0,
            float((0.0 if extractor else 10.0) if self.l1 is None else self.l1),
            kl=KL if self.encoder else 0.0,
        )
        rules = OneWayGame(player, player.sketch, discriminator, weights, conditional=True, extractor=extractor)
        facts = {
            "task": "semantic",
            "norm": norm,
            "discriminator": f"{scales} scales of {layers} layers, spectral norm",
            "weights": {name: value for name, value in vars(weights).items() if value},
            "extractor": extractor.label if extractor else "none",
        }
        return Cast(rules, SPADEPainter(generator, draws=self.encoder), facts, True)


class SPADEPlayer(nn.Module):
    """Generator and encoder.

    Args:
        network: The generator.
        encoder: Of the truth, where the trunk starts from a latent vector.
    """

    def __init__(self, network: SPADEGenerator, encoder: StyleEncoder | None = None) -> None:
        super().__init__()
        self.network, self.encoder = network, encoder

    def sketch(self, batch: ImageBatch, player: str) -> Sketch:
        """The translation of a batch."""
        if self.encoder is None:
            return Sketch(self.network(batch.content))
        posterior = self.encoder(batch.target)
        start = posterior.draw(batch.generator("latent", player))
        return Sketch(self.network(batch.content, start), gaussian_kl(posterior))


class SPADEPainter(Painter):
    """SPADE's generator with its latent vector drawn by seed."""

    def forward(self, content: Tensor, style: Any, seed: int, alpha: float) -> Tensor:
        """Translate."""
        del style, alpha
        height, width = int(content.shape[2]), int(content.shape[3])
        network: Any = self.network
        start = network.draw_start(1, height, width, torch.Generator().manual_seed(seed))
        return network(content, None if start is None else start.to(content).expand(len(content), -1))
