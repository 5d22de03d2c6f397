import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.translate.spectral_norm import SpectralConv2d, fold_spectral_norm, settle


def layer(before, after, kernel=3, **more):
    torch.manual_seed(0)
    return SpectralConv2d(before, after, kernel, padding=kernel // 2, **more)


def by_definition(net, x):
    matrix = net.weight.flatten(1)
    sigma = net.u @ (matrix @ net.v)
    return F.conv2d(x, net.weight / sigma, net.bias, net.stride, net.padding)


def test_sigma_becomes_the_largest_singular_value():
    net = layer(4, 6)
    for _ in range(300):
        sigma = net.iterate()
    assert sigma == pytest.approx(float(torch.linalg.svdvals(net.weight.detach().flatten(1))[0]), rel=1e-5)
    x = torch.randn(2, 4, 5, 5)
    largest = torch.linalg.svdvals(net.weight.detach().flatten(1))[0]
    expected = F.conv2d(x, net.weight / largest, net.bias, 1, 1)
    torch.testing.assert_close(net.eval()(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [2, 12])  # Weight larger than the output, and smaller.
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_equal_autograd_of_the_definition(side, bias, stride):
    net = SpectralConv2d(8, 6, 3, stride, 1, bias).double().eval()
    x = torch.randn(2, 8, side, side, dtype=torch.double, requires_grad=True)
    assert net._heavy(x) == (side == 2)
    weigh = torch.randn_like(net(x))
    found = torch.autograd.grad((net(x) * weigh).sum(), [x, *net.parameters()])
    expected = torch.autograd.grad((by_definition(net, x) * weigh).sum(), [x, *net.parameters()])
    torch.testing.assert_close(net(x), by_definition(net, x))
    torch.testing.assert_close(found, expected)


def test_frozen_weight_still_gives_the_gradient_of_the_input():
    net = layer(8, 8).requires_grad_(False)
    x = torch.randn(1, 8, 2, 2, requires_grad=True)
    (found,) = torch.autograd.grad(net(x).square().sum(), x)
    (expected,) = torch.autograd.grad(by_definition(net, x).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_only_a_pass_that_trains_the_weight_iterates():
    net = layer(4, 6)
    x = torch.randn(2, 4, 8, 8)
    before = net.u.clone()
    with torch.no_grad():
        net(x)
    net.requires_grad_(False)(x)
    net.requires_grad_(True).eval()(x)
    assert torch.equal(net.u, before)
    net.train()(x)
    assert not torch.equal(net.u, before)


@pytest.mark.parametrize("side", [2, 12])
def test_two_passes_before_one_backward_pass(side):
    net = layer(8, 6).double()
    x, y = torch.randn(2, 2, 8, side, side, dtype=torch.double)
    first = net(x)
    u, v = net.u.clone(), net.v.clone()
    second = net(y)
    found = torch.autograd.grad(first.square().sum() + second.square().sum(), net.weight)[0]
    parts = []
    for given, directions in ((x, (u, v)), (y, (net.u.clone(), net.v.clone()))):
        net.u, net.v = directions
        parts.append(torch.autograd.grad(by_definition(net, given).square().sum(), net.weight)[0])
    torch.testing.assert_close(found, parts[0] + parts[1])


def test_without_fusing_it_can_be_differentiated_twice():
    net = layer(3, 2, fused=False).double().eval()
    x = torch.randn(1, 3, 2, 2, dtype=torch.double, requires_grad=True)
    assert net._heavy(x)

    def of_weight(weight):
        def penalised(v):
            return torch.func.functional_call(net, {"weight": weight}, v).pow(2).sum()

        (slope,) = torch.autograd.grad(penalised(x), x, create_graph=True)
        return slope.square().sum()

    assert torch.autograd.gradcheck(of_weight, net.weight)
    fused = layer(3, 2).double().eval()
    (slope,) = torch.autograd.grad(fused(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


def test_mixed_precision_computes_in_bfloat16():
    net = layer(8, 8).eval()
    x = torch.randn(1, 8, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), net(x), rtol=0.05, atol=0.02)


def test_folded_network_has_plain_convolutions_and_the_same_outputs():
    net = nn.Sequential(layer(3, 8), nn.ReLU(), layer(8, 8, bias=False)).eval()
    folded = fold_spectral_norm(net)
    assert [type(part) for part in folded] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert folded[2].bias is None
    x = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(folded(x), net(x))
    assert isinstance(net[0], SpectralConv2d)


def test_parameters_are_those_of_a_convolution():
    assert sum(p.numel() for p in layer(3, 8).parameters()) == sum(p.numel() for p in nn.Conv2d(3, 8, 3).parameters())


def test_settled_directions_are_those_of_the_weight():
    net = nn.Sequential(layer(4, 6), nn.ReLU(), layer(6, 3, bias=False)).eval()
    turned = [torch.randn_like(net[place].u) / 10 for place in (0, 2)]
    state = torch.get_rng_state()
    found = []
    for _ in range(2):
        for place, start in zip((0, 2), turned, strict=True):
            net[place].u.copy_(start)
            net[place].v.mul_(0.5)
        settle(net)
        found.append([net[place].u.clone() for place in (0, 2)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    for part in (net[0], net[2]):
        matrix = part.weight.detach().flatten(1)
        assert float(part.u @ matrix @ part.v) == pytest.approx(float(torch.linalg.svdvals(matrix)[0]), rel=0.02)
        assert float(part.u.norm()) == pytest.approx(1)
        assert float(part.v.norm()) == pytest.approx(1)


def test_same_seed_same_directions():
    one, two = layer(4, 6), layer(4, 6)
    assert torch.equal(one.u, two.u)
    assert torch.equal(one.weight, two.weight)
