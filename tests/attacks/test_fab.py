"""FAB against closed forms on linear networks and its own promises."""

import pytest
import torch
from torch import nn

from pluriform.attacks.fab import Walk, nearest
from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.threat import Threat

BOTH = pytest.mark.parametrize("method", ["fab", "fab-t"])
DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
DUAL_OF_DUAL = {"linf": torch.inf, "l2": 2, "l1": 1}
every_norm = pytest.mark.parametrize("norm", sorted(DUALS))
FAR = (-1e3, 1e3)


@pytest.fixture
def points():
    return torch.rand(60, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def linear(classes):
    torch.manual_seed(0)
    return nn.Linear(20, classes).double()


def distances(net, x, y, norm):
    """The distance of every sample to its nearest boundary, by the dual norm."""
    z = net(x).detach()
    lead = z.gather(1, y[:, None]) - z
    weights = net.weight.detach()
    away = lead / (weights[y][:, None] - weights[None]).norm(DUALS[norm], dim=2)
    return away.scatter(1, y[:, None], torch.inf).amin(1)


def search(net, x, y, threat, targets=None, **walk):
    with attack_mode(net):
        return nearest(net, x, y, threat, Walk(**walk), targets)


@every_norm
@pytest.mark.parametrize("targets", [None, 9])
def test_two_classes_one_and_two_steps_end_at_the_known_multiples_of_the_distance(points, norm, targets):
    net = linear(2)
    y = net(points).argmax(1)
    exact = distances(net, points, y, norm)
    threat = Threat(norm, 1.0, FAR)
    torch.testing.assert_close(search(net, points, y, threat, targets, steps=1).distances, 1.05 * exact)
    second = search(net, points, y, threat, targets, steps=2).distances / exact
    assert second.min() > 1
    assert second.max() < 1.006
    found = search(net, points, y, threat, targets, steps=20)
    assert (found.distances < 1.006 * exact).all()
    torch.testing.assert_close((found.points - points).norm(DUAL_OF_DUAL[norm], dim=1), found.distances)
    assert (net(found.points).argmax(1) != y).all()
