import torch
from torch import nn

from pluriform.ensemble.heads.low_rank import LowRankHead, low_rank_count
from pluriform.ensemble.target import layers_of


def test_what_differs_between_draws_has_the_rank():
    torch.manual_seed(0)
    head = LowRankHead(layers_of(nn.Conv2d(8, 40, 3)), 8, 32, {"weight": 1.0, "bias": 1.0}, rank=3)
    base = {"weight": torch.randn(40, 8, 3, 3), "bias": torch.zeros(40)}
    off = (head(torch.randn(5, 1, 8), base)["weight"] - base["weight"]).detach().reshape(5, 40, 72)
    assert torch.linalg.matrix_rank(off, rtol=1e-4).tolist() == [3] * 5
    values = torch.linalg.svdvals(off[0])
    assert float(values[2] / values[0]) > 0.1


def test_product_is_that_of_its_factors():
    torch.manual_seed(0)
    head = LowRankHead(layers_of(nn.Linear(20, 30, bias=False)), 8, 32, {"weight": 1.0}, rank=2)
    codes, base = torch.randn(3, 1, 8), {"weight": torch.randn(30, 20)}
    flat = head.trunk(codes)[0] @ head.maps[0]
    for i, row in enumerate(flat):
        left, right = row[:60].view(30, 2), row[60:].view(2, 20)
        assert torch.allclose(
            head(codes, base)["weight"][i], base["weight"] + head.units["weight"] * left @ right, atol=1e-5
        )


def test_small_tensors_are_generated_in_full():
    layers = layers_of(nn.Linear(5, 4))
    assert low_rank_count(layers, 8, 16) == 16 * (8 + 16 + 4 + 24)
    large = layers_of(nn.Linear(500, 400))
    assert low_rank_count(large, 8, 16, rank=4) == 16 * (8 + 16 + 4 + 4 * 900 + 400)
