"""PGD and FGSM against closed forms on linear networks, and the promises of PGD."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.attacks.attack import attack
from pluriform.attacks.gradient import Verdict
from pluriform.attacks.objective import dlr, margin
from pluriform.attacks.pgd import _Worst
from pluriform.attacks.threat import Threat
from pluriform.errors import ConfigError


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(20, 2)


@pytest.fixture
def points(linear):
    x = 0.5 + 0.1 * torch.randn(60, 20, generator=torch.Generator().manual_seed(2)).clamp(-3, 3)
    with torch.no_grad():
        return x, linear(x).argmax(-1)


def margins(linear, x, y):
    """Distance of the logits of label and other class, and the weight vector of that difference."""
    weight = (linear.weight[1] - linear.weight[0]).detach() * (2 * y[:, None] - 1)
    return (linear(x).gather(1, y[:, None]) - linear(x).gather(1, 1 - y[:, None])).detach().squeeze(1), weight


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_linf_optimum_of_a_linear_network_is_minus_eps_sign_w(linear, points, method):
    x, y = points
    threat = Threat("linf", 0.02, (-10, 10))
    options = {"stop_when_broken": False} if method == "pgd" else {}
    moved = attack(linear, x, y, threat, method, **options)
    _, weight = margins(linear, x, y)
    torch.testing.assert_close(moved, x - 0.02 * weight.sign(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_l2_optimum_of_a_linear_network_is_along_w(linear, points, method):
    x, y = points
    threat = Threat("l2", 0.1, (-10, 10))
    options = {"stop_when_broken": False, "steps": 60, "step_size": 0.05} if method == "pgd" else {}
    moved = attack(linear, x, y, threat, method, **options)
    _, weight = margins(linear, x, y)
    torch.testing.assert_close(moved, x - 0.1 * F.normalize(weight), atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_l1_optimum_of_a_linear_network_is_the_largest_weight(linear, points, method):
    x, y = points
    options = {"stop_when_broken": False} if method == "pgd" else {}
    moved = attack(linear, x, y, Threat("l1", 0.3, (-10, 10)), method, **options)
    _, weight = margins(linear, x, y)
    largest = F.one_hot(weight.abs().argmax(1), 20)
    torch.testing.assert_close(moved, x - 0.3 * largest * weight.sign(), atol=1e-5, rtol=0)


def test_l1_attacks_go_on_to_the_next_values_where_the_box_ends(linear, points):
    """The box leaves the largest weight less room than eps; the optimum fills several values, by sorting here."""
    x, y = points
    x = x.clamp(0.05, 0.95)
    y = linear(x).argmax(-1)
    threat = Threat("l1", 1.2, (0, 1))
    margin, weight = margins(linear, x, y)
    lowest = []
    for row in range(60):
        left, gap = 1.2, float(margin[row])
        for place in weight[row].abs().argsort(descending=True).tolist():
            room = float(x[row, place] if weight[row, place] > 0 else 1 - x[row, place])
            gap, left = gap - min(left, room) * float(weight[row, place].abs()), left - min(left, room)
        lowest.append(gap)
    for method, options, slack in [("fgsm", {}, 1e-5), ("pgd", {"stop_when_broken": False, "steps": 100}, 0.02)]:
        found, _ = margins(linear, attack(linear, x, y, threat, method, **options), y)
        assert found.tolist() == pytest.approx(lowest, abs=slack)


@pytest.mark.parametrize("eps", [5, 14, 20])
def test_l1_steps_move_as_many_values_as_the_box_asks_for(linear, points, eps):
    """Steps of a hundredth of the values would need more than all of the box for each; at 20, eps is the whole box."""
    x = points[0].clamp(0, 1)
    y = linear(x).argmax(-1)
    threat, far = Threat("l1", eps, (0, 1)), {"stop_when_broken": False}
    clean, found, lowest = (
        margins(linear, at, y)[0]
        for at in (x, attack(linear, x, y, threat, **far), attack(linear, x, y, threat, "fgsm"))
    )
    assert float(((clean - found) / (clean - lowest)).min()) > 0.8  # FGSM is the optimum of a linear network.


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_exactly_the_samples_within_their_minimal_distance_flip(linear, points, norm, dual):
    x, y = points
    margin, weight = margins(linear, x, y)
    distance = margin / weight.norm(dual, dim=1)
    eps = float(distance.median()) + 1e-4
    moved = attack(linear, x, y, Threat(norm, eps, (-10, 10)), steps=50)
    clear = (distance - eps).abs() > 1e-3 * eps
    assert torch.equal((linear(moved).argmax(-1) != y)[clear], (distance < eps)[clear])


def test_more_steps_and_restarts_never_leave_more_accuracy(net, samples):
    x, y = samples
    threat = Threat("linf", 0.06, (0, 1))

    def accuracy(**options):
        return float((net(attack(net, x, y, threat, **options)).argmax(-1) == y).float().mean())

    assert accuracy(restarts=1) >= accuracy(restarts=3) >= accuracy(restarts=6)
    assert accuracy(steps=1, random_start=False) >= accuracy(steps=20)


def test_a_broken_sample_keeps_its_first_broken_point_and_others_their_highest_loss(net, samples):
    x, y = samples
    threat = Threat("linf", 0.04, (0, 1))
    moved = attack(net, x, y, threat)
    last = attack(net, x, y, threat, stop_when_broken=False)
    standing = net(moved).argmax(-1) == y
    before, after = (F.cross_entropy(net(points), y, reduction="none") for points in (x, moved))
    assert (after >= before)[standing].all()
    best = F.cross_entropy(net(last), y, reduction="none")
    assert (best >= after - 1e-6).all()
    assert (best > after + 1e-3)[~standing].any()


def test_already_misclassified_samples_stay_as_they_are(net, samples):
    x, y = samples
    assert torch.equal(attack(net, x, (y + 1) % 3, Threat("l2", 0.5, (0, 1))), x)


def test_no_steps_return_the_inputs(net, samples):
    x, y = samples
    assert torch.equal(attack(net, x, y, Threat("linf", 0.1, (0, 1)), steps=0), x)


def test_a_flat_network_gives_legal_finite_points(samples):
    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])

    x, _ = samples
    moved = attack(Flat(), x, torch.zeros(40, dtype=torch.long), Threat("l2", 0.5, (0, 1)))
    assert moved.isfinite().all()


def test_same_seed_same_points_other_seed_others(net, samples):
    x, y = samples
    threat = Threat("linf", 0.03, (0, 1))
    assert torch.equal(attack(net, x, y, threat, seed=1), attack(net, x, y, threat, seed=1))
    assert not torch.equal(attack(net, x, y, threat, seed=1, steps=1), attack(net, x, y, threat, seed=2, steps=1))


def test_other_objectives_are_climbed(net, samples):
    x, y = samples
    threat = Threat("linf", 0.04, (0, 1))
    for objective in (margin, dlr):
        before = objective(net(x), y)
        moved = attack(net, x, y, threat, objective=objective, stop_when_broken=False)
        entropy = attack(net, x, y, threat, stop_when_broken=False)
        assert (objective(net(moved), y) > before).all()
        assert objective(net(moved), y).mean() > objective(net(entropy), y).mean()


def test_averaging_over_passes_sees_through_a_network_that_answers_at_random(net, samples):
    """The noise hides single gradients; the true network is known, so success can be judged without it."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.generator = net, torch.Generator().manual_seed(0)

        def forward(self, x):
            return self.net(x + 0.6 * torch.randn(x.shape, generator=self.generator))

    x, y = samples
    rises = []
    for eot in (1, 20):
        moved = attack(Noisy(), x, y, Threat("l2", 0.3, (0, 1)), stop_when_broken=False, steps=5, eot=eot)
        rises.append((F.cross_entropy(net(moved), y) - F.cross_entropy(net(x), y)).item())
    assert 0 < rises[0] < 0.9 * rises[1]


@pytest.mark.parametrize("options", [{"steps": -1}, {"restarts": 0}, {"eot": 0}])
def test_impossible_options(net, samples, options):
    with pytest.raises(ConfigError, match="expected steps >= 0, restarts >= 1 and eot >= 1; got steps"):
        attack(net, *samples, Threat("linf", 0.1, (0, 1)), **options)


@pytest.mark.parametrize(("final", "kept"), [(True, [1.0, 0.0, 1.0]), (False, [0.0, 0.0, 1.0])])
def test_the_first_broken_point_wins_over_a_higher_loss(final, kept):
    """Samples: newly broken at a lower loss; already broken; standing at a higher loss."""
    worst = _Worst(torch.zeros(3, 1), Verdict(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([False, True, False])))
    found = Verdict(torch.tensor([1.0, 1.0 if not final else 9.0, 3.0]), torch.tensor([True, True, False]))
    worst.learn(torch.arange(3), torch.ones(3, 1), found, final)
    assert worst.inputs.squeeze(1).tolist() == kept
    assert worst.broken.tolist() == [True, True, False]
