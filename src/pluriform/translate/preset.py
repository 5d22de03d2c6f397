"""Presets of width, from a few hundred thousand parameters to the published 398 million."""

from dataclasses import dataclass

from pluriform.errors import ConfigError, explain
from pluriform.translate.depth import check_levels, recommended_levels

__all__ = ["PRESETS", "Preset", "preset_named"]


@dataclass(frozen=True)
class Preset:
    """Widths of generator and discriminator.

    Attributes:
        width: Channels at full resolution, nf.
        cap: Most channels of a level over `width`.
        discriminator_width: Channels of its first layer, ndf.
        levels: Of the pyramids; by the size of the images where `None`.
    """

    width: int
    cap: int
    discriminator_width: int
    levels: int | None = None

    def levels_for(self, height: int, width: int) -> int:
        """Levels for images of that size.

        Raises:
            ConfigError: The images are too small for the preset.
        """
        if self.levels is None:
            return recommended_levels(height, width)
        check_levels(self.levels, height, width)
        return self.levels


PRESETS = {
    "tiny": Preset(8, 4, 16),
    "small": Preset(16, 8, 32),
    "medium": Preset(32, 8, 32),
    "large": Preset(64, 8, 64),
    "published": Preset(64, 16, 64, levels=8),
}
"""At 64 pixels, both streams: 0.3, 3.3, 13 and 52 million parameters; `published` needs 129 pixels or more."""


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ConfigError: There is none.

    Example:
        >>> preset_named("published").levels_for(256, 256)
        8
    """
    if name not in PRESETS:
        raise ConfigError(explain(f"a preset of {', '.join(PRESETS)}", repr(name), "TSIT", "name one of them"))
    return PRESETS[name]
