"""FAB against closed forms on linear networks and its own promises."""

import pytest
import torch
from torch import nn

from pluriform.attacks.attack import attack
from pluriform.attacks.fab import Walk, nearest
from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.hyperplane import shortest_step
from pluriform.attacks.perturb import perturb
from pluriform.attacks.threat import Threat
from pluriform.errors import ConfigError, ShapeError, UnsupportedOpError

BOTH = pytest.mark.parametrize("method", ["fab", "fab-t"])
DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
DUAL_OF_DUAL = {"linf": torch.inf, "l2": 2, "l1": 1}
every_norm = pytest.mark.parametrize("norm", sorted(DUALS))
FAR = (-45, 45)


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


@every_norm
@pytest.mark.parametrize("targets", [None, 9])
def test_five_classes_the_nearest_boundary_is_found(points, norm, targets):
    net = linear(5)
    y = net(points).argmax(1)
    ratio = search(net, points, y, Threat(norm, 1.0, FAR), targets, steps=30).distances / distances(
        net, points, y, norm
    )
    assert ratio.min() > 1
    assert ratio.max() < 1.006


@BOTH
@every_norm
def test_exactly_the_samples_within_their_minimal_distance_flip(points, norm, method):
    net = linear(3)
    y = net(points).argmax(1)
    exact = distances(net, points, y, norm)
    eps = float(exact.median())
    threat = Threat(norm, eps, FAR)
    moved = attack(net, points, y, threat, method, steps=10)
    flipped = net(moved).argmax(1) != y
    clear = ((exact - eps) / eps).abs() > 0.01
    assert torch.equal(flipped[clear], (exact < eps)[clear])
    assert torch.equal(moved[~flipped], points[~flipped])


@every_norm
def test_walls_of_a_tight_box_are_respected_and_lengthen_the_way(points, norm):
    net = linear(2)
    points = (1.6 * points - 0.3).clamp(0, 1)
    z = net(points).detach()
    y = z.argmax(1)
    other = 1 - y
    normals = (net.weight[other] - net.weight[y]).detach()
    gaps = (z.gather(1, y[:, None]) - z.gather(1, other[:, None]))[:, 0]
    exact = shortest_step(points, normals, gaps, norm, (0, 1)).norm(DUAL_OF_DUAL[norm], dim=1)
    reached = (normals * ((normals > 0).double() - points)).sum(1) > 1.1 * gaps
    found = search(net, points, y, Threat(norm, 1.0, (0, 1)), steps=40)
    assert found.points.min() >= 0
    assert found.points.max() <= 1
    ratio = (found.distances / exact)[reached]
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() < 1.03
    assert (exact > 1.01 * distances(net, points, y, norm)).any()


def test_boundaries_outside_the_box_are_not_reached(points):
    net = linear(2)
    net.bias.data[0] += 100
    found = search(net, points, torch.zeros(60, dtype=torch.long), Threat("l2", 1.0, (0, 1)), steps=5)
    assert found.distances.isinf().all()
    assert torch.equal(found.points, points)


def test_distances_of_a_curved_boundary_agree_with_a_fine_grid():
    torch.manual_seed(3)
    first = nn.Linear(2, 30).double()
    net = nn.Sequential(first, nn.Tanh(), nn.Linear(30, 3).double())
    with torch.no_grad():
        first.weight *= 3
        side = torch.linspace(0, 1, 301, dtype=torch.float64)
        grid = torch.cartesian_prod(side, side)
        x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y, classes = net(x).argmax(1), net(grid).argmax(1)
    assert len(classes.unique()) == 3
    for norm, order in DUAL_OF_DUAL.items():
        away = torch.cdist(x, grid, p=order).masked_fill(classes == y[:, None], torch.inf).amin(1)
        found = search(net, x, y, Threat(norm, 1.0, (0, 1)), restarts=3, halvings=10).distances
        assert (found > away - 1.5 / 300 * 2).all()
        assert (found < 1.1 * away + 1 / 300).float().mean() > 0.8


def test_more_steps_restarts_targets_and_radius_never_leave_more_accuracy(net, samples):
    x, y = samples

    def accuracy(eps=0.06, **options):
        moved = attack(net, x, y, Threat("linf", eps, (0, 1)), "fab-t", **options)
        return float((net(moved).argmax(-1) == y).float().mean())

    assert accuracy(steps=1) >= accuracy(steps=5) >= accuracy(steps=20)
    assert accuracy(steps=5) >= accuracy(steps=5, restarts=3)
    assert accuracy(steps=5, targets=1) >= accuracy(steps=5, targets=2)
    assert accuracy(0.01) >= accuracy(0.03) >= accuracy(0.1) >= accuracy(0.5)
    assert accuracy(0.8) < 0.1


@BOTH
def test_stopping_early_breaks_the_same_samples_at_points_no_nearer(net, samples, method):
    x, y = samples
    threat = Threat("l2", 0.3, (0, 1))
    first, last = (attack(net, x, y, threat, method, steps=20, stop_when_broken=stop) for stop in (True, False))
    broken = net(first).argmax(-1) != y
    assert torch.equal(broken, net(last).argmax(-1) != y)
    assert 0 < broken.sum() < 40
    near, far = ((moved - x).flatten(1).norm(dim=1)[broken] for moved in (last, first))
    assert (near <= far).all()
    assert (near < 0.9 * far).any()


@pytest.mark.parametrize(("method", "gradients"), [("fab", 4), ("fab-t", 1)])
def test_a_step_costs_two_forwards_and_the_gradients_it_says(points, method, gradients, monkeypatch):
    net, calls = linear(5), {"forward": 0, "backward": 0}
    y = net(points).argmax(1)
    once = torch.autograd.grad

    def counted(*arguments, **options):
        calls["backward"] += 1
        return once(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    whole = len(points)  # A single sample is tried first.
    net.register_forward_hook(lambda _, given, __: calls.update(forward=calls["forward"] + (len(given[0]) == whole)))
    options = {"targets": 1} if method == "fab-t" else {}
    with torch.no_grad():
        attack(net, points, y, Threat("l2", 1e-9, FAR), method, steps=7, **options)
    assert calls == {"forward": 1 + 2 * 7, "backward": 7 * gradients}


@BOTH
def test_misclassified_samples_and_no_steps_change_nothing(net, samples, method):
    x, y = samples
    threat = Threat("l2", 0.5, (0, 1))
    assert torch.equal(attack(net, x, (y + 1) % 3, threat, method, steps=3), x)
    assert torch.equal(attack(net, x, y, threat, method, steps=0), x)


@BOTH
@every_norm
def test_a_flat_network_gives_back_the_inputs(samples, method, norm):
    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])

    x, _ = samples
    labels = torch.zeros(40, dtype=torch.long)
    assert torch.equal(attack(Flat(), x, labels, Threat(norm, 0.5, (0, 1)), method, steps=3, restarts=2), x)


@BOTH
def test_bad_calls_say_what_to_do(samples, method):
    class Detached(nn.Linear):
        def forward(self, input):
            return super().forward(input.flatten(1).detach())

    x, y = samples
    threat, net = Threat("linf", 0.1, (0, 1)), nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ConfigError, match="steps >= 0, restarts >= 1 .*; got steps -1, restarts 1"):
        attack(net, x, y, threat, method, steps=-1)
    single = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(ShapeError, match=r"got shape \(1, 1\) .* a logit for each class, at least two"):
        attack(single, x, 0 * y, threat, method)
    with pytest.raises(ConfigError, match="expected at least 2 classes; got 1"):
        perturb(single, x, 0 * y, threat, method)
    detached = Detached(16, 5)
    with pytest.raises(UnsupportedOpError, match="expected outputs differentiable in the inputs; got .* of Detached"):
        attack(detached, x, detached(x).argmax(1), threat, method)


def test_impossible_walks_and_targets(net, samples):
    x, y = samples
    with pytest.raises(ConfigError, match="expected targets >= 1; got 0"):
        attack(net, x, y, Threat("linf", 0.1, (0, 1)), "fab-t", targets=0)
    with pytest.raises(ConfigError, match=r"overshoot >= 1 .* got bias 0.1, overshoot 0.5"):
        Walk(overshoot=0.5)
