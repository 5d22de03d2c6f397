"""The end of training in packed tiles against whole matrices."""

import pytest
import torch

from pluriform.gaussian_process.tiled_cholesky import condition_tiled
from pluriform.gaussian_process.tiles import PackedTiles
from pluriform.infinite.predict.gradient_flow import gradient_flow
from pluriform.infinite.predict.tiled_flow import TiledFlow

N, M = 23, 6


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_mean_and_variance_are_those_of_whole_matrices(kernel):
    generator = torch.Generator().manual_seed(0)
    features, more = (torch.randn(N + M, 50, generator=generator, dtype=torch.float64) for _ in range(2))
    k = features @ features.T / 50
    theta = k + more @ more.T / 50 if kernel == "ntk" else k
    y = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    process = condition_tiled(PackedTiles.of(theta[:N, :N], 5), y, 0.1)
    nngp = PackedTiles.of(k[:N, :N], 5) if kernel == "ntk" else None
    made = TiledFlow(process.weights, process.factor, nngp)
    dense = gradient_flow(k[:N, :N], theta[:N, :N], y, ridge=0.1, kernel=kernel)
    cross, at = theta[N:, :N], (theta[N:, :N], k[N:, :N], k[N:, N:].diagonal())
    assert torch.allclose(made.mean(cross), dense.mean(cross))
    assert torch.allclose(made.variance(*at), dense.variance(*at))
    assert (made.variance(*at) < at[2]).all()
