import pytest
import torch
import torch.nn.functional as F

from pluriform.errors import ConfigError
from pluriform.translate.discriminator import (
    MultiScaleDiscriminator,
    PatchDiscriminator,
    recommended_patch_layers,
    recommended_scales,
)


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameters_of_the_published_sizes():
    with torch.device("meta"):
        assert count(MultiScaleDiscriminator(3, 64, 3, 2)) == 1_325_186
        # 4 x 4 kernels; BatchNorm has scale and shift, its convolutions no bias.
        assert count(PatchDiscriminator(6, 64, 4, "batch", 1)) == 2_768_705
        assert count(PatchDiscriminator(3, 64, 4, "instance", 1)) == 2_764_737


def test_maps_of_64_pixels():
    fine, coarse = MultiScaleDiscriminator(3, 4, 3)(torch.randn(2, 3, 64, 64))
    assert fine[-1].shape == (2, 1, 10, 10)
    assert coarse[-1].shape == (2, 1, 6, 6)
    assert [f.shape[1] for f in fine] == [4, 8, 16, 1]


@pytest.mark.parametrize(("layers", "field"), [(2, 22), (3, 46), (4, 70)])
@pytest.mark.parametrize(("norm", "padding"), [("spectral-instance", 2), ("batch", 1)])
def test_receptive_field_by_gradient(layers, field, norm, padding):
    torch.manual_seed(0)
    net = PatchDiscriminator(1, 4, layers, norm, padding).eval()
    for part in net.modules():
        if type(part).__name__ == "InstanceNorm":  # Its statistics see the whole image.
            part.forward = lambda x: x
    x = torch.randn(1, 1, 160, 160, requires_grad=True)
    scores = net(x)[-1]
    (slope,) = torch.autograd.grad(scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2], x)
    rows = slope[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == field


def test_scales_average_existing_pixels_only_and_have_their_own_weights():
    torch.manual_seed(0)
    net = MultiScaleDiscriminator(1, 4, 2, 2).eval()
    x = torch.randn(1, 1, 17, 17)
    halved = torch.empty(1, 1, 9, 9)
    for i in range(9):
        for j in range(9):
            rows = slice(max(2 * i - 1, 0), 2 * i + 2)
            halved[0, 0, i, j] = x[0, 0, rows, max(2 * j - 1, 0) : 2 * j + 2].mean()
    torch.testing.assert_close(net(x)[1][-1], net.scales[1](halved)[-1])
    assert not torch.equal(net.scales[0].last.weight, net.scales[1].last.weight)


def test_against_the_definition():
    torch.manual_seed(0)
    net = PatchDiscriminator(3, 4, 2).double().eval()
    x = torch.randn(2, 3, 20, 24, dtype=torch.double)
    first = F.leaky_relu(F.conv2d(x, net.stages[0].weight, net.stages[0].bias, 2, 2), 0.2)
    conv = net.stages[1][0]
    y = F.conv2d(first, conv.weight / (conv.u @ conv.weight.flatten(1) @ conv.v), None, 2, 2)
    y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    second = F.leaky_relu(y, 0.2)
    last = F.conv2d(second, net.last.weight, net.last.bias, 1, 2)
    torch.testing.assert_close(net(x), [first, second, last])


def test_sizes_that_are_recommended():
    assert [recommended_patch_layers(side, 512) for side in (32, 64, 128, 256)] == [2, 3, 3, 4]
    assert [recommended_scales(side, 512) for side in (32, 64)] == [1, 2]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="1 to 4 layers; got 5"):
        PatchDiscriminator(3, 4, 5)
    with pytest.raises(ConfigError, match="at least one scale; got 0"):
        MultiScaleDiscriminator(3, scales=0)
