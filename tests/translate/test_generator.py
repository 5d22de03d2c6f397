import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import ConfigError, ShapeError
from pluriform.forms import load_form, save_form
from pluriform.graph.ops import Op
from pluriform.graph.trace import trace
from pluriform.translate.depth import recommended_levels
from pluriform.translate.fadain import fadain
from pluriform.translate.generator import TSITGenerator, interpolate_styles
from pluriform.translate.preset import PRESETS
from pluriform.translate.spectral_norm import fold_spectral_norm


def count(net):
    return sum(p.numel() for p in net.parameters())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(content=3, style=3, out=3, seed=0, **more):
    torch.manual_seed(seed)
    return TSITGenerator(content, style, out, **{"levels": 4, "width": 4, "cap": 4, **more})


def drawn(channels, height=32, width=32, batch=2, seed=0):
    return torch.rand(batch, channels, height, width, generator=seeded(seed)) * 2 - 1


def by_hand(levels, width, cap, image=3, noise=3):
    """Parameters by the sheet's arithmetic: bias on every 3x3 convolution, none on 1x1 shortcuts."""
    c = [width * min(2**i, cap) for i in range(levels)]

    def conv(a, b):
        return 9 * a * b + b

    def stream(a, b):
        return conv(a, a) + conv(a, b) + (a * b if a != b else 0)

    def block(a, b):
        return (2 if a == b else 3) * 2 * conv(a, a) + conv(a, a) + conv(a, b) + (a * b if a != b else 0)

    pyramids = 2 * sum(stream(a, b) for a, b in zip([image, *c], c, strict=False))
    trunk = sum(block(c[i], c[i - 1]) for i in range(1, levels))
    return pyramids + trunk + conv(noise, c[-1]) + conv(c[0], image)


@pytest.mark.parametrize(
    ("width", "parameters"), [(64, 398_093_739), (32, 99_544_875), (16, 24_897_003), (8, 6_229_707)]
)
def test_parameters_of_the_published_configuration(width, parameters):
    with torch.device("meta"):
        assert count(TSITGenerator(3, 3, 3, levels=8, width=width)) == parameters == by_hand(8, width, 16)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_presets(name):
    preset = PRESETS[name]
    levels = preset.levels_for(256, 256)
    with torch.device("meta"):
        net = TSITGenerator(3, 3, 3, levels=levels, width=preset.width, cap=preset.cap)
    assert count(net) == by_hand(levels, preset.width, preset.cap)


def test_presets_span_a_few_hundred_thousand_parameters_and_more():
    sizes = {name: by_hand(5, preset.width, preset.cap) for name, preset in PRESETS.items()}
    assert 2e5 < sizes["tiny"] < 4e5
    assert sorted(sizes.values()) == list(sizes.values())


@pytest.mark.parametrize(
    ("height", "width"),
    [(32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (256, 256), (96, 160), (33, 50), (65, 47)],
)
def test_output_has_the_size_of_the_input(height, width):
    net = made(width=2, cap=2, levels=recommended_levels(height, width)).eval()
    x = drawn(3, height, width, batch=1)
    y = net(x, x, net.draw_start(1, height, width, seeded()))
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert y.std() > 0


@pytest.mark.parametrize(("content", "style", "out"), [(1, 1, 1), (1, 3, 3), (7, 2, 5)])
def test_grey_and_many_channels(content, style, out):
    net = made(content, style, out)
    y = net(drawn(content), drawn(style, 24, 56), net.draw_start(2, 32, 32, seeded()))
    assert y.shape == (2, out, 32, 32)


def test_trunk_against_the_definition():
    net = made(levels=3).double().eval()
    content, style = drawn(3, 16, 16).double(), drawn(3, 16, 16, seed=1).double()
    noise = torch.randn(2, 3, 4, 4, generator=seeded(), dtype=torch.double)
    c, s = net.content_stream(content), net.style_stream(style)
    x = F.conv2d(noise, net.first.weight, net.first.bias, padding=1)
    for block, level in zip(net.blocks, (2, 1), strict=True):
        x = block(fadain(x, s[level]), c[level])
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = torch.where(x > 0, x, 0.2 * x)
    expected = torch.tanh(F.conv2d(x, net.last.weight, net.last.bias, padding=1))
    torch.testing.assert_close(net(content, style, noise), expected)


def test_streams_that_are_off_do_not_matter():
    noise = torch.randn(2, 3, 4, 4, generator=seeded())
    one, two = drawn(3), drawn(3, seed=1)
    without_content = made(content=0).eval()
    assert torch.equal(without_content(one, two, noise), without_content(two, two, noise))
    assert not torch.equal(without_content(one, two, noise), without_content(one, one, noise))
    without_style = made(style=0).eval()
    assert torch.equal(without_style(one, two, noise), without_style(one, None, noise))
    assert not torch.equal(without_style(one, None, noise), without_style(two, None, noise))


def change(kind, batch):
    """Share of a trained-mode output that changes with the style; weights of unit scale make it visible."""
    net = made(norm=kind, cap=16)  # No identity shortcut.
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_normal_(part.weight)
    content, one, two = drawn(3, batch=batch), drawn(3, batch=batch, seed=1), drawn(3, batch=batch, seed=2) * 0.2 + 0.5
    noise = net.draw_start(batch, 32, 32, seeded())
    with torch.no_grad():
        first, second = net(content, one, noise), net(content, two, noise)
    return float((first - second).norm() / first.norm())


def test_at_batch_one_style_reaches_the_output_through_the_joint_norm_only():
    weak, strong = change("batch", 1), change("joint", 1)
    assert strong > 0.02
    assert strong > 20 * weak


def test_strength_and_interpolation_of_styles():
    net = made().eval()
    content, one, two = drawn(3), drawn(3, seed=1), drawn(3, 40, 32, seed=2)
    noise = net.draw_start(2, 32, 32, seeded())
    a, b = net.style_of(one), net.style_of(two)
    assert [tuple(level.mean.shape) for level in a] == [(2, c, 1, 1) for c in (8, 16, 16)]
    torch.testing.assert_close(net(content, interpolate_styles(a, b, 0), noise), net(content, one, noise))
    torch.testing.assert_close(net(content, interpolate_styles(a, b, 1), noise), net(content, two, noise))
    middle = interpolate_styles(a, b, 0.25)[0].mean
    torch.testing.assert_close(middle, 0.75 * a[0].mean + 0.25 * b[0].mean)
    assert torch.equal(net(content, one, noise, 0), net(content, two, noise, 0))
    assert not torch.equal(net(content, one, noise, 0.5), net(content, one, noise))


def test_start_from_a_latent_vector():
    net = made(style=0, start="latent", size=(32, 48))
    z = net.draw_start(2, 32, 48, seeded())
    assert z.shape == (2, 256)
    assert net(drawn(3, 32, 48), None, z).shape == (2, 3, 32, 48)
    with pytest.raises(ShapeError, match=r"for images of \(64, 64\), made for a map of \(4, 6\)"):
        net(drawn(3, 64, 64), None, z)
    with pytest.raises(ConfigError, match="the size of the images; got none"):
        made(start="latent")


def test_start_from_the_shrunken_label_map():
    net = made(content=5, style=0, start="content").eval()
    labels = F.one_hot(torch.randint(5, (2, 32, 32), generator=seeded()), 5).permute(0, 3, 1, 2).float()
    assert net.draw_start(2, 32, 32, seeded()) is None
    small = labels[:, :, ::8, ::8]
    torch.testing.assert_close(net._first(labels, None), net.first(small))
    assert net(labels).shape == (2, 3, 32, 32)
    with pytest.raises(ConfigError, match="a content stream; got content=0"):
        made(content=0, start="content")


def test_missing_parts_are_named():
    net = made()
    x = drawn(3)
    with pytest.raises(ShapeError, match=r"noise of shape \(2, 3, 4, 4\); got none"):
        net(x, x)
    with pytest.raises(ShapeError, match=r"noise of shape \(2, 3, 4, 4\); got \(2, 3, 8, 8\)"):
        net(x, x, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ShapeError, match="expected a style; got none"):
        net(x, None, torch.zeros(2, 3, 4, 4))
    with pytest.raises(ConfigError, match="2 to 3 levels for 8x8 pixels; got 4"):
        net(drawn(3, 8, 8), x, torch.zeros(2, 3, 1, 1))
    with pytest.raises(ConfigError, match="at least 2 levels"):
        made(levels=1)


def test_same_seed_same_network_and_another_seed_another():
    one, two, other = made(seed=3), made(seed=3), made(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.last.weight, other.last.weight)


def test_initial_weights_are_xavier_with_gain_of_a_fiftieth():
    net = made(width=16, cap=4)
    fade = net.blocks[0].fade1.modulation.weight  # Gamma and beta are drawn as two convolutions.
    for weight, fan in ((fade, 2 * 64 * 9), (net.blocks[0].conv1.weight, 2 * 64 * 9)):
        assert float(weight.detach().std()) == pytest.approx(0.02 * (2 / fan) ** 0.5, rel=0.03)
    assert not any(part.bias.any() for part in net.modules() if isinstance(part, nn.Conv2d) and part.bias is not None)


def test_saved_and_folded_networks_give_the_same_images(tmp_path):
    net = made()
    x, noise = drawn(3), net.draw_start(2, 32, 32, seeded())
    net(x, x, noise)
    net.eval()
    save_form(net, tmp_path / "form")
    assert torch.equal(load_form(tmp_path / "form")(x, x, noise), net(x, x, noise))
    torch.testing.assert_close(fold_spectral_norm(net)(x, x, noise), net(x, x, noise))


def test_traced_network_gives_the_same_images():
    net = fold_spectral_norm(made().eval())
    x, noise = drawn(3), torch.randn(2, 3, 4, 4, generator=seeded())
    graph = trace(net, (x, x, noise))
    assert len([node for node in graph.nodes if node.op is Op.CONV]) > 30
    torch.testing.assert_close(graph.module(x, x, noise), net(x, x, noise))


def test_mixed_precision_keeps_statistics_in_float32():
    net = made().eval()
    x, noise = drawn(3), net.draw_start(2, 32, 32, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, x, noise)
    torch.testing.assert_close(y.float(), net(x, x, noise), rtol=0.2, atol=0.02)


def test_overfits_one_pair():
    torch.manual_seed(0)
    net = TSITGenerator(3, 0, 3, levels=3, width=8, cap=4, norm="joint")
    x, y = drawn(3, 16, 16, batch=1), F.avg_pool2d(drawn(3, 16, 16, batch=1, seed=1), 5, 1, 2)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    generator = seeded()
    first = None
    for _ in range(100):
        loss = (net(x, None, net.draw_start(1, 16, 16, generator)) - y).abs().mean()
        first = float(loss.detach()) if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.25 * first
