"""Minimal distances against the closed form of linear networks and against attacks at fixed radii."""

import pytest
import torch
from torch import nn

from pluriform.attacks.attack import attack
from pluriform.attacks.minimal import minimal_distances
from pluriform.attacks.threat import Threat
from pluriform.errors import BoundsError, ConfigError, ShapeError

DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}


@pytest.mark.parametrize("norm", sorted(DUALS))
@pytest.mark.parametrize("targets", [None, 9])
def test_distances_of_a_linear_network_are_exact_to_a_thousandth(norm, targets):
    torch.manual_seed(0)
    net, x = nn.Linear(20, 4).double(), torch.rand(300, 20, dtype=torch.float64)
    z = net(x).detach()
    y = z.argmax(1)
    weights = net.weight.detach()
    away = (z.gather(1, y[:, None]) - z) / (weights[y][:, None] - weights[None]).norm(DUALS[norm], dim=2)
    exact = away.scatter(1, y[:, None], torch.inf).amin(1)
    found = minimal_distances(net, x, y, norm, (-40, 40), targets=targets, steps=20)
    ratio = found.distances / exact
    assert ratio.min() >= 1 - 1e-12
    assert ratio.max() < 1.001
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    torch.testing.assert_close((found.points - x).norm(order, dim=1), found.distances)
    assert (net(found.points).argmax(1) != y).all()


def test_one_call_gives_the_curve_of_robust_accuracy(net, samples):
    x, y = samples
    net.double().train()
    distances = minimal_distances(net, x.double(), y, "linf", (0, 1), steps=20).distances
    assert net.training
    for eps in (0.02, 0.05, 0.1):
        moved = attack(net, x.double(), y, Threat("linf", eps, (0, 1)), "fab-t", steps=20)
        with torch.no_grad():
            standing = (net.eval()(moved).argmax(1) == y).double().mean()
        net.train()
        assert (distances > eps).double().mean() == pytest.approx(float(standing), abs=1 / 40 + 1e-9)


def test_wrong_samples_are_at_distance_0_and_unreached_ones_at_infinity():
    net = nn.Linear(2, 2)
    net.load_state_dict({"weight": torch.eye(2), "bias": torch.tensor([0.0, -3.0])})
    x = torch.tensor([[0.5, 0.5], [0.2, 0.9]])
    found = minimal_distances(net, x, torch.tensor([0, 1]), "l2", (0, 1), steps=5, restarts=2)
    assert found.distances.tolist() == [torch.inf, 0]
    assert torch.equal(found.points, x)


def test_bad_calls_say_what_to_do(net, samples):
    x, y = samples
    with pytest.raises(ConfigError, match="expected norm .*; got norm 'l3'"):
        minimal_distances(net, x, y, "l3", (0, 1))
    with pytest.raises(BoundsError, match="got bounds None"):
        minimal_distances(net, x, y)
    with pytest.raises(ShapeError, match=r"got 40 inputs, 39 labels \(minimal_distances\)"):
        minimal_distances(net, x, y[1:], bounds=(0, 1))
    with pytest.raises(ConfigError, match="expected targets >= 1, or None; got 0"):
        minimal_distances(net, x, y, bounds=(0, 1), targets=0)
