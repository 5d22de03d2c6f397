import pytest
import torch
from torch import nn

from pluriform.ensemble.heads.rank_one import RankOneHead, rank_one_count
from pluriform.ensemble.target import layers_of


def test_factors_stand_for_outputs_and_inputs():
    torch.manual_seed(0)
    head = RankOneHead(layers_of(nn.Conv2d(6, 10, 3)), 8, 32, {"weight": 0.5, "bias": 0.1})
    base = {"weight": torch.randn(10, 6, 3, 3), "bias": torch.zeros(10)}
    ratio = (head(torch.randn(4, 1, 8), base)["weight"] / base["weight"]).detach()
    assert torch.allclose(ratio, ratio[..., :1, :1].expand_as(ratio), rtol=1e-4)
    assert torch.linalg.matrix_rank(ratio[..., 0, 0], rtol=1e-4).tolist() == [1] * 4
    assert rank_one_count(head.layers, 8, 32) == 32 * (8 + 32 + 4 + 16 + 10)


@pytest.mark.parametrize("size", [0.02, 0.3, 2.0])
def test_deviation_is_absolute_whatever_the_base(size):
    torch.manual_seed(0)
    head = RankOneHead(layers_of(nn.Linear(60, 50, bias=False)), 16, 64, {"weight": 0.1})
    base = {"weight": torch.randn(50, 60) * size}
    with torch.no_grad():
        off = head(torch.randn(4096, 1, 16), base)["weight"] - base["weight"]
    assert float(off.square().mean().sqrt()) == pytest.approx(0.1, rel=0.05)


def test_positions_of_one_sequence_are_factored_over_their_long_axes():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.ones(1, 7, 9))

    head = RankOneHead(layers_of(Positions()), 8, 32, {"place": 0.3})
    assert rank_one_count(head.layers, 8, 32) == 32 * (8 + 32 + 4 + 16)
    assert head(torch.randn(2, 1, 8), {"place": torch.ones(1, 7, 9)})["place"].shape == (2, 1, 7, 9)


def test_a_base_of_zero_gives_zero_with_finite_gradients():
    head = RankOneHead(layers_of(nn.Linear(20, 30, bias=False)), 8, 32, {"weight": 0.3})
    base = torch.zeros(30, 20, requires_grad=True)
    weights = head(torch.randn(2, 1, 8), {"weight": base})["weight"]
    assert torch.count_nonzero(weights) == 0
    (weights.sum() + weights.square().sum()).backward()
    assert torch.isfinite(base.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
