import pytest
import torch

from pluriform.errors import ShapeError
from pluriform.translate.fadain import channel_statistics, fadain


def pair():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=generator) * 2 + 1
    s = torch.randn(3, 4, 5, 9, generator=generator) * 0.5 - 2
    return x, s


def test_output_statistics_equal_those_of_the_style():
    x, s = pair()
    y = fadain(x, s)
    torch.testing.assert_close(y.mean((2, 3)), s.mean((2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.std((2, 3)), s.std((2, 3)), rtol=0, atol=3e-5)


def test_against_the_definition():
    x, s = (part.double() for part in pair())
    expected = torch.empty_like(x)
    for sample in range(3):
        for channel in range(4):
            a, b = x[sample, channel], s[sample, channel]
            spread = (a.var() + 1e-5).sqrt(), (b.var() + 1e-5).sqrt()
            expected[sample, channel] = (a - a.mean()) / spread[0] * spread[1] + b.mean()
    torch.testing.assert_close(fadain(x, s), expected)
    torch.testing.assert_close(fadain(x, s, 0.3), 0.3 * expected + 0.7 * x)


def test_style_of_itself_and_no_strength_are_the_identity():
    x, s = pair()
    torch.testing.assert_close(fadain(x, x), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fadain(x, s, 0), x, rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [1, 0.3])
def test_before_enlarging_by_nearest_neighbours_it_gives_the_same(alpha):
    x, s = (part.double() for part in pair())
    enlarged = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    before = fadain(x, s, alpha, copies=4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(before, fadain(enlarged, s, alpha))


def test_positions_of_the_style_do_not_matter():
    x, s = pair()
    shuffled = s.flatten(2)[:, :, torch.randperm(45, generator=torch.Generator().manual_seed(1))].view_as(s)
    torch.testing.assert_close(fadain(x, shuffled), fadain(x, s), rtol=0, atol=1e-5)


def test_low_contrast_features_do_not_reach_the_deviation():
    x, s = pair()
    y = fadain((x - 1) * 1e-3, s * 4)
    missing = (s * 4).std((2, 3)) - y.std((2, 3))
    assert missing.min() > 0.2  # std(x) is 2e-3 beside sqrt(1e-5) = 3.2e-3.


def test_statistics_of_half_precision_are_taken_in_float32():
    x = torch.full((1, 1, 64, 64), 300.0, dtype=torch.float16)
    x[..., ::2] = 301
    found = channel_statistics(x)
    assert found.mean.dtype == torch.float32
    assert float(found.mean) == 300.5
    assert float(found.std) == pytest.approx(0.5, rel=1e-3)
    assert fadain(x, x).dtype == torch.float16


def test_wrong_shapes_are_named():
    x, s = pair()
    with pytest.raises(ShapeError, match="style features of 4 channels; got 3"):
        fadain(x, s[:, :3])
    with pytest.raises(ShapeError, match="at least 2 positions; got 1x1"):
        fadain(x[..., :1, :1], s)
