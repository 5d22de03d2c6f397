"""What all methods of translation share: checks, the game, the fitted form."""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.method import FitContext, Method
from pluriform.training.cost import peak_resident
from pluriform.training.seeds import derive_seed
from pluriform.translate.album import Album, some_styles
from pluriform.translate.game import Game, Rules
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageFeed
from pluriform.translate.scale import Scale
from pluriform.translate.translated import Painter, Translated

__all__ = ["Cast", "Translation", "warn_of_lost_style"]

STYLES = 16


@dataclass(frozen=True, eq=False)
class Cast:
    """Who plays.

    Attributes:
        rules: Networks and losses.
        painter: Of the fitted form; shares its networks with the rules.
        facts: What was decided, plain JSON.
        paired: Whether the rules need pairs; otherwise every content meets another target each time.
    """

    rules: Rules
    painter: Painter
    facts: dict[str, Any]
    paired: bool


@dataclass(frozen=True)
class Translation(Method):
    """Base of the methods that fit a translator by a game. A subclass casts the players, and has a `training`."""

    needs_module: ClassVar[bool] = False
    reads_features: ClassVar[bool] = True

    def fit(  # type: ignore[override]
        self,
        module: nn.Module | None,
        data: Data,
        *,
        seed: int = 0,
        run: str | Path | None = None,
        device: str = "auto",
    ) -> Translated:
        """Fit the translator; `module` and `data` stay unchanged, bit for bit.

        Args:
            module: A network, best a classifier, whose features hold the content; `None` for none. Methods without a
                perceptual loss take none.
            data: Data set for translation.
            seed: Source of every random draw.
            run: Folder for checkpoints, log and the fitted form. A finished run is loaded, an unfinished one resumed:
                networks, optimisers, average and position are then as if it had never been stopped.
            device: `"auto"` takes the GPU where there is one.

        Returns:
            A new module, in evaluation mode.

        Raises:
            DataError: The data set cannot be used.
            ConfigError: It does not suit the method, or the method not the size of the images.
            RunConflictError: `run` holds another configuration, for instance another preset.
            DivergenceError: A loss left the finite numbers.
        """
        return self._fit_form(module, data, seed, run, device)

    @property
    @abstractmethod
    def recipe(self) -> GameRecipe:
        """How the game is played."""

    @abstractmethod
    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        """The players, drawn from torch's default generator, which has its seed."""

    def _require_least(self, **least: int) -> None:
        """Raise where a hyper-parameter that is given lies below its least value, or is not finite."""
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value < float("inf"):
                expected, where = f"{name} of {lowest} or more", type(self).__name__
                raise ConfigError(explain(expected, f"{value}", where, f"change {name}"))

    def _check_network(self, module: nn.Module, data: Data) -> None:
        """Whatever takes the images will do; a classifier of other classes too."""
        if not self.reads_features:
            expected, got = "no network: this method reads no features", type(module).__name__
            where, remedy = f"{type(self).__name__} on {data.name}", "leave it out, or use TSIT or SPADE"
            raise ConfigError(explain(expected, got, where, remedy))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Translated:
        if data.task != "translation":
            remedy = 'load it with task="translation"'
            raise ConfigError(
                explain("data for translation", data.task, f"{type(self).__name__} on {data.name}", remedy)
            )
        scale, device, recipe = Scale.of(data), context.device, self.recipe
        if module is not None:
            module.to(device).eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(context.seed, "networks"))
            cast = self._cast(module, data, scale)
        if cast.paired:
            self._require_pairs(data)
        feed = ImageFeed(data, recipe, scale, derive_seed(context.seed, "feed"), device, cast.paired)
        for network in (cast.rules.generator, cast.rules.discriminator, cast.painter):
            network.to(device)
        album = Album(data, scale, cast.painter, recipe.updates, device)
        game = Game(cast.rules, feed, recipe, device, type(self).__name__.lower(), album)
        work = game.run(context)
        return Translated(
            cast.painter.eval(),
            data.signature,
            scale,
            some_styles(data, STYLES, context.seed).to(device) if cast.painter.reads_style else None,
            history=work.history,
            facts=cast.facts | _sizes(cast.rules),
            cost={
                "training_seconds": work.seconds,
                "updates": recipe.updates,
                "images": recipe.updates * recipe.batch_size,
                "peak_memory": peak_resident(device),
            },
            events=[event.to_json() for event in game.watch.events],
            snapshots=album.pictures,
        )

    def _size(self, data: Data) -> tuple[int, int]:
        """Height and width of what is trained on."""
        crop = self.recipe.crop
        return (crop, crop) if crop else (data.input_shape[1], data.input_shape[2])

    def _require_whole(self, data: Data) -> None:
        """Raise where a trunk that starts from a latent vector would be trained on pieces: it makes one size only."""
        if self._size(data) != tuple(data.input_shape[1:]):
            height, width = data.input_shape[1:]
            got, remedy = f"crop={self.recipe.crop} for {height}x{width} pixels", "leave out crop, or the encoder"
            expected = "whole images where an encoder gives the start"
            raise ConfigError(explain(expected, got, f"{type(self).__name__} on {data.name}", remedy))

    def _require_pairs(self, data: Data) -> None:
        if not data.paired:
            remedy = "use TSIT or CycleGAN, or give files of a pair the same name"
            got = f"{data.name}, whose sides are no pairs"
            raise ConfigError(explain("pairs of images", got, type(self).__name__, remedy))


def warn_of_lost_style(recipe: GameRecipe, norm: str) -> None:
    """Say in the log where BatchNorm over one image takes the style away."""
    if recipe.batch_size == 1 and norm == "batch":
        logging.getLogger("pluriform").warning(
            "batch norm over one image is instance norm, which takes the style away where channels change; "
            "use norm='joint' or a larger batch"
        )


def _sizes(rules: Rules) -> dict[str, Any]:
    return {
        f"{name}_parameters": sum(parameter.numel() for parameter in network.parameters())
        for name, network in (("generator", rules.generator), ("discriminator", rules.discriminator))
    }
