import pytest
import torch
import torch.nn.functional as F

from pluriform.errors import ShapeError
from pluriform.translate.depth import level_widths, recommended_levels
from pluriform.translate.stream import Stream, StreamBlock


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (96, 160), (256, 256)])
def test_pyramids_have_the_sizes_of_the_definition(height, width):
    levels = recommended_levels(height, width)
    assert levels == {32: 4, 64: 5, 96: 5, 256: 7}[height]
    widths = level_widths(2, levels, 4)
    found = Stream(3, widths)(torch.randn(1, 3, height, width))
    assert [tuple(f.shape) for f in found] == [
        (1, 2 * min(2**i, 4), height // 2**i, width // 2**i) for i in range(levels)
    ]


@pytest.mark.parametrize(("before", "after"), [(3, 6), (4, 4)])
def test_block_against_the_definition(before, after):
    torch.manual_seed(0)
    block = StreamBlock(before, after).double().eval()
    x = torch.randn(2, before, 7, 9, dtype=torch.double)

    def convolved(part, x):
        sigma = part.u @ part.weight.flatten(1) @ part.v
        return F.conv2d(x, part.weight / sigma, part.bias, padding=part.padding)

    def finished(y):
        y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        return torch.where(y > 0, y, 0.2 * y)

    y = finished(convolved(block.conv2, finished(convolved(block.conv1, x))))
    skip = x if before == after else finished(convolved(block.shortcut, x))
    torch.testing.assert_close(block(x), y + skip)


def test_next_level_reads_every_second_pixel():
    stream = Stream(1, (2, 4)).eval()
    x = torch.randn(1, 1, 8, 8)
    first, second = stream(x)
    nearest = F.interpolate(first, scale_factor=0.5, mode="nearest")
    torch.testing.assert_close(second, stream.blocks[1](nearest))


def test_one_pixel_is_refused():
    with pytest.raises(ShapeError, match="at least 2 positions"):
        Stream(1, (2, 2, 2))(torch.randn(1, 1, 4, 4))
