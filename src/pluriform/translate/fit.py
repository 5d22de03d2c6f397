"""`TSIT`: one network for style transfer, label maps to photographs, many styles, and general pairs."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.translate.conditional import OneWayGame, Sketch, Weights
from pluriform.translate.discriminator import (
    MultiScaleDiscriminator,
    recommended_patch_layers,
    recommended_scales,
)
from pluriform.translate.encoder import StyleEncoder
from pluriform.translate.extractor import extractor_of
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.generator import TSITGenerator, interpolate_styles
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.losses import gaussian_kl
from pluriform.translate.normalisation import NORMS, recommended_norm
from pluriform.translate.preset import PRESETS, preset_named
from pluriform.translate.scale import Scale
from pluriform.translate.translated import Painter
from pluriform.translate.translation import Cast, Translation, warn_of_lost_style

__all__ = ["TSIT", "Task", "Without"]

Without = Literal["nothing", "content", "style", "fade", "fadain"]
Task = Literal["auto", "style-transfer", "multi-modal", "semantic", "paired"]
KL = 0.05
UNPAIRED = ("style-transfer", "multi-modal")


@dataclass(frozen=True)
class TSIT(Translation):
    """Content and style as two streams of features, joined at every scale by FADE and FAdaIN.

    Minimised is the hinge loss against discriminators at several scales, plus feature matching, plus what holds the
    content: a perceptual loss on the features of `module`, where one is given, to the content where sides are unpaired
    and to the truth of pairs; without it `structure` (edges of the content) or `l1` to the truth.

    Tasks: `style-transfer`, an image in the style of another, unpaired; `multi-modal`, the same with several styles in
    the data; `semantic`, label maps to images; `paired`, any image to its partner. In the first two the style stream
    reads a reference image and the trunk starts from noise; in the others it starts from the content, or with `encoder`
    from a latent vector that an encoder finds in the truth and that is drawn afterwards. With `style` the style stream
    reads the truth of pairs in training, and any image afterwards; judge such a form with references that are not the
    truth, as `measure_images` does. Both together have a start and a style.

    What the paper leaves out one by one: `without="content"` starts from noise and knows the style alone,
    `without="style"` has no style stream, `without="fade"` modulates by the resized content itself as SPADE does,
    `without="fadain"` joins means of the style features to the trunk by a 1x1 convolution. No perceptual loss is
    `perceptual=0`.

    Args:
        task: One of them; `auto` goes by the data: label maps are `semantic`, pairs `paired`, several styles
            `multi-modal`.
        preset: Widths, `tiny` (0.3 million parameters at 64 pixels), `small`, `medium`, `large`, `published`.
        levels: Of the pyramids; `None` for as many as the smallest level of four pixels allows.
        norm: N of FADE, `batch`, `instance` or `joint` over all channels; `auto` takes `batch` from 4 images a step on,
            else `joint`, since BatchNorm over few images takes the style away.
        encoder: Whether `semantic` and `paired` work starts from a latent vector, for several answers to one content.
        style: Whether `semantic` and `paired` work has a style stream; the others have one anyway.
        without: Part that is left out: `nothing`, `content`, `style`, `fade` or `fadain`.
        feature_matching: Weight; `None` for 10 in semantic work and 1 otherwise.
        perceptual: Weight of features of `module`; `None` for 20 in semantic work and 1 otherwise, as published for
            VGG-19.
        l1: Weight of the truth of pairs; `None` for 10 without `module` and 0 with one.
        structure: Weight of fine and coarse edges where sides are unpaired; `None` for 10 without `module` and 0 with
            one.
        training: The game.

    References:
        Jiang, Zhang, Huang, Liu, Shi, Loy 2020, TSIT: A Simple and Versatile Framework for Image-to-Image Translation,
        arXiv:2007.12072. Written from the paper's description.

    Example:
        >>> import pluriform as pf
        >>> images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> data = pf.load(images, 1 - images, task="translation")
        >>> form = TSIT(preset="tiny", training=GameRecipe(updates=2, batch_size=4)).fit(None, data)
        >>> form(images[:2]).shape
        torch.Size([2, 3, 16, 16])
    """

    task: Task = "auto"
    preset: Literal["tiny", "small", "medium", "large", "published"] = "small"
    levels: int | None = None
    norm: Literal["auto", "batch", "instance", "joint"] = "auto"
    encoder: bool = False
    style: bool = False
    without: Without = "nothing"
    feature_matching: float | int | None = None
    perceptual: float | int | None = None
    l1: float | int | None = None
    structure: float | int | None = None
    training: GameRecipe = field(default_factory=GameRecipe)

    def __post_init__(self) -> None:
        tasks = ("auto", *UNPAIRED, "semantic", "paired")
        parts = (
            ("task", tasks),
            ("preset", tuple(PRESETS)),
            ("norm", ("auto", *NORMS)),
            ("without", get_args(Without)),
        )
        for name, known in parts:
            if getattr(self, name) not in known:
                got = repr(getattr(self, name))
                raise ConfigError(explain(f"{name} one of {', '.join(known)}", got, "TSIT", f"change {name}"))
        for name in ("feature_matching", "perceptual", "l1", "structure"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(explain(f"{name} of 0 or more, or None", f"{value}", "TSIT", f"change {name}"))

    @property
    def recipe(self) -> GameRecipe:
        """How the game is played."""
        return self.training

    def _cast(self, module: nn.Module | None, data: Data, scale: Scale) -> Cast:
        task = self._task(data)
        unpaired = task in UNPAIRED
        self._check_contents(task, data)
        self._check_encoder(task, data)
        preset = preset_named(self.preset)
        height, width = self._size(data)
        levels = preset.levels_for(height, width) if self.levels is None else self.levels
        norm = recommended_norm(self.training.batch_size) if self.norm == "auto" else self.norm
        warn_of_lost_style(self.training, norm)
        start = "noise" if unpaired else "latent" if self.encoder else "content"
        styled = (unpaired or self.style) and self.without != "style"
        self._check_parts(styled, start)
        generator = TSITGenerator(
            0 if self.without == "content" else scale.channels,
            scale.outputs if styled else 0,
            scale.outputs,
            levels=levels,
            width=preset.width,
            cap=preset.cap,
            norm=norm,
            start=start,
            fade=self.without != "fade",
            fadain=self.without != "fadain",
            size=(height, width) if start == "latent" else None,
        )
        encoder = None
        if start == "latent":
            side = StyleEncoder.side_for(height, width)
            encoder = StyleEncoder(scale.outputs, side=side, width=preset.width)
        layers, scales = recommended_patch_layers(height, width), recommended_scales(height, width)
        seen = scale.outputs if unpaired else scale.outputs + scale.channels
        discriminator = MultiScaleDiscriminator(seen, preset.discriminator_width, layers, scales)
        player = TSITPlayer(generator, encoder)
        extractor = extractor_of(module, data, scale)
        weights = self._weights(task, extractor is not None)
        rules = OneWayGame(player, player.sketch, discriminator, weights, conditional=not unpaired, extractor=extractor)
        facts = {
            "task": task,
            "levels": levels,
            "norm": norm,
            "start": start,
            "style": "reference" if styled else "none",
            "without": self.without,
            "discriminator": f"{scales} scales of {layers} layers, spectral norm"
            + (f", R1 {self.training.r1:g}" if self.training.r1 else ""),
            "weights": {name: value for name, value in vars(weights).items() if value},
            "extractor": extractor.label if extractor else "none",
        }
        return Cast(rules, TSITPainter(generator, styled, start != "content"), facts, not unpaired)

    def _check_contents(self, task: str, data: Data) -> None:
        """Raise where nothing would hold the content."""
        if task in UNPAIRED and data.classes:
            expected, remedy = f"pictures as contents of {task}", "give each label map its image, under the same name"
            raise ConfigError(explain(expected, f"{data.name}, whose inputs are label maps", "TSIT", remedy))

    def _check_encoder(self, task: str, data: Data) -> None:
        """Raise where an encoder would have no truth to read, or pieces of it."""
        if self.encoder and task in UNPAIRED:
            expected, got = (
                "pairs where an encoder gives the start",
                f"encoder=True for {task}, which starts from noise",
            )
            remedy = "leave out encoder: references and noise give several answers already"
            raise ConfigError(explain(expected, got, f"TSIT on {data.name}", remedy))
        if self.encoder:
            self._require_whole(data)

    def _check_parts(self, styled: bool, start: str) -> None:
        """Raise where what is left out is not there."""
        missing = {"content": start != "noise", "style": start != "noise" and not self.style, "fadain": not styled}
        if missing.get(self.without):
            expected = "unpaired work" if self.without == "content" else "work with a style stream"
            got, remedy = f"without={self.without!r} where there is none", "leave it out, or give style=True to pairs"
            raise ConfigError(explain(expected, got, "TSIT", remedy))

    def _task(self, data: Data) -> str:
        if self.task == "auto":
            if not data.paired:
                return "multi-modal" if data.styles else "style-transfer"
            return "semantic" if data.classes else "paired"
        got = f"task={self.task!r} on {data.name}"
        if self.task == "semantic" and not data.classes:
            remedy = "name the folder label, or give classes="
            raise ConfigError(explain("label maps as inputs", got + ", whose inputs are pictures", "TSIT", remedy))
        if self.task == "multi-modal" and len(data.styles) < 2:
            remedy = "put each style into a folder of its own below trainB, or use style-transfer"
            raise ConfigError(explain("several styles", got + f", which names {len(data.styles)}", "TSIT", remedy))
        return self.task

    def _weights(self, task: str, extracted: bool) -> Weights:
        def chosen(given: float | int | None, otherwise: float) -> float:
            return otherwise if given is None else float(given)

        semantic = task == "semantic"
        return Weights(
            chosen(self.feature_matching, 10.0 if semantic else 1.0),
            chosen(self.perceptual, 20.0 if semantic else 1.0) if extracted else 0.0,
            0.0 if task in UNPAIRED else chosen(self.l1, 0.0 if extracted else 10.0),
            chosen(self.structure, 0.0 if extracted else 10.0) if task in UNPAIRED else 0.0,
            KL if self.encoder else 0.0,
        )


class TSITPlayer(nn.Module):
    """What the generator's optimiser trains: the network and, where it starts from a latent vector, the encoder.

    Args:
        network: TSIT's generator.
        encoder: Of the truth.
    """

    def __init__(self, network: TSITGenerator, encoder: StyleEncoder | None = None) -> None:
        super().__init__()
        self.network, self.encoder = network, encoder

    def sketch(self, batch: ImageBatch, player: str) -> Sketch:
        """The translation of a batch, with a start of its own for each player."""
        if self.encoder is not None:
            posterior = self.encoder(batch.target)
            start: Any = posterior.draw(batch.generator("latent", player))
            return Sketch(self.network(batch.content, batch.target, start), gaussian_kl(posterior))
        size, height, width = len(batch.content), *batch.content.shape[2:]
        start = self.network.draw_start(size, height, width, batch.generator("start", player))
        start = None if start is None else start.to(batch.content)
        return Sketch(self.network(batch.content, batch.target, start))


class TSITPainter(Painter):
    """TSIT's generator with its start drawn by seed."""

    network: TSITGenerator

    def style_of(self, image: Tensor) -> Any:
        """Statistics of the style features."""
        return self.network.style_of(image)

    def blend(self, one: Any, two: Any, share: float) -> Any:
        """Means and deviations in between."""
        return interpolate_styles(one, two, share)

    def forward(self, content: Tensor, style: Any, seed: int, alpha: float) -> Tensor:
        """Translate."""
        height, width = int(content.shape[2]), int(content.shape[3])
        start = self.network.draw_start(1, height, width, torch.Generator().manual_seed(seed))
        start = None if start is None else start.to(content).expand(len(content), *[-1] * (start.dim() - 1))
        return self.network(content, style, start, alpha)
