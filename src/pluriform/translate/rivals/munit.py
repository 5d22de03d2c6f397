"""`MUNIT`: content and style encoders for two sides, made small; many styles for one content."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.translate.conditional import LEAST_SQUARES
from pluriform.translate.discriminator import PatchDiscriminator, recommended_patch_layers
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.losses import l1, r1_penalty
from pluriform.translate.munit import MUNITAutoencoder
from pluriform.translate.scale import Scale
from pluriform.translate.told_apart import told_apart
from pluriform.translate.translated import Painter
from pluriform.translate.translation import Cast, Translation

__all__ = ["MUNIT"]


@dataclass(frozen=True)
class MUNIT(Translation):
    """Images of both sides share a space of contents; a translation is a content with a style drawn or taken.

    Minimised are least-squares losses of both sides, and L1 of images that are taken apart and put together again, and
    of contents and styles that are put together and taken apart again.

    Args:
        width: Channels of autoencoders at full resolution and of discriminators at their first layer; 64 as published.
        blocks: Residual blocks; 4 as published.
        style: Dimensions of a style; 8 as published.
        images: Weight of images that come back.
        codes: Weight of contents and styles that come back.
        training: The game.

    References:
        Huang, Liu, Belongie, Kautz 2018, Multimodal Unsupervised Image-to-Image Translation, arXiv:1804.04732.
    """

    reads_features: ClassVar[bool] = False

    width: int = 32
    blocks: int = 3
    style: int = 8
    images: float | int = 10.0
    codes: float | int = 1.0
    training: GameRecipe = field(
        default_factory=lambda: GameRecipe(
            batch_size=4, generator_rate=1e-4, discriminator_rate=1e-4, beta1=0.5, beta2=0.999
        )
    )

    def __post_init__(self) -> None:
        self._require_least(width=1, blocks=1, style=1, images=0, codes=0)

    @property
    def recipe(self) -> GameRecipe:
        """How the game is played."""
        return self.training

    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        del module
        if data.classes:
            expected, remedy = "pictures on both sides", "use TSIT, SPADE or Pix2Pix for label maps"
            raise ConfigError(explain(expected, f"{data.name}, whose inputs are label maps", "MUNIT", remedy))
        layers = recommended_patch_layers(*self._size(data))
        sides = {"content": scale.channels, "target": scale.outputs}
        coders = {
            name: MUNITAutoencoder(channels, width=self.width, blocks=self.blocks, style=self.style)
            for name, channels in sides.items()
        }
        judges = {name: PatchDiscriminator(channels, self.width, layers) for name, channels in sides.items()}
        rules = MUNITGame(coders, judges, float(self.images), float(self.codes))
        facts = {
            "task": "unpaired",
            "style": self.style,
            "discriminator": f"{layers} layers, spectral norm, both sides",
        }
        return Cast(rules, MUNITPainter(coders["content"], coders["target"]), facts, False)


class MUNITPainter(Painter):
    """The content of one side with a style of the other.

    Args:
        content: Autoencoder of contents.
        target: Autoencoder of targets.
    """

    def __init__(self, content: MUNITAutoencoder, target: MUNITAutoencoder) -> None:
        super().__init__(content, reads_style=True, draws=True)
        self.target = target

    def style_of(self, image: Tensor) -> Tensor:
        """The style code."""
        return self.target.style(image)

    def draw_style(self, seed: int) -> Tensor:
        """A style from the standard normal."""
        return self.target.draw_style(1, torch.Generator().manual_seed(seed))

    def forward(self, content: Tensor, style: Any, seed: int, alpha: float) -> Tensor:
        """Translate; `alpha` shortens the style."""
        del seed
        network: Any = self.network
        codes = (alpha * style).to(content).expand(len(content), -1)
        return self.target.decode(network.content(content), codes, (int(content.shape[2]), int(content.shape[3])))


class MUNITGame:
    """Both sides at once.

    Args:
        coders: Autoencoders of `content` and `target`.
        judges: Discriminators of both.
        images: Weight.
        codes: Weight.
    """

    def __init__(
        self,
        coders: Mapping[str, MUNITAutoencoder],
        judges: Mapping[str, PatchDiscriminator],
        images: float,
        codes: float,
    ) -> None:
        self.generator, self.discriminator = nn.ModuleDict(dict(coders)), nn.ModuleDict(dict(judges))
        self.coders, self.images, self.codes = dict(coders), images, codes

    def generator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Least squares, and everything that must come back."""
        sides = _sides(batch)
        contents = {name: self.coders[name].content(image) for name, image in sides.items()}
        styles = {name: self.coders[name].style(image) for name, image in sides.items()}
        adversarial, images, codes = [], [], []
        for name, other in (("target", "content"), ("content", "target")):
            coder, size = self.coders[name], _size(sides[name])
            images.append(l1(coder.decode(contents[name], styles[name], size), sides[name]))
            drawn = self._drawn(batch, name, "generator")
            fake = coder.decode(contents[other], drawn, _size(sides[other]))
            adversarial.append(LEAST_SQUARES.generator([self.discriminator[name](fake)]))
            codes.append(l1(coder.content(fake), contents[other].detach()) + l1(coder.style(fake), drawn))
        parts = {
            "adversarial": torch.stack(adversarial).sum(),
            "images": self.images * torch.stack(images).sum(),
            "codes": self.codes * torch.stack(codes).sum(),
        }
        return {"generator": torch.stack(list(parts.values())).sum(), **parts}

    def fakes(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Of both sides, each with a drawn style."""
        sides = _sides(batch)
        return {
            name: self.coders[name].decode(
                self.coders[other].content(sides[other]), self._drawn(batch, name, "discriminator"), _size(sides[other])
            )
            for name, other in (("target", "content"), ("content", "target"))
        }

    def discriminator_losses(self, batch: ImageBatch, fakes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Least squares of both."""
        losses, apart = [], []
        for name, real in _sides(batch).items():
            outputs = [[self.discriminator[name](images.to(real.dtype))] for images in (real, fakes[name])]
            losses.append(LEAST_SQUARES.discriminator(outputs[0], outputs[1]))
            apart.append(told_apart(outputs[0], outputs[1], LEAST_SQUARES.threshold))
        return {"discriminator": torch.stack(losses).sum(), "told_apart": torch.stack(apart).mean()}

    def r1(self, batch: ImageBatch) -> Tensor:
        """Of both sides."""
        sides = _sides(batch).items()
        return torch.stack(
            [r1_penalty(lambda x, n=name: [self.discriminator[n](x)], real) for name, real in sides]
        ).sum()

    def state(self) -> dict[str, Tensor]:
        """Nothing beside the networks."""
        return {}

    def _drawn(self, batch: ImageBatch, name: str, player: str) -> Tensor:
        return (
            self.coders[name].draw_style(len(batch.content), batch.generator("style", name, player)).to(batch.content)
        )


def _sides(batch: ImageBatch) -> dict[str, Tensor]:
    return {"content": batch.content, "target": batch.target}


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[2]), int(images.shape[3])
