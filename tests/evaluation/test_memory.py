"""Peak memory against a count by hand."""

import pytest
import torch
from torch import nn

from pluriform.evaluation.evaluate import _Plain
from pluriform.evaluation.memory import peak_memory

MEBIBYTE = 2**20


class Widen(nn.Module):
    def forward(self, x):
        wide = x.flatten(1).repeat(1, 1000)
        return (wide + 1)[:, :3] * 1.0


def test_two_wide_tensors_are_the_peak(data):
    x = torch.rand(128, 1, 6, 6)
    found = peak_memory(_Plain(Widen(), data.signature), x)
    wide = 128 * 36 * 1000 * 4 / MEBIBYTE
    assert found.mebibytes == pytest.approx(2 * wide, rel=0.02)
    assert found.how.startswith("tensors alive at once")


def test_weights_count_and_repeats_agree(data):
    form = _Plain(nn.Sequential(nn.Flatten(), nn.Linear(36, 100_000), nn.Linear(100_000, 3)), data.signature)
    x = torch.rand(1, 1, 6, 6)
    first, second = peak_memory(form, x), peak_memory(form, x)
    weights = sum(w.numel() for w in form.parameters()) * 4 / MEBIBYTE
    assert first == second
    assert weights < first.mebibytes < weights + 1


def test_a_chain_frees_what_it_no_longer_needs(data):
    class Chain(nn.Module):
        def forward(self, x):
            x = x.flatten(1).repeat(1, 1000)
            for _ in range(6):
                x = x + 1
            return x[:, :3] * 1.0

    wide = 64 * 36 * 1000 * 4 / MEBIBYTE
    assert peak_memory(_Plain(Chain(), data.signature), torch.rand(64, 1, 6, 6)).mebibytes == pytest.approx(
        2 * wide, rel=0.05
    )
