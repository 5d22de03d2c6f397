"""Sums, products and concatenations of records."""

import torch

from pluriform.infinite.branch import concatenate, product, residual_sum, scale
from pluriform.infinite.features import input_kernel


def branch(seed, **facts):
    x = torch.randn(3, 400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    record = input_kernel(x, x, same=True, ntk=True)
    return x, record.replace(ntk=record.nngp**2, gaussian=True, zero_mean=True, **facts)


def moment(x):
    return x @ x.T / x.shape[1]


def test_moments_of_sums_and_products_of_independent_units():
    """Every pair of units of the two branches is met once, so that the moments hold exactly for products."""
    (x, a), (y, b) = branch(0), branch(1)
    pairs = (x[:, :, None] * y[:, None, :]).flatten(1)
    assert torch.allclose(product(a, b).nngp, moment(pairs))
    assert torch.allclose(product(a, b).ntk, a.ntk * b.nngp + a.nngp * b.ntk)
    signed = torch.cat([x.repeat_interleave(2, 1) + torch.stack([y, -y], 2).flatten(1)], 1)
    assert torch.allclose(residual_sum(a, b).nngp, moment(signed))
    assert torch.allclose(residual_sum(a, b).ntk, a.ntk + b.ntk)


def test_concatenation_weighs_by_width():
    (x, a), (y, b) = branch(0), branch(1)
    joined = concatenate(a, b.replace(), widths=[400, 400])
    assert torch.allclose(joined.nngp, moment(torch.cat([x, y], 1)))
    narrow = input_kernel(y[:, :100], y[:, :100], same=True, ntk=False)
    wide = concatenate(a.replace(ntk=None), narrow, widths=[400, 100])
    assert torch.allclose(wide.variance1, moment(torch.cat([x, y[:, :100]], 1)).diagonal())
    assert wide.ntk is None


def test_facts_of_joined_branches():
    (_, a), (_, b) = branch(0), branch(1)
    bent = b.replace(gaussian=False, zero_mean=False)
    assert residual_sum(a, b).gaussian
    assert not residual_sum(a, bent).gaussian
    assert not residual_sum(a, bent).zero_mean
    assert product(a, bent).zero_mean
    assert not product(a, b).gaussian
    assert not concatenate(a, b, widths=[1, 1]).gaussian


def test_scaling_squares():
    x, a = branch(0)
    assert torch.allclose(scale(a, -3.0).nngp, moment(3 * x))
    assert torch.allclose(scale(a, -3.0).ntk, 9 * a.ntk)
