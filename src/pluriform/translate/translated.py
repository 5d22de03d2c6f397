"""`Translated`: a fitted translator, images in and images out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.axes import Images
from pluriform.data.data import Data
from pluriform.data.label_maps import check_ids
from pluriform.data.signature import Signature
from pluriform.errors import BoundsError, ConfigError, NonFiniteError, ShapeError, explain
from pluriform.freed_memory import keep_freed_memory
from pluriform.graph.parameters import modes_kept
from pluriform.prediction import Translator
from pluriform.training.seeds import derive_seed
from pluriform.translate.augmentation import mixed_with_translations
from pluriform.translate.scale import Scale

__all__ = ["Painter", "Translated", "moments_of"]

TIMES = 8


def moments_of(updates: int) -> list[int]:
    """After which updates of a training some translations are kept: 1/128, 1/64, ... 1/2 and all, each once.

    Example:
        >>> moments_of(4000), moments_of(9)
        ([31, 62, 125, 250, 500, 1000, 2000, 4000], [1, 2, 4, 9])
    """
    return sorted({max(1, round(updates / 2**power)) for power in range(TIMES)})


class Painter(nn.Module):
    """What a translator computes between scaled images: `painter(content, style, seed, alpha)`, all in [-1, 1].

    `style` is an image or what `style_of` gives, `seed` decides what is drawn: the same for every image of a batch, so
    that an image is translated alike in whatever batch it comes. This base is the plain case: a network that takes the
    content alone.

    Args:
        network: Content to image.

    Attributes:
        reads_style: Whether the style image counts.
        draws: Whether the seed counts.
    """

    def __init__(self, network: nn.Module, reads_style: bool = False, draws: bool = False) -> None:
        super().__init__()
        self.network, self.reads_style, self.draws = network, reads_style, draws

    def style_of(self, image: Tensor) -> Any:
        """What the painter takes from a style image."""
        return image

    def draw_style(self, seed: int) -> Any:
        """A style drawn without any image, for one content; `None` where styles come from images only."""
        del seed

    def blend(self, one: Any, two: Any, share: float) -> Any:
        """A style between two."""
        return torch.lerp(one, two, share)

    def forward(self, content: Tensor, style: Any, seed: int, alpha: float) -> Tensor:
        """Translate."""
        del style, seed, alpha
        return self.network(content)


class Translated(Translator):
    """A fitted translator.

    Args:
        painter: Translates in [-1, 1].
        signature: Facts of the data.
        scale: Between data and network.
        styles: Some training images of the target side, in the bounds of the data, for translations without a
            reference; `None` where the style does not count.
        history: Mean figures of every fiftieth of the updates, by name.
        facts: What was decided and found out, plain JSON.

    Attributes:
        cost: Seconds and updates of the training.
        events: What the watch noticed in the training.
        snapshots: Translations of a few contents over the training, uint8,
            `(times, contents, channels, height, width)`; `None` where none were kept. A form of an earlier version
            begins with black ones where its training was too short for all.
    """

    styles: Tensor | None
    snapshots: Tensor | None

    def __init__(
        self,
        painter: Painter,
        signature: Signature,
        scale: Scale,
        styles: Tensor | None,
        *,
        history: dict[str, list[float]],
        facts: dict[str, Any],
        cost: dict[str, Any],
        events: list[dict[str, Any]],
        snapshots: Tensor | None = None,
    ) -> None:
        super().__init__(signature)
        self.painter, self.scale = painter, scale
        self.register_buffer("styles", styles)
        self.register_buffer("snapshots", snapshots)
        self.history, self.facts, self.cost, self.events = history, facts, cost, events
        self.batch_size = 32

    def forward(self, content: Images, style: Images | None = None, seed: int = 0, alpha: float | int = 1.0) -> Images:
        """Translate, differentiable in content (where it is a picture) and style.

        Args:
            content: `(batch, channels, height, width)` in the bounds of the data, or label ids with one channel.
            style: Reference images, one a content or one for all, of any size; `None` for one of `styles`, chosen by
                `seed`. Ignored where the style does not count.
            seed: Of what is drawn: noise or latent code, and the style without a reference.
            alpha: Strength of the style, 0 for none.
        """
        return self._painted(content, self._style(style, seed), seed, float(alpha))

    @torch.no_grad()
    def translate(
        self,
        content: Tensor,
        style: Tensor | None = None,
        *,
        seed: int = 0,
        alpha: float | int = 1.0,
        batch_size: int | None = None,
    ) -> Tensor:
        """Translate in evaluation mode, batch by batch, without gradients; checked, and on the CPU.

        Args:
            content: As of `forward`.
            style: As of `forward`.
            seed: As of `forward`.
            alpha: As of `forward`.
            batch_size: Images at once.

        Raises:
            ShapeError: No images with the channels of the data, or styles that are neither one nor as many as contents.
            NonFiniteError: NaN or infinity.
            LabelError: An id that is no class of the label maps.
        """
        self.check(content, style)

        def paint(own: Tensor, place: Tensor) -> list[Tensor]:
            return [self(own, None if style is None else self._at(style, place), seed, alpha)]

        return self._by_batches(content, paint, batch_size)[0]

    def draw(self, content: Tensor, count: int, *, seed: int = 0) -> list[Tensor]:
        """`count` translations of every content, each with a draw and a style of its own.

        Raises:
            ConfigError: The translator knows one translation only.
        """
        if not (self.painter.reads_style or self.painter.draws):
            remedy = "fit one with styles or with noise"
            raise ConfigError(explain("a translator of several styles", "one of one", "draw", remedy))
        seeds = [derive_seed(seed, "draw", number) for number in range(count)]
        styles = self.references(count, seed=seed)
        return [self.translate(content, style, seed=own) for own, style in zip(seeds, styles, strict=True)]

    def references(self, count: int, *, seed: int = 0) -> list[Tensor | None]:
        """So many of `styles`, one each: all before one comes again. `None` each where styles are no images."""
        if self.styles is None or not self.painter.reads_style or self.painter.draw_style(seed) is not None:
            return [None] * count
        generator = torch.Generator().manual_seed(derive_seed(seed, "references"))
        rounds = -(-count // len(self.styles))
        order = [place for _ in range(rounds) for place in torch.randperm(len(self.styles), generator=generator)]
        return [self.styles[place : place + 1] for place in map(int, order[:count])]

    @torch.no_grad()
    def interpolate(
        self,
        content: Tensor,
        one: Tensor,
        two: Tensor,
        shares: Sequence[float | int],
        *,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> list[Tensor]:
        """Translations in styles between those of two images: share 0 gives the first, 1 the second.

        Args:
            content: Contents.
            one: One style image, `(1, channels, height, width)`.
            two: Another.
            shares: One a translation.
            seed: Of noise.
            batch_size: Images at once.

        Raises:
            ConfigError: The style does not count.
        """
        if not self.painter.reads_style:
            raise ConfigError(explain("a translator that reads styles", "none", "interpolate", "fit one with styles"))
        self.check(content, one)
        self.check(content, two)

        def paint(own: Tensor, place: Tensor) -> list[Tensor]:
            first, second = (self._style(self._at(image, place), seed) for image in (one, two))
            styles = [self.painter.blend(first, second, float(share)) for share in shares]
            return [self._painted(own, style, seed, 1.0) for style in styles]

        return self._by_batches(content, paint, batch_size)

    def augment(
        self,
        data: Data,
        *,
        originals: float | int = 0.5,
        versions: int = 1,
        references: Tensor | None = None,
        seed: int = 0,
    ) -> Data:
        """A labelled data set whose training images partly look as the other side does; labels stay.

        What is trained on it learns what holds in both looks, as far as translations keep what the labels name: judge
        that first (`content_kept` of `measure_images`). Validation and test stay as they are; to judge in the other
        domain takes labelled images of it.

        Args:
            data: Labelled images with the channels and bounds that the translator was fitted on, before and after.
            originals: Share of the training images that stays as it is, by class share; 0 translates all.
            versions: Copies of the training split, each with originals and styles of its own. A pass over them takes
                as many times longer.
            references: Images of the other side, of which each translation takes the style of one; the more of them,
                the more looks. `None` for the training images that the translator remembers (`styles`).
            seed: Of every draw.

        Returns:
            A new data set with `versions` times as many training images.

        Raises:
            ConfigError: No labelled images in memory, no such share or number, a translator of label maps, or several
                versions by one that knows one translation.
            ShapeError: Other channels.
            BoundsError: Other bounds.

        Example:
            >>> import pluriform as pf
            >>> from pluriform.translate.fit import TSIT, GameRecipe
            >>> images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
            >>> sides = pf.load(images, 1 - images[:20], task="translation", validation=0)
            >>> form = TSIT(preset="tiny", training=GameRecipe(updates=2, batch_size=4)).fit(None, sides)
            >>> data = pf.load(images, torch.arange(24) % 2, validation=0)
            >>> len(form.augment(data, versions=3).train) == 3 * len(data.train)
            True
        """
        self._check_labelled(data, versions)
        pool = None if not self.painter.reads_style else self.styles if references is None else references
        if pool is not None:
            self.check(pool.new_zeros(1, *data.input_shape), pool[:1])

        def translate(images: Tensor, number: int) -> Tensor:
            style = None
            if pool is not None:
                generator = torch.Generator().manual_seed(derive_seed(number, "references"))
                style = pool[torch.randint(len(pool), (len(images),), generator=generator).to(pool.device)]
            return self.translate(images, style, seed=number)

        return mixed_with_translations(data, translate, originals, versions, seed)

    @property
    def moments(self) -> list[int]:
        """The updates after which the last of `snapshots` were made, one a time."""
        return [] if self.snapshots is None else moments_of(self.cost["updates"])

    @property
    def reads_style(self) -> bool:
        """Whether a style image counts."""
        return self.painter.reads_style

    def check(self, content: Any, style: Any = None) -> None:
        """Raise where these are no images that this translator takes."""
        for name, images, channels in (
            ("content", content, self.signature.input_shape[0]),
            ("style", style, self.scale.outputs),
        ):
            if images is None:
                continue
            if not isinstance(images, Tensor) or not images.is_floating_point():
                got = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
                raise ShapeError(explain("a floating-point tensor", got, name, "write torch.as_tensor(images).float()"))
            if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape:
                expected, got = f"images (batch, {channels}, height, width)", f"{tuple(images.shape)}"
                raise ShapeError(
                    explain(expected, got, name, "pass images like those of the data set it was fitted on")
                )
            if not images.isfinite().all():
                raise NonFiniteError(explain("finite pixels", "NaN or infinity", name, "clean the images"))
        if style is not None and len(style) not in (1, len(content)):
            expected, got = f"1 or {len(content)} styles", f"{len(style)}"
            raise ShapeError(explain(expected, got, "style", "give one a content, or one for all"))
        if self.signature.classes:
            check_ids(content, self.signature.classes, "content")

    def _check_labelled(self, data: Data, versions: int) -> None:
        """Raise where translations would not be images of that data set."""
        where = f"augment {data.name}"
        if self.scale.classes:
            remedy = "fit one between the images and those of the other domain"
            raise ConfigError(explain("a translator of pictures", "one of label maps", where, remedy))
        channels, bounds = (self.scale.channels, self.scale.outputs), (self.scale.low, self.scale.high)
        if len(data.input_shape) != 3 or set(channels) != {data.input_shape[0]}:
            expected, got = f"images of {channels[0]} channels that become {channels[0]}", f"{data.input_shape}"
            remedy = "repeat a single channel with expand(-1, 3, -1, -1), here and where the translator is fitted"
            raise ShapeError(explain(expected, f"{got}, which become {channels[1]}", where, remedy))
        if data.bounds != bounds:
            remedy = "scale the images as those that the translator was fitted on"
            raise BoundsError(explain(f"bounds {bounds}", f"{data.bounds}", where, remedy))
        if versions > 1 and not (self.painter.reads_style or self.painter.draws):
            remedy = "take one version, or fit a translator with styles or with noise"
            raise ConfigError(explain("a translator of several styles", "one of one", where, remedy))

    def _style(self, style: Tensor | None, seed: int) -> Any:
        if not self.painter.reads_style:
            return None
        drawn = self.painter.draw_style(seed) if style is None else None
        if drawn is not None:
            return drawn
        if style is None and self.styles is not None:
            place = derive_seed(seed, "style") % len(self.styles)
            style = self.styles[place : place + 1]
        if style is None:
            raise ShapeError(explain("a style image", "none", type(self).__name__, "pass style="))
        return self.painter.style_of(self.scale.picture(style.to(self.device)))

    def _painted(self, content: Tensor, style: Any, seed: int, alpha: float) -> Tensor:
        images = self.painter(self.scale.content(content), style, seed, alpha)
        return self.scale.back(images).clamp(self.scale.low, self.scale.high)

    def _at(self, style: Tensor, place: Tensor) -> Tensor:
        """Of the style images, the one for all or those of the contents at these places."""
        return style if len(style) == 1 else style[place].to(self.device)

    def _by_batches(
        self, content: Tensor, paint: Callable[[Tensor, Tensor], list[Tensor]], batch_size: int | None
    ) -> list[Tensor]:
        """What `paint(contents, places)` gives, in evaluation mode, batch by batch; on the CPU."""
        places = torch.arange(len(content)).split(batch_size or self.batch_size)
        with modes_kept(self), keep_freed_memory():
            self.eval()
            found = [[images.cpu() for images in paint(content[own].to(self.device), own)] for own in places]
        return [torch.cat(images) for images in zip(*found, strict=True)]
