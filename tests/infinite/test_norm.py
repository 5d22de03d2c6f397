"""Normalisation against the layers of torch at large width."""

import torch

from pluriform.infinite.features import input_kernel
from pluriform.infinite.norm import fixed_affine, layer_norm


def field(spatial=(4,), channels=200_000):
    """Units of mean zero whose variance differs by sample and position."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3 * 4, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, channels, generator=generator, dtype=torch.float64)
    return (mixing @ noise).reshape(3, 4, channels).mT[:, :, : spatial[0] if spatial else 1]


def close(a, b):
    return float((a - b).norm() / b.norm()) < 5e-3


def test_over_channels_and_over_everything():
    x = field()
    for over, expected in (
        (False, torch.nn.functional.layer_norm(x.mT, (200_000,)).mT),
        (True, torch.nn.functional.layer_norm(x, x.shape[1:])),
    ):
        for layout in ("full", "diagonal"):
            kernel = layer_norm(input_kernel(x, x, same=True, ntk=True, layout=layout), 1e-5, over_positions=over)
            truth = input_kernel(expected, expected, same=True, ntk=False, layout=layout)
            assert close(kernel.nngp, truth.nngp)
            assert close(kernel.variance1, truth.variance1)


def test_tangents_shrink_like_moments():
    x = field()[:, :500]
    record = input_kernel(x, x, same=True, ntk=True)
    record = record.replace(ntk=3 * record.nngp)
    kernel = layer_norm(record, 0.1, over_positions=True)
    assert torch.allclose(kernel.ntk, 3 * kernel.nngp)


def test_affine_map_of_channels():
    x = field()[:, :1000, 0]
    x = x - x.mean(1, keepdim=True)
    record = input_kernel(x, x, same=True, ntk=True).replace(gaussian=True, zero_mean=True)
    weight, bias = torch.full((4,), 2.0).double(), torch.full((4,), 0.5).double()
    moved = fixed_affine(weight, bias)(record)
    assert torch.allclose(moved.nngp, (2 * x + 0.5) @ (2 * x + 0.5).T / 1000)
    assert not moved.gaussian
    assert not moved.zero_mean
    assert fixed_affine(weight, 0 * bias)(record).gaussian
    assert not fixed_affine(torch.linspace(1, 2, 4), 0 * bias)(record).gaussian
