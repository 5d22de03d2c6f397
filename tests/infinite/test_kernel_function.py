"""Kernels of whole modules: identities, tiles, gradients, and finite networks drawn at random."""

import pytest
import torch
from torch import nn

import pluriform.infinite.kernel_function as module_under_test
from pluriform.errors import ConfigError, ShapeError, UnsupportedOpError
from pluriform.infinite.kernel_function import kernel_of


class Residual(nn.Module):
    def __init__(self, width, act=torch.relu):
        super().__init__()
        self.act = act
        self.stem, self.inner, self.head = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 24)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.inner(self.act(x))
        return self.head(self.act(x))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, width), nn.Linear(5, width), nn.Linear(2 * width, 24)

    def forward(self, x):
        a = torch.relu(self.a(x))
        return self.head(torch.cat([a * torch.erf(self.b(x)), 0.5 * a], 1))


def pooled(width):
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(4 * width, 24),
    )


def vectors(n, seed=0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(n, seed=0):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETWORKS = {"residual": (Residual, vectors), "gated": (Gated, vectors), "pooled": (pooled, images)}


def draw(net, seed, weight_var, bias_var):
    """Plain PyTorch parameters of the wanted variances; returns those variances by parameter."""
    generator, variances = torch.Generator().manual_seed(seed), {}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            variances[name] = weight_var / parameter[0].numel() if parameter.ndim > 1 else bias_var
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * variances[name] ** 0.5)
    return variances


def sampled(build, width, draws, x):
    """NNGP and NTK of finite networks, averaged: outputs, and gradients weighted by the variances of parameters."""
    net = build(width).double()
    nngp, ntk = torch.zeros(2, len(x), len(x), dtype=torch.float64)
    for seed in range(draws):
        variances = draw(net, seed, 1.7, 0.2)
        outputs = net(x)
        nngp += (outputs @ outputs.T).detach() / outputs.shape[1] / draws
        rows = [torch.autograd.grad(outputs[i, 0], list(net.parameters()), retain_graph=True) for i in range(len(x))]
        jacobian = [
            torch.cat([g.flatten() * v**0.5 for g, v in zip(row, variances.values(), strict=True)]) for row in rows
        ]
        jacobian = torch.stack(jacobian)
        ntk += jacobian @ jacobian.T / draws
    return nngp, ntk


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_finite_networks_converge_to_the_closed_form(name):
    build, inputs = NETWORKS[name]
    x = inputs(4)
    with torch.no_grad():
        exact = kernel_of(build(8), x, weight_var=1.7, bias_var=0.2)(x)
    errors = []
    for width, draws in ((16, 12), (256, 48)):
        nngp, ntk = sampled(build, width, draws, x)
        errors.append([float((a - b).norm() / b.norm()) for a, b in ((nngp, exact.nngp), (ntk, exact.ntk))])
    assert max(errors[1]) < 0.06
    assert errors[1][1] < 0.5 * errors[0][1]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_symmetric_equals_two_sided_and_tiled(name, monkeypatch):
    build, inputs = NETWORKS[name]
    x, other = inputs(7), inputs(4, seed=1)
    function = kernel_of(build(8), x, bias_var=0.1)
    whole, two_sided, cross = function(x), function(x, x.clone()), function(x, other)
    monkeypatch.setattr(module_under_test, "TILE_ENTRIES", 9)
    monkeypatch.setattr(module_under_test, "MOST_ENTRIES", 9 * function.entries)
    assert function.side == 3
    grad = x.clone().requires_grad_(True)
    for tiled, expected in ((function(x), whole), (function(x, other), cross), (function(grad), whole)):
        for part in ("nngp", "ntk", "variance1", "variance2"):
            assert torch.allclose(getattr(tiled, part), getattr(expected, part), rtol=1e-12)
    assert torch.allclose(whole.nngp, two_sided.nngp, rtol=1e-12)
    assert torch.allclose(whole.ntk, two_sided.ntk, rtol=1e-7)
    assert torch.allclose(whole.nngp.diagonal(), whole.variance1, rtol=1e-12)
    assert torch.allclose(whole.nngp, whole.nngp.T, rtol=1e-12)
    assert torch.linalg.eigvalsh(whole.ntk)[0] > -1e-8 * whole.ntk.trace()
    assert function(x, ntk=False).ntk is None


def test_gradients_in_the_inputs():
    x, y = vectors(2), vectors(3, seed=1)
    function = kernel_of(Residual(8), x, bias_var=0.1)
    assert torch.autograd.gradcheck(lambda a, b: (function(a, b).nngp, function(a, b).ntk), (x.requires_grad_(), y))
    same = vectors(2).requires_grad_(True)
    function(same).ntk.sum().backward()
    assert same.grad.isfinite().all()
    zero = torch.zeros(2, 5, requires_grad=True)
    kernel_of(Residual(8), x)(zero, y).ntk.sum().backward()
    assert zero.grad.isfinite().all()


def test_frozen_layers_leave_only_what_trains():
    net, x = Residual(8), vectors(3)
    for layer in (net.stem, net.inner):
        layer.requires_grad_(False)
    kernel = kernel_of(net, x, bias_var=0.3)(x)
    assert torch.allclose(kernel.ntk, kernel.nngp)


def test_standard_parameterisation_counts_widths():
    x = vectors(3)
    net = nn.Sequential(nn.Linear(5, 10), nn.Linear(10, 1, bias=False))
    kernel = kernel_of(net, x, weight_var=1.5, bias_var=0.2, parameterization="standard")(x)
    first = 1.5 * (x @ x.T / 5) + 0.2
    assert torch.allclose(kernel.nngp, 1.5 * first)
    assert torch.allclose(kernel.ntk, 10 * first + 1.5 * (x @ x.T + 1))


def test_overrides_reach_single_layers():
    x, net = vectors(3), nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 1))
    plain = kernel_of(net, x)(x)
    changed = kernel_of(net, x, overrides={"2": (6.0, 1.0)})(x)
    assert torch.allclose(changed.nngp, 3 * plain.nngp + 1)


def test_what_comes_before_the_weights_is_computed_as_it_is():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.5, -1.0]).reshape(2, 1, 1))
            self.head = nn.Linear(32, 3)

        def forward(self, x):
            return self.head(torch.relu((x - self.mean) / 2.0).flatten(1))

    x = images(5)
    net = Normalised()
    kernel = kernel_of(net, x[:2], weight_var=1.0)(x)
    features = torch.relu((x - net.mean.double()) / 2).flatten(1)
    assert torch.allclose(kernel.nngp, features @ features.T / 32)


def test_float32_stays_close_to_float64():
    x, y = vectors(20), vectors(30, seed=1)
    function = kernel_of(Residual(8), x)
    exact, single = function(x, y), function(x, y, dtype=torch.float32)
    assert single.ntk.dtype == torch.float32
    assert float((single.ntk.double() - exact.ntk).norm() / exact.ntk.norm()) < 1e-5


def test_wrong_calls_are_refused():
    x = vectors(3)
    net = Residual(8)
    function = kernel_of(net, x)
    with pytest.raises(ShapeError, match=r"inputs of shape \(n, 5\).*got \(3, 4\)"):
        function(x[:, :4])
    with pytest.raises(ConfigError, match="nngp or ntk; got neither"):
        function(x, nngp=False, ntk=False)
    with pytest.raises(ConfigError, match="'ntk' or 'standard'"):
        kernel_of(net, x, parameterization="mup")
    with pytest.raises(ConfigError, match=r"overrides of the layers stem, inner, head; got 'body'"):
        kernel_of(net, x, overrides={"body": (1.0, 0.0)})
    with pytest.raises(ConfigError, match=r"variances of 0 or more; got \(-1.0, 0.0\)"):
        kernel_of(net, x, weight_var=-1.0)
    with pytest.raises(UnsupportedOpError, match=r"output is a vector; got an output with positions \(4, 4\)"):
        kernel_of(nn.Conv2d(2, 3, 3, padding=1), images(2))
    with pytest.raises(UnsupportedOpError, match="a network with weights"):
        kernel_of(nn.Flatten(), images(2))


def test_features_are_in_the_precision_asked_for_whatever_that_of_the_inputs():
    """Grey levels in half precision are exact; the fractions made of them would not be."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x):
            return self.layers((x - 128) / 255)

    grey = torch.randint(256, (40, 6), generator=torch.Generator().manual_seed(0)).half()
    function = kernel_of(Scaled(), grey[:2].float())
    exact, fused = function(grey.double()), function(grey, dtype=torch.float32, engine="fused")
    assert torch.allclose(fused.nngp.double(), exact.nngp, rtol=2e-6, atol=2e-6)
    assert torch.allclose(fused.ntk.double(), exact.ntk, rtol=2e-6, atol=2e-6)


def test_engines_have_names():
    x = torch.randn(3, 5)
    with pytest.raises(ConfigError, match="expected one of auto, fused, plain; got 'fuse'"):
        kernel_of(nn.Linear(5, 1), x).__call__.__wrapped__(kernel_of(nn.Linear(5, 1), x), x, engine="fuse")
