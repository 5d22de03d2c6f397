"""Closed forms against finite networks drawn from the same modules: the error falls with the width, and is small."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import UnsupportedOpError
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.self_attention import GlobalSelfAttention

WEIGHT, BIAS = 1.7, 0.2


class Net(nn.Module):
    """Layers by name and what happens between them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.run = run

    def forward(self, x):
        return self.run(x, self.layers)


def fan_in(weight, layer):
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return weight[:, 0].numel() // layer.groups
    return weight[0].numel()


def drawn(net, generator):
    """Draw weights anew; the factor of every parameter's part in the NTK."""
    rates = {}
    for name, layer in net.named_modules():
        if not hasattr(layer, "weight") or not isinstance(layer.weight, torch.Tensor) or layer.weight.ndim < 2:
            continue
        variance = WEIGHT / fan_in(layer.weight, layer)
        rates[f"{name}.weight"] = variance
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64) * variance**0.5
        if layer.bias is not None:
            rates[f"{name}.bias"] = BIAS
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator, dtype=torch.float64) * BIAS**0.5
    return rates


def finite(net, x, draws, seed):
    """NNGP averaged over outputs and draws; NTK of the first output averaged over a fifth of the draws."""
    generator = torch.Generator().manual_seed(seed)
    nngp = ntk = 0.0
    for draw in range(draws):
        rates = drawn(net, generator)
        with torch.set_grad_enabled(draw % 5 == 0):
            outputs = net(x)
        nngp = nngp + (outputs @ outputs.T).detach() / outputs.shape[1]
        if draw % 5:
            continue
        parameters = {name: p for name, p in net.named_parameters() if name in rates}
        rows = []
        for value in outputs[:, 0]:
            grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
            scaled = [g.flatten() * rates[n] ** 0.5 for n, g in zip(parameters, grads, strict=True)]
            rows.append(torch.cat(scaled))
        gradients = torch.stack(rows)
        ntk = ntk + gradients @ gradients.T
    return nngp / draws, ntk / len(range(0, draws, 5))


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


def inputs(*shape):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, *shape, generator=generator, dtype=torch.float64) + 0.3


def converges(build, x, draws=100, most=0.05, widths=(8, 160)):
    """Errors of NNGP and NTK at two widths."""
    found = []
    for width in widths:
        net = build(width).double()
        with torch.no_grad():
            kernel = kernel_of(net, x, weight_var=WEIGHT, bias_var=BIAS)(x)
        nngp, ntk = finite(net, x, draws, seed=1)
        found.append((error(nngp, kernel.nngp), error(ntk, kernel.ntk)))
    (narrow, narrow_ntk), (wide, wide_ntk) = found
    assert wide < most, found
    assert wide_ntk < 1.6 * most, found
    assert wide < narrow, found
    assert wide_ntk < narrow_ntk, found


def multiplied(first, second):
    return torch.relu(first) * torch.sin(second)


OUT = 96
VECTORS = {
    "tanh": lambda w: nn.Sequential(nn.Linear(5, w), nn.Tanh(), nn.Linear(w, w), nn.ELU(), nn.Linear(w, OUT)),
    "hard": lambda w: nn.Sequential(nn.Linear(5, w), nn.Hardtanh(), nn.Linear(w, w), nn.Hardswish(), nn.Linear(w, OUT)),
    "gated": lambda w: Net(
        lambda x, m: m["out"](torch.sigmoid(m["a"](x)) * m["b"](x)),
        a=nn.Linear(5, w),
        b=nn.Linear(5, w),
        out=nn.Linear(w, OUT),
    ),
    "chunks": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["a"](x).chunk(2, 1)[0]) * torch.tanh(m["a2"](x).chunk(2, 1)[1])),
        a=nn.Linear(5, 2 * w),
        a2=nn.Linear(5, 2 * w),
        out=nn.Linear(w, OUT),
    ),
    "halves": lambda w: Net(
        lambda x, m: m["out"](multiplied(*m["a"](x).split(w, 1))),
        a=nn.Linear(5, 2 * w),
        out=nn.Linear(w, OUT),
    ),
    "gated linear unit": lambda w: nn.Sequential(nn.Linear(5, 2 * w), nn.GLU(1), nn.Linear(w, OUT)),
    "layer norm": lambda w: nn.Sequential(nn.Linear(5, w), nn.LayerNorm(w), nn.SiLU(), nn.Linear(w, OUT)),
}
IMAGES = {
    "transposed": lambda w: nn.Sequential(
        nn.Conv2d(2, w, 3, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(w, w, 3, 2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(w * 4, OUT),
    ),
    "depthwise": lambda w: nn.Sequential(
        nn.Conv2d(2, w, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(w, w, 3, padding=1, groups=w),
        nn.Conv2d(w, w, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(w, OUT),
    ),
    "tokens": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["mix"](F.gelu(m["patch"](x).flatten(2).transpose(1, 2)))).mean(1)),
        patch=nn.Conv2d(2, w, 2, 2),
        mix=nn.Linear(w, w),
        out=nn.Linear(w, OUT),
    ),
    "one token": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["mix"](x.flatten(2).transpose(1, 2)))[:, -1]),
        mix=nn.Linear(2, w),
        out=nn.Linear(w, OUT),
    ),
    "joined positions": lambda w: Net(
        lambda x, m: m["out"](torch.relu(torch.cat([m["a"](x), m["b"](x)], 3)).mean((2, 3))),
        a=nn.Conv2d(2, w, 3),
        b=nn.Conv2d(2, w, 3),
        out=nn.Linear(w, OUT),
    ),
    "partly flat": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["b"](torch.relu(m["a"](x)).flatten(1, 2))).mean(2)),
        a=nn.Conv2d(2, w, 3),
        b=nn.Conv1d(w * 4, w, 2),
        out=nn.Linear(w, OUT),
    ),
    "from a vector": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["b"](torch.tanh(m["a"](x.flatten(1)).view(-1, w, 3, 3)))).mean((2, 3))),
        a=nn.Linear(72, w * 9),
        b=nn.Conv2d(w, w, 2),
        out=nn.Linear(w, OUT),
    ),
    "attention": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["attend"](torch.relu(m["patch"](x.flatten(2).mT)))).mean(1)),
        patch=nn.Linear(2, w),
        attend=GlobalSelfAttention(w, w, width=4 * w),
        out=nn.Linear(w, OUT),
    ),
    "attention without softmax": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["attend"](torch.relu(m["patch"](x).flatten(2).mT))).flatten(1)),
        patch=nn.Conv2d(2, 2 * w, 3, 3),
        attend=GlobalSelfAttention(2 * w, w, width=4 * w, normalise="abs", bias=False),
        out=nn.Linear(4 * w, OUT),
    ),
    "attention with positions": lambda w: Net(
        lambda x, m: m["out"](torch.relu(m["attend"](m["patch"](x.flatten(2).mT))).mean(1)),
        patch=nn.Linear(2, 4 * w),
        attend=GlobalSelfAttention(4 * w, w, width=4 * w, position_var=0.5, tokens=36),
        out=nn.Linear(w, OUT),
    ),
    "group norm": lambda w: nn.Sequential(
        nn.Conv2d(2, w, 3, padding="same", padding_mode="circular"),
        nn.GroupNorm(2, w),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(w * 36, OUT),
    ),
}


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vectors(name):
    converges(VECTORS[name], inputs(5))


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_images(name):
    converges(IMAGES[name], inputs(2, 6, 6), most=0.1 if "softmax" in name else 0.05)


def normed(kind, width):
    """A network with a trained scale and shift, as parameters 2 and 3."""
    bend = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "hard": nn.Hardtanh(), "batch": nn.ReLU(), "linear": nn.Identity()}[
        kind
    ]
    norm = nn.BatchNorm1d(width).eval() if kind == "batch" else nn.LayerNorm(width)
    return nn.Sequential(nn.Linear(5, width), norm, bend, nn.Linear(width, OUT)).double()


def gram(rows, chosen):
    gradients = torch.stack([torch.cat([row[place].flatten() for place in chosen]) for row in rows])
    return gradients @ gradients.T


@pytest.mark.parametrize("kind", ["relu", "tanh", "hard", "batch", "linear"])
def test_standard_parameterisation_with_a_trained_norm(kind):
    """Plain gradients of a PyTorch network at its own width: those of scales and shifts, and all others."""
    x, facts = inputs(5), {"weight_var": WEIGHT, "bias_var": BIAS, "parameterization": "standard"}
    errors = []
    for width in (8, 256):
        net, frozen = normed(kind, width), normed(kind, width)
        frozen[1].requires_grad_(False)
        kernel, without = kernel_of(net, x, **facts)(x), kernel_of(frozen, x, **facts)(x)
        generator, parts, others = torch.Generator().manual_seed(3), 0.0, 0.0
        for _ in range(100):
            drawn(net, generator)
            rows = [torch.autograd.grad(y, list(net.parameters()), retain_graph=True) for y in net(x)[:, 0]]
            parts, others = parts + gram(rows, (2, 3)) / 100, others + gram(rows, (0, 1, 4, 5)) / 100
        errors.append((error(parts, kernel.ntk - without.ntk), error(others, without.ntk)))
    assert errors[1][0] < 0.05, errors
    assert errors[1][1] < 0.05, errors
    assert errors[1][0] < errors[0][0], errors


def test_a_trained_scale_before_a_sum_that_bends_is_refused():
    net = Net(
        lambda x, m: m["out"](torch.relu(m["norm"](m["a"](x)) + m["b"](x))),
        a=nn.Linear(5, 8),
        norm=nn.LayerNorm(8),
        b=nn.Linear(5, 8),
        out=nn.Linear(8, 1),
    )
    with pytest.raises(UnsupportedOpError, match="the trained scale of layers.norm"):
        kernel_of(net, inputs(5), parameterization="standard")
    kernel_of(net, inputs(5))
    net.layers["norm"].requires_grad_(False)
    kernel_of(net, inputs(5), parameterization="standard")
