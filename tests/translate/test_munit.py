import pytest
import torch

from pluriform.errors import ShapeError
from pluriform.translate.munit import MUNITAutoencoder, adain


def test_adain_gives_the_channels_their_mean_and_deviation():
    x = torch.randn(3, 4, 9, 9)
    mean, std = torch.randn(3, 4), torch.rand(3, 4) + 0.5
    y = adain(x, mean, std)
    torch.testing.assert_close(y.mean((2, 3)), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std((2, 3)), std, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 33, 50), (7, 16, 24)])
def test_output_has_the_size_of_the_input(channels, height, width):
    net = MUNITAutoencoder(channels, width=2, blocks=2)
    x = torch.rand(2, channels, height, width)
    y = net.decode(net.content(x), net.style(x), (height, width))
    assert y.shape == x.shape
    assert y.abs().max() <= 1


def test_styles_change_the_output_and_content_forgets_contrast():
    torch.manual_seed(0)
    net = MUNITAutoencoder(3, width=4, blocks=1).eval()
    x = torch.rand(1, 3, 32, 32)
    content = net.content(x)
    one, two = net.draw_style(2, torch.Generator().manual_seed(0)).split(1)
    first, second = net.decode(content, one, (32, 32)), net.decode(content, two, (32, 32))
    assert (first - second).abs().mean() > 0.01
    torch.testing.assert_close(net.content(0.5 * x), content, rtol=0, atol=2e-3)
    assert not torch.allclose(net.style(0.5 * x), net.style(x), atol=1e-3)


def test_parts_of_the_wrong_size_are_named():
    net = MUNITAutoencoder(3, width=2, blocks=1)
    content = net.content(torch.rand(1, 3, 32, 32))
    with pytest.raises(ShapeError, match=r"content of \(4, 4\) and style of \(1, 8\); got \(8, 8\) and \(1, 8\)"):
        net.decode(content, torch.zeros(1, 8), (16, 16))
    with pytest.raises(ShapeError, match=r"got \(8, 8\) and \(1, 5\)"):
        net.decode(content, torch.zeros(1, 5), (32, 32))
