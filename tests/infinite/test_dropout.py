"""Dropout against masks drawn at random."""

import torch

from pluriform.infinite.dropout import dropout
from pluriform.infinite.features import input_kernel


def test_moments_of_masked_units():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 400_000, 3, generator=generator, dtype=torch.float64)
    for whole in (False, True):
        shape = (2, 400_000, 1) if whole else x.shape
        masked = x * (torch.rand(shape, generator=generator) < 0.8) / 0.8
        for layout in ("full", "diagonal"):
            record = input_kernel(x, x, same=True, ntk=True, layout=layout)
            kernel = dropout(record.replace(ntk=record.nngp), 0.8, whole_channels=whole)
            truth = input_kernel(masked, masked, same=True, ntk=False, layout=layout)
            assert torch.allclose(kernel.nngp, truth.nngp, atol=0.02)
            assert torch.allclose(kernel.variance2, truth.variance2, atol=0.02)
            assert torch.equal(kernel.ntk, kernel.nngp)


def test_different_samples_share_no_mask():
    x = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    record = input_kernel(x, x.clone(), same=False, ntk=False)
    kernel = dropout(record, 0.5)
    assert torch.equal(kernel.nngp, record.nngp)
    assert torch.equal(kernel.variance1, 2 * record.variance1)
