"""Tiled factorisation and regression against the dense ones, in memory, in a mapped file and in a foreign store."""

import psutil
import pytest
import torch

from pluriform.errors import CorruptFileError, MemoryBudgetError, ShapeError, SingularKernelError
from pluriform.gaussian_process.exact import condition
from pluriform.gaussian_process.tiled_cholesky import condition_tiled, tiled_cholesky, tiled_solve
from pluriform.gaussian_process.tiles import PackedTiles, Tiling


def draw(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n + 5, generator=generator, dtype=torch.float64)
    return x @ x.T / n, torch.randn(n, 3, generator=generator, dtype=torch.float64)


def dense(tiles):
    n, rows = tiles.tiling.samples, tiles.tiling.rows
    whole = torch.zeros(n, n, dtype=torch.float64)
    for i in range(tiles.tiling.count):
        for j in range(i + 1):
            whole[rows(i), rows(j)] = tiles.get(i, j)
    return whole


class Copies:
    """A store that, like an array on disk, gives copies and keeps only what is set."""

    def __init__(self, tiles):
        self.tiling = tiles.tiling
        self.kept = {(i, j): tiles.get(i, j).clone() for i in range(tiles.tiling.count) for j in range(i + 1)}

    def get(self, i, j):
        return self.kept[i, j].clone()

    def set(self, i, j, tile):
        self.kept[i, j] = tile.clone()


@pytest.mark.parametrize(("n", "side"), [(1, 4), (12, 4), (13, 4), (37, 8), (20, 64), (9, 1)])
def test_factor_equals_the_dense_one_for_ragged_tiles(n, side):
    gram, _ = draw(n)
    tiles = PackedTiles.of(gram, side)
    assert torch.equal(dense(tiles).tril(), gram.tril())
    tiled_cholesky(tiles, 0.1)
    expected = torch.linalg.cholesky(gram + 0.1 * torch.eye(n))
    assert torch.allclose(dense(tiles), expected, atol=1e-12)


def test_packed_memory_is_about_half():
    tiling = Tiling(50_000, 2000)
    assert tiling.entries * 8 < 0.53 * 50_000**2 * 8
    assert Tiling(50_000, 2048).entries == sum(
        Tiling(50_000, 2048).height(i) * Tiling(50_000, 2048).height(j) for i in range(25) for j in range(i + 1)
    )


@pytest.mark.parametrize("store", ["memory", "file", "copies"])
def test_regression_equals_the_dense_one_in_every_store(store, tmp_path):
    gram, y = draw(45)
    cross, own = draw(45, 1)[0][:6], torch.full((6,), 50.0, dtype=torch.float64)
    tiles = PackedTiles.of(gram, 16, tmp_path / "tiles" if store == "file" else None)
    process = condition_tiled(Copies(tiles) if store == "copies" else tiles, y, 0.05)
    oracle = condition(gram, y, 0.05)
    assert torch.allclose(process.weights, oracle.weights)
    assert torch.allclose(process.mean(cross), oracle.mean(cross))
    assert torch.allclose(process.variance(cross, own), oracle.variance(cross, own))
    assert torch.allclose(process.leave_one_out(), oracle.leave_one_out())
    assert process.log_marginal_likelihood() == pytest.approx(oracle.log_marginal_likelihood())


def test_a_factor_in_a_file_can_be_opened_again(tmp_path):
    gram, y = draw(30)
    tiled_cholesky(PackedTiles.of(gram, 8, tmp_path / "factor"))
    assert (tmp_path / "factor").stat().st_size == 8 * Tiling(30, 8).entries
    again = PackedTiles.empty(30, 8, tmp_path / "factor")
    assert torch.allclose(gram @ tiled_solve(again, y), y, atol=1e-8)
    with pytest.raises(CorruptFileError, match="expected a file of"):
        PackedTiles.empty(31, 8, tmp_path / "factor")


@pytest.mark.parametrize("twin", [3, 14])
def test_duplicates_are_named(twin):
    gram, y = draw(15)
    index = torch.tensor([*range(15), twin])
    twice = gram[index][:, index]
    with pytest.raises(SingularKernelError, match=r"sample 15\), with ridge 0.*give a ridge"):
        condition_tiled(PackedTiles.of(twice, 4), torch.cat([y, y[:1]]))
    assert condition_tiled(PackedTiles.of(twice, 4), torch.cat([y, y[:1]]), 0.01).weights.isfinite().all()


@pytest.mark.parametrize("where", [(5, 5), (5, 2)])
def test_nan_is_refused(where):
    gram, y = draw(6)
    gram[where] = torch.nan
    with pytest.raises(SingularKernelError, match="NaN or infinity"):
        condition_tiled(PackedTiles.of(gram, 2), y)


def test_sizes_and_memory_are_checked(monkeypatch):
    with pytest.raises(ShapeError, match="expected 6 targets; got 5"):
        condition_tiled(PackedTiles.of(draw(6)[0], 2), torch.ones(5, 1))
    with pytest.raises(ShapeError, match="side of 1 or more; got 6 samples in tiles of 0"):
        Tiling(6, 0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**30})())
    with pytest.raises(MemoryBudgetError, match=r"packed triangle of 50,000 samples.*path= to keep it in a mapped"):
        PackedTiles.empty(50_000)
