"""`DistilledTranslation`: a thin translator learns the images of a wide one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.forms import load_form
from pluriform.graph.fingerprint import fingerprint
from pluriform.translate.conditional import OneWayGame
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.losses import l1
from pluriform.translate.scale import Scale
from pluriform.translate.spectral_norm import settle
from pluriform.translate.translated import Translated
from pluriform.translate.translation import Cast, Translation

__all__ = ["DistilledTranslation"]


@dataclass(frozen=True)
class DistilledTranslation(Translation):
    """Train a thin translator in its own game, with L1 to the images of a wide one beside its losses.

    What is minimised is the loss of `thin` plus `weight * |G_thin(x) - G_wide(x)|`: small translators that are trained
    alone lose the game against a discriminator long before they have learned what is where, which the wide one shows
    them. The wide translator stays in evaluation mode, with its first seed, and reads the style image of the batch
    where it reads any. Compare the costs of both by `evaluate`: parameters, multiply-accumulates, latency.

    Args:
        wide: Folder of a fitted translator of the same data; `None` is refused at `fit`.
        thin: The method of the thin one: `TSIT`, `SPADE` or `Pix2Pix` with its widths and its game.
        weight: Of the images of the wide one; 0 is the game of `thin` alone.

    References:
        Li, Lin, Ding, Liu, Zhu, Han 2020, GAN Compression: Efficient Architectures for Interactive Conditional GANs,
        arXiv:2003.08936, without its features of inner layers and its search.

    Example:
        >>> import tempfile, pluriform as pf
        >>> images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> data = pf.load(images, 1 - images, task="translation")
        >>> game = GameRecipe(updates=2, batch_size=4)
        >>> wide = TSIT(preset="small", training=game).fit(None, data).save(tempfile.mkdtemp() + "/wide")
        >>> form = DistilledTranslation(str(wide), TSIT(preset="tiny", training=game)).fit(None, data)
        >>> form.facts["wide_parameters"] > 3 * form.facts["generator_parameters"]
        True
    """

    wide: str | None = None
    thin: Translation = field(default_factory=lambda: TSIT(preset="tiny"))
    weight: float | int = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            where = "DistilledTranslation"
            raise ConfigError(explain("weight of 0 or more", f"{self.weight}", where, "change weight"))

    @property
    def recipe(self) -> GameRecipe:
        """How the thin one plays."""
        return self.thin.recipe

    def _check_network(self, module: nn.Module, data: Data) -> None:
        self.thin._check_network(module, data)

    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        cast, wide = self.thin._cast(module, data, scale), self._wide(data, scale)
        if not isinstance(cast.rules, OneWayGame):
            got, remedy = type(self.thin).__name__, "make TSIT, SPADE or Pix2Pix thin"
            raise ConfigError(explain("a game of one generator", got, "DistilledTranslation", remedy))
        facts = {
            "wide": f"{wide.origin.get('label') or type(wide.painter).__name__}, weights {fingerprint(wide.painter)}",
            "wide_parameters": sum(parameter.numel() for parameter in wide.painter.parameters()),
            "wide_weight": float(self.weight),
        }
        rules = _Taught(cast.rules, wide, float(self.weight))
        return Cast(rules, cast.painter, cast.facts | facts, cast.paired)

    def _wide(self, data: Data, scale: Scale) -> Translated:
        where = f"DistilledTranslation on {data.name}"
        if self.wide is None:
            raise ConfigError(explain("the folder of a wide translator", "none", where, "fit one and pass wide="))
        form: Any = load_form(self.wide)
        if not isinstance(form, Translated):
            raise ConfigError(explain("a fitted translator", type(form).__name__, where, "fit one with TSIT"))
        if form.scale != scale:
            got = (
                f"{form.scale.channels} channels to {form.scale.outputs}, in [{form.scale.low:g}, {form.scale.high:g}]"
            )
            expected = f"one of {scale.channels} channels to {scale.outputs}, in [{scale.low:g}, {scale.high:g}]"
            raise ShapeError(explain(expected, got, f"{where}, wide", "fit the wide translator on the same data"))
        return form.eval().requires_grad_(False)


class _Taught(OneWayGame):
    """The game of the thin translator with a term of the wide one."""

    def __init__(self, game: OneWayGame, wide: Translated, weight: float) -> None:
        super().__init__(
            game.generator,
            game.sketch,
            game.discriminator,
            game.weights,
            conditional=game.conditional,
            extractor=game.extractor,
            adversarial=game.adversarial,
        )
        settle(wide)  # Directions of a form that was stored as the average left them are none of its weights.
        self.wide, self.weight = wide, weight

    def _held(self, batch: ImageBatch, sketch: Any, real: Any, fake: Any) -> dict[str, Tensor]:
        parts = super()._held(batch, sketch, real, fake)
        return parts if not self.weight else parts | {"wide": self.weight * l1(sketch.image, self._shown(batch))}

    @torch.no_grad()
    def _shown(self, batch: ImageBatch) -> Tensor:
        """What the wide one makes of the batch."""
        painter = self.wide.to(batch.content.device).painter
        style = painter.style_of(batch.target) if painter.reads_style else None
        return painter(batch.content, style, 0, 1.0)
