"""Schedule, shapes, bumps and places of windows."""

import pytest
import torch
from scipy.stats import chisquare

from pluriform.attacks.windows import Grid, blocks, bump, draw, fingerprint, window_fraction, window_shape


@pytest.fixture(scope="module")
def prints():
    return fingerprint(torch.rand(300, 1, 6, 9, generator=torch.Generator().manual_seed(0)), 0, 0)


def test_the_published_schedule_of_sides_on_28_pixels():
    sides = {0: 25, 10: 25, 11: 18, 50: 18, 51: 13, 201: 9, 501: 6, 1001: 4, 2001: 3, 4001: 2, 6001: 2, 8001: 1}
    for query, side in sides.items():
        assert window_shape(window_fraction(query), Grid(1, 28, 28)) == (side, side)


def test_a_stretched_schedule_ends_where_the_long_one_does():
    assert [window_fraction(query, 0.8, 5000) for query in (5, 6, 4000, 4001)] == [0.8, 0.4, 0.8 / 256, 0.8 / 512]
    assert window_fraction(4999) == 0.8 / 128


@pytest.mark.parametrize(
    ("grid", "odd", "shapes"),
    [
        (Grid(3, 32, 32), True, {0.8: (29, 29), 0.05: (7, 7), 1e-9: (3, 3)}),
        (Grid(3, 20, 50), False, {1.0: (20, 20), 0.01: (3, 3), 1e-9: (1, 1)}),
        (Grid(1, 1, 30), False, {1.0: (1, 30), 0.1: (1, 3), 1e-9: (1, 1)}),
        (Grid(1, 1, 30), True, {0.2: (1, 7), 1e-9: (1, 3)}),
        (Grid(1, 2, 2), True, {0.8: (2, 2)}),
    ],
)
def test_windows_fit_and_are_odd_where_asked(grid, odd, shapes):
    assert {part: window_shape(part, grid, odd) for part in shapes} == shapes


def nested(rows, columns):
    """Rectangles laid on one another, cell by cell."""
    sums = torch.zeros(rows, columns)
    for k in range(max(rows // 2, columns // 2) + 1):
        for i in range(rows):
            for j in range(columns):
                if abs(i - rows // 2) <= k and abs(j - columns // 2) <= k:
                    sums[i, j] += 1 / (k + 1) ** 2
    return sums / sums.norm()


@pytest.mark.parametrize("side", [2, 3, 4, 5, 7])
def test_bumps_are_two_opposite_halves_of_nested_rectangles(side):
    straight, turned = bump((side, side))
    assert straight.norm() == pytest.approx(1)
    assert torch.equal(turned, straight.T)
    half = 2**-0.5
    torch.testing.assert_close(straight[: side // 2], half * nested(side // 2, side))
    torch.testing.assert_close(straight[side // 2 :], -half * nested(side - side // 2, side))


def test_bumps_of_lines_and_single_cells():
    line, turned = bump((1, 5))
    assert line.shape == (1, 5)
    assert (line[0, :2] > 0).all()
    assert (line[0, 2:] < 0).all()
    assert torch.equal(turned, line.flip(1))
    assert bump((1, 1)).abs().tolist() == [[[1]], [[1]]]


def test_places_are_uniform_over_all_that_fit_and_signs_fair(prints):
    grid, shapes = Grid(70, 6, 9), [(3, 3)] * 20
    draws = draw(prints, grid, shapes, 0, 1)
    legal = [row * 9 + column for row in range(4) for column in range(7)]
    for places in (draws.first, draws.second):
        counts = places.flatten().bincount(minlength=54)
        assert counts.sum() == counts[legal].sum() == 6000
        assert chisquare(counts[legal].numpy()).pvalue > 0.001
    assert draws.signs.unique().tolist() == [0, 1]
    assert draws.signs.shape == (20, 300, 70)
    assert (draws.signs.double().mean((0, 1)) - 0.5).abs().max() < 0.03
    assert abs(float(draws.turned.double().mean()) - 0.5) < 0.03
    parts = torch.stack([draws.first, draws.second, draws.signs[..., 0], draws.signs[..., 69], draws.turned]).flatten(1)
    assert torch.corrcoef(parts.double()).fill_diagonal_(0).abs().max() < 0.06


def test_draws_belong_to_the_sample_the_seed_and_the_stream(prints):
    grid, shapes = Grid(1, 6, 9), [(2, 2)] * 10
    draws, alone = draw(prints, grid, shapes, 0, 1), draw(prints[7:8], grid, shapes, 0, 1)
    assert torch.equal(draws.first[:, 7:8], alone.first)
    assert torch.equal(draws.signs[:, 7:8], alone.signs)
    for seed, stream in [(1, 1), (0, 2)]:
        assert (draw(prints, grid, shapes, seed, stream).first == draws.first).double().mean() < 0.1


@pytest.mark.parametrize("queries", [0, 1, 2, 3, 64, 65, 500])
def test_blocks_hold_every_query_once(queries):
    found = list(blocks(queries))
    assert [query for block in found for query in block] == list(range(1, queries))
    assert all(1 <= len(block) <= 64 for block in found)


def test_cells_of_a_window_in_a_flat_plane():
    assert Grid.of((3, 4, 5)) == Grid(3, 4, 5)
    assert Grid.of((3, 5)) == Grid(3, 1, 5)
    assert Grid.of((5,)) == Grid(1, 1, 5)
    assert Grid(3, 4, 5).offsets((2, 3), torch.device("cpu")).tolist() == [0, 1, 2, 5, 6, 7]
