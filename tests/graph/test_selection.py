"""Selections against the layers themselves."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pluriform.graph.layout import Span
from pluriform.graph.selection import covers, grouped_weight, norm_groups, positions, shares


def test_positions_follow_blocks_and_offsets():
    layout = (Span(0, 2, 3), Span(1, 2))
    chosen = {0: torch.tensor([1, 1])}
    assert positions(layout, chosen).tolist() == [3, 4, 5, 3, 4, 5, 6, 7]


def test_shares_add_up_to_one_for_each_channel():
    index = torch.tensor([0, 2, 2, 1, 2])
    assert shares(index).tolist() == [1, 1 / 3, 1 / 3, 1, 1 / 3]
    assert covers(index, 3)
    assert not covers(index, 4)


def test_norm_groups_of_interleaved_copies_stay_and_of_tiled_copies_double():
    assert norm_groups(torch.arange(8).repeat_interleave(2), 4, 8) == 4
    assert norm_groups(torch.arange(8).repeat(2), 4, 8) == 8
    assert norm_groups(torch.arange(8).repeat_interleave(3), 8, 8) == 24
    assert norm_groups(torch.arange(8).repeat(2), 1, 8) == 1


def test_norm_groups_refuses_uneven_copies_and_mixed_groups():
    assert norm_groups(torch.tensor([0, 0, 1, 2, 3]), 2, 4) is None
    assert norm_groups(torch.tensor([0, 2, 1, 3]), 2, 4) is None


def test_norm_groups_of_a_subset():
    assert norm_groups(torch.tensor([0, 1, 2, 3]), 4, 8) == 2
    assert norm_groups(torch.tensor([0, 2, 4, 6]), 4, 8) == 4
    assert norm_groups(torch.tensor([0, 1, 2, 4, 6]), 4, 8) == 1


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 3), st.integers(1, 3), st.data())
def test_grouped_weight_is_the_dense_weight_selected(groups, per_out, per_in, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    outs, ins = groups * per_out, groups * per_in
    weight = torch.randn(outs, per_in, 1, generator=generator, dtype=torch.float64)
    outputs = torch.tensor(data.draw(st.lists(st.integers(0, outs - 1), min_size=1, max_size=2 * outs)))
    inputs = torch.tensor(data.draw(st.lists(st.integers(0, ins - 1), min_size=1, max_size=2 * ins)))
    got = grouped_weight(weight, groups, outputs, inputs)
    x = torch.randn(2, ins, 5, generator=generator, dtype=torch.float64)
    kept = torch.zeros(ins, dtype=torch.float64).index_fill(0, inputs, 1.0)
    want = F.conv1d(x * kept[:, None], weight, groups=groups)[:, outputs]
    torch.testing.assert_close(F.conv1d(x[:, inputs], got.weight, groups=got.groups), want)


def test_grouped_weight_keeps_the_number_of_groups_when_each_grows_alike():
    weight = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
    got = grouped_weight(weight, 4, torch.arange(8).repeat_interleave(2), torch.arange(8).repeat_interleave(2))
    assert got.groups == 4
    assert got.weight.shape == (16, 4, 3)
