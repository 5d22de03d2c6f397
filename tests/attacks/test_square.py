"""The Square attack against the published formulas, written plainly, and its promises."""

import itertools

import pytest
import torch
from torch import nn

from pluriform.attacks.attack import attack
from pluriform.attacks.noise import bits
from pluriform.attacks.objective import margin
from pluriform.attacks.square import square
from pluriform.attacks.threat import Threat
from pluriform.attacks.windows import Grid, blocks, bump, draw, fingerprint, window_fraction, window_shape
from pluriform.errors import ConfigError

THREATS = [Threat("linf", 0.1, (0, 1)), Threat("l2", 0.7, (0, 1))]
every_threat = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)


class Colours(nn.Module):
    """A small network on images of 3 channels, and how often and on what it was asked."""

    def __init__(self, size=9, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.randn(3 * size * size, 30, generator=generator, dtype=torch.float64) / 8
        self.last = torch.randn(30, classes, generator=generator, dtype=torch.float64)
        self.asked = []

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.asked.append(len(x))
        return (x.flatten(1) @ self.first.to(x)).tanh() @ self.last.to(x)


@pytest.fixture
def images():
    x = torch.rand(12, 3, 9, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        return x, Colours()(x).argmax(1)


def margins(net, x, y):
    with torch.no_grad():
        return margin(net(x), y)


def plain(net, x, y, threat, queries, seed):
    """The published search of one image on whole images; only its random numbers are those of the package."""
    grid, prints, size = Grid(3, 9, 9), fingerprint(x, seed, 0), x.shape[-1]
    eps, shapes = threat.eps, [window_shape(window_fraction(q), grid, threat.norm == "l2") for q in range(queries)]
    if threat.norm == "linf":
        signs = 2 * (bits(prints, 27, seed) >> 40 & 1).view(1, 3, 1, 9) - 1
        best = (x + eps * signs).clamp(0, 1)
    else:
        word = (bits(prints, 4 * 81, seed) >> 40 & 1).view(1, 4, 9, 9)
        tiles = bump((1, 1))[word[:, :1]].view(1, 1, 9, 9) * (2 * word[:, 1:] - 1)
        best = (x + eps * tiles / tiles.norm()).clamp(0, 1)
    lead = margins(net, best, y)
    for block in blocks(queries):
        draws = draw(prints, grid, shapes[block.start : block.stop], seed, block.start)
        for place, query in enumerate(block):
            if lead > 0:
                return best, lead
            side = shapes[query][0]
            one, two = (torch.zeros(1, 3, size, size, dtype=torch.bool) for _ in range(2))
            for mask, first in ((one, draws.first), (two, draws.second)):
                row, column = divmod(int(first[place, 0]), size)
                mask[:, :, row : row + side, column : column + side] = True
            sign = 2 * draws.signs[place].view(1, 3, 1, 1) - 1
            if threat.norm == "linf":
                new = best + 2 * eps * sign * one
                new = torch.minimum(torch.maximum(new, x - eps), x + eps).clamp(0, 1)
            else:
                change = best - x
                old = change[one].view(1, 3, side, side)
                windows = (change * (one | two)).square().sum((2, 3), keepdim=True)
                new = bump((side, side))[draws.turned[place, 0]] * sign
                new = new + old / (1e-12 + old.square().sum((2, 3), keepdim=True).sqrt())
                left = max(eps**2 - float(change.square().sum()), 0) / 3
                new = new / (1e-12 + new.square().sum((2, 3), keepdim=True).sqrt()) * (left + windows).sqrt()
                change[two] = 0
                change[one] = new.flatten()
                new = (x + eps * change / change.norm()).clamp(0, 1)
            found = margins(net, new, y)
            if found > lead:
                best, lead = new, found
    return best, lead


@every_threat
def test_a_search_is_the_published_one(images, threat):
    x, y = images
    net, threat = Colours(), threat.scaled(0.2)
    leads = margins(net, square(net, x, y, threat, queries=80, seed=3), y)
    for row in range(6):
        best, lead = plain(net, x[row : row + 1], y[row : row + 1], threat, 80, 3)
        torch.testing.assert_close(leads[row : row + 1], lead)
        found = square(net, x[row : row + 1], y[row : row + 1], threat, queries=80, seed=3)
        torch.testing.assert_close(found, best)
    assert (leads > margins(net, x, y) + 0.05).all()
    assert (leads <= 0).any()


@every_threat
def test_the_margin_never_falls_with_more_queries_or_restarts(images, threat):
    x, y = images
    net, threat = Colours(), threat.scaled(0.1)
    ladder = [margins(net, square(net, x, y, threat, queries=queries), y) for queries in (0, 1, 2, 10, 40, 100, 200)]
    assert all((more >= less).all() for less, more in itertools.pairwise(ladder))
    assert (ladder[-1] > ladder[1]).all()
    twice = margins(net, square(net, x, y, threat, queries=100, restarts=2), y)
    assert (twice >= ladder[-2]).all()
    assert (twice > ladder[-2]).any()


def test_the_perturbation_is_eps_everywhere_in_linf(images):
    x, y = images
    moved = square(Colours(), x, y, Threat("linf", 0.01, (0, 1)), queries=50)
    walls = (moved == 0) | (moved == 1)
    torch.testing.assert_close((moved - x).abs()[~walls], torch.full_like(x, 0.01)[~walls])
    assert walls.double().mean() < 0.05


def test_the_perturbation_has_length_eps_in_l2(images):
    x, y = images
    moved = square(Colours(), x, y, Threat("l2", 0.1, (-5, 5)), queries=50)
    assert (moved - x).flatten(1).norm(dim=1).tolist() == pytest.approx([0.1] * 12)


@every_threat
def test_every_query_is_one_forward_of_those_that_stand(images, threat):
    x, y = images
    net = Colours()
    square(net, x, y, threat.scaled(1e-6), queries=150)
    assert net.asked == [12] * 151
    net.asked.clear()
    square(net, x, y, threat, queries=150)
    assert net.asked[0] == 12
    assert net.asked == sorted(net.asked, reverse=True)
    assert net.asked[-1] < 12


@every_threat
def test_no_gradient_is_asked_for_and_none_is_needed(images, threat, monkeypatch):
    class Rounded(Colours):
        def forward(self, x):
            return super().forward((x * 50).round() / 50).detach()

    def refuse(*_, **__):
        raise RuntimeError("a gradient")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    x, y = images
    net = Rounded()
    moved = attack(net, x, y, threat, "square", queries=200)
    assert not moved.requires_grad
    assert (margins(net, moved, y) > 0).any()


@every_threat
def test_same_seed_same_points_other_seed_others(images, threat):
    x, y = images
    one, again, other = (square(Colours(), x, y, threat, queries=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("shape", [(20,), (2, 10), (1, 4, 5), (1, 1, 20)])
@every_threat
def test_nothing_flips_below_the_distance_of_a_linear_network_and_most_well_above(shape, threat):
    torch.manual_seed(0)
    line = nn.Linear(20, 2).double()
    net = nn.Sequential(nn.Flatten(), line)
    x = torch.rand(40, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        y, lead = net(x).argmax(1), (net(x)[:, 0] - net(x)[:, 1]).abs()
        exact = lead / (line.weight[0] - line.weight[1]).norm(1 if threat.norm == "linf" else 2)
    eps = float(exact.median())
    moved = attack(net, x, y, Threat(threat.norm, eps, (-40, 40)), "square", queries=200)
    flipped = net(moved).argmax(1) != y
    assert not flipped[exact > eps].any()
    assert flipped[exact < 0.6 * eps].double().mean() > 0.8


@every_threat
def test_a_table_row_does_not_depend_on_its_batch(threat):
    torch.manual_seed(0)
    net = nn.Linear(15, 3).double()
    x = torch.rand(30, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = net(x).argmax(1)
    whole = attack(net, x, y, threat.scaled(0.5), "square", queries=60)
    halves = [
        attack(net, part, labels, threat.scaled(0.5), "square", queries=60)
        for part, labels in zip(x.split(11), y.split(11), strict=True)
    ]
    torch.testing.assert_close(torch.cat(halves), whole)


def test_a_stretched_schedule_is_another_search(images):
    x, y = images
    threat = Threat("linf", 0.02, (0, 1))
    plainly, stretched = (
        square(Colours(), x, y, threat, queries=30, rescale_schedule=rescale) for rescale in (False, True)
    )
    assert not torch.equal(plainly, stretched)


@every_threat
def test_misclassified_samples_and_no_queries_change_nothing(images, threat):
    x, y = images
    assert torch.equal(square(Colours(), x, (y + 1) % 4, threat, queries=5), x)
    assert torch.equal(square(Colours(), x, y, threat, queries=0), x)


def test_impossible_calls_say_what_to_do(images):
    x, y = images
    with pytest.raises(ConfigError, match="expected norm linf or l2; got norm l1 .*attack L1 with apgd-ce"):
        square(Colours(), x, y, Threat("l1", 1, (0, 1)))
    with pytest.raises(ConfigError, match=r"expected images, sequences or vectors; got inputs of shape \(3, 9, 3, 3\)"):
        square(Colours(), x.view(12, 3, 9, 3, 3), y, THREATS[0])
    with pytest.raises(ConfigError, match="expected queries >= 0 and restarts >= 1; got queries -1, restarts 1"):
        square(Colours(), x, y, THREATS[0], queries=-1)
    with pytest.raises(ConfigError, match="expected a fraction above 0, at most 1; got fraction 0"):
        square(Colours(), x, y, THREATS[0], fraction=0)
