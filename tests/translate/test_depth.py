import pytest
import torch

from pluriform.errors import ConfigError, ShapeError
from pluriform.translate.depth import check_levels, largest_levels, level_widths, pad_to_multiple, recommended_levels
from pluriform.translate.preset import PRESETS, preset_named


def test_recommended_depth_leaves_at_least_four_pixels():
    for short in range(8, 600):
        levels = recommended_levels(short, 2 * short)
        assert 4 <= short // 2 ** (levels - 1) < 8
    assert recommended_levels(4, 9) == 2


def test_largest_depth_leaves_two_pixels_after_padding():
    for short in range(3, 600):
        levels = largest_levels(short, short)
        assert -(-short // 2 ** (levels - 1)) == 2


@pytest.mark.parametrize(("levels", "side", "most"), [(8, 128, 7), (8, 64, 6), (7, 33, 6)])
def test_illegal_depth_names_the_largest_legal_one(levels, side, most):
    with pytest.raises(ConfigError, match=f"2 to {most} levels for {side}x200 pixels; got {levels}, .*at most {most}"):
        check_levels(levels, side, 200)


def test_two_pixels_are_too_few():
    with pytest.raises(ConfigError, match="at least 3x3 pixels; got 2x64"):
        recommended_levels(2, 64)
    with pytest.raises(ConfigError, match="2 to 6 levels"):
        check_levels(1, 64, 64)


def test_channels_are_capped():
    assert level_widths(16, 6, 8) == (16, 32, 64, 128, 128, 128)


@pytest.mark.parametrize(("height", "width"), [(33, 50), (31, 32), (64, 48), (17, 129)])
def test_padding_reflects_and_crops_back(height, width):
    padding = pad_to_multiple(height, width, 16)
    image = torch.rand(1, 2, height, width)
    padded = padding.pad(image)
    assert padded.shape[-2] % 16 == padded.shape[-1] % 16 == 0
    assert max(padded.shape[-2] - height, padded.shape[-1] - width) < 16
    assert torch.equal(padding.crop(padded), image)
    if padding.top:
        assert torch.equal(padded[0, 0, padding.top - 1, padding.left : padding.left + width], image[0, 0, 1])


def test_sides_that_cannot_be_reflected_are_refused():
    with pytest.raises(ShapeError, match="a width of more than 16 pixels; got 5"):
        pad_to_multiple(64, 5, 32)


def test_presets():
    assert preset_named("tiny").levels_for(96, 160) == 5
    assert PRESETS["published"].levels_for(256, 512) == 8
    with pytest.raises(ConfigError, match="at most 7 levels"):
        PRESETS["published"].levels_for(128, 128)
    with pytest.raises(ConfigError, match="tiny, small, medium, large, published; got 'huge'"):
        preset_named("huge")
