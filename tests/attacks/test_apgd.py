"""APGD against closed forms on linear networks; restarts, targets, what is refused and what is returned."""

import pytest
import torch
from torch import nn

from pluriform.attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from pluriform.attacks.attack import attack
from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.objective import cross_entropy, dlr
from pluriform.attacks.threat import Threat
from pluriform.errors import ConfigError

NAMES = ["apgd-ce", "apgd-dlr", "apgd-t"]
DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}
every_norm = pytest.mark.parametrize("norm", sorted(DUAL))


def linear(classes):
    torch.manual_seed(1)
    net = nn.Linear(20, classes)
    x = 0.5 + 0.1 * torch.randn(60, 20, generator=torch.Generator().manual_seed(2)).clamp(-3, 3)
    with torch.no_grad():
        z = net(x)
        y = z.argmax(1)
        gaps = z.gather(1, y[:, None]) - z
        weights = net.weight[y][:, None] - net.weight[None]
    return net, x, y, gaps, weights


def robust(net, x, y, threat, name, **options):
    with torch.no_grad():
        return net(attack(net, x, y, threat, name, **options)).argmax(1) == y


@every_norm
@pytest.mark.parametrize(("name", "classes"), [("apgd-ce", 2), ("apgd-t", 6)])
def test_exactly_the_samples_within_their_minimal_distance_fall(norm, name, classes):
    """The nearest of the planes between label and other classes, whose distance is the gap over the dual norm."""
    net, x, y, gaps, weights = linear(classes)
    distances = gaps / weights.norm(DUAL[norm], dim=2)
    distance = distances.scatter(1, y[:, None], torch.inf).amin(1)
    eps = float(distance.median()) + 1e-4
    clear = (distance - eps).abs() > 1e-2 * eps
    assert clear.sum() > 50
    assert torch.equal(robust(net, x, y, Threat(norm, eps, (-10, 10)), name)[clear], (distance > eps)[clear])


def test_dlr_breaks_nothing_beyond_reach_and_nearly_all_within():
    net, x, y, gaps, weights = linear(6)
    distance = (gaps / weights.norm(1, dim=2)).scatter(1, y[:, None], torch.inf).amin(1)
    eps = float(distance.median())
    standing = robust(net, x, y, Threat("linf", eps, (-10, 10)), "apgd-dlr", restarts=2)
    assert standing[distance > eps * 1.01].all()
    assert standing[distance < eps * 0.99].sum() <= 3


def test_more_eps_restarts_or_targets_never_leave_more_samples(net, samples):
    x, y = samples
    for threat in (Threat("linf", 0.05, (0, 1)), Threat("l2", 0.2, (0, 1)), Threat("l1", 0.6, (0, 1))):
        count = [int(robust(net, x, y, threat.scaled(f), "apgd-t", steps=10).sum()) for f in (0, 0.5, 1, 2)]
        assert count == sorted(count, reverse=True)
        assert count[0] == 40 > count[-1]
        for name, key, values in (("apgd-ce", "restarts", (1, 3)), ("apgd-t", "targets", (1, 9))):
            few, many = (robust(net, x, y, threat, name, steps=5, **{key: value}) for value in values)
            assert (many <= few).all()


@pytest.mark.parametrize("name", NAMES)
def test_large_logits_hide_nothing_from_ratios(net, samples, name):
    """Cross-entropy of such a network is 0 in single precision, and so is its gradient."""
    x, y = samples
    with torch.no_grad():
        net[-1].weight *= 1e4
        net[-1].bias *= 1e4
    left = robust(net, x, y, Threat("linf", 0.08, (0, 1)), name, steps=30).sum()
    assert left > 15 if name == "apgd-ce" else left < 8


@pytest.mark.parametrize("name", NAMES)
def test_standing_samples_get_their_highest_loss_and_wrong_ones_stay(net, samples, name):
    x, y = samples
    moved = attack(net, x, y, Threat("l2", 0.05, (0, 1)), name, steps=30)
    with torch.no_grad():
        standing = net(moved).argmax(1) == y
        assert standing.sum() > 20
        loss = cross_entropy if name == "apgd-ce" else dlr
        assert (loss(net(moved), y) > loss(net(x), y))[standing].float().mean() > 0.9
    wrong = (y + 1) % 5
    assert torch.equal(attack(net, x, wrong, Threat("l2", 0.5, (0, 1)), name), x)


@pytest.mark.parametrize("attacker", [apgd_ce, apgd_dlr, apgd_t])
@every_norm
def test_no_steps_and_no_radius_return_the_inputs(net, samples, attacker, norm):
    x, y = samples
    with attack_mode(net):
        assert torch.equal(attacker(net, x, y, Threat(norm, 0.2, (0, 1)), steps=0), x)
        assert torch.equal(attacker(net, x, y, Threat(norm, 0, (0, 1)), steps=3), x)


@pytest.mark.parametrize("name", NAMES)
def test_few_steps_do_not_crash_and_seeds_matter(net, samples, name):
    x, y = samples
    threat = Threat("linf", 0.02, (0, 1))
    for steps in (1, 2, 10):
        attack(net, x, y, threat, name, steps=steps)
    first = attack(net, x, y, threat, name, steps=1, seed=1)
    assert torch.equal(first, attack(net, x, y, threat, name, steps=1, seed=1))
    assert not torch.equal(first, attack(net, x, y, threat, name, steps=1, seed=2))


def test_too_few_classes_and_impossible_options_are_refused(samples):
    x, _ = samples
    threat = Threat("linf", 0.1, (0, 1))
    for classes, name, words in [(2, "apgd-dlr", "at least 3 classes"), (3, "apgd-t", "at least 4 classes")]:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
        with pytest.raises(ConfigError, match=words + ".* cross-entropy or the margin"):
            attack(net, x, torch.zeros(40, dtype=torch.long), threat, name)
    for name, options, words in [
        ("apgd-ce", {"steps": -1}, "expected steps >= 0, eot >= 1 and rho in 0..1; got steps -1"),
        ("apgd-ce", {"rho": 2}, "got steps 100, eot 1, rho 2"),
        ("apgd-t", {"eot": 0}, "got steps 100, eot 0"),
        ("apgd-dlr", {"restarts": 0}, "expected at least 1 restart; got restarts 0"),
        ("apgd-t", {"targets": 0}, "expected at least 1 target; got targets 0"),
    ]:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        with pytest.raises(ConfigError, match=words):
            attack(net, x, torch.zeros(40, dtype=torch.long), threat, name, **options)


def test_averaged_passes_break_more_of_a_network_that_answers_at_random(net, samples):
    """By its mean accuracy over many passes and four runs, so that the luck of single ones does not count."""
    x, y = samples

    class Noisy(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net, self.generator = net, torch.Generator().manual_seed(seed)

        def forward(self, x):
            return self.net(x + 0.1 * torch.randn(x.shape, generator=self.generator))

    def left(eot, seed):
        noisy = Noisy(seed)
        moved = attack(noisy, x, y, Threat("l2", 0.3, (0, 1)), "apgd-ce", steps=20, eot=eot)
        with torch.no_grad():
            return float(torch.stack([noisy(moved).argmax(1) == y for _ in range(200)]).double().mean())

    once, often = (sum(left(eot, seed) for seed in range(4)) / 4 for eot in (1, 16))
    assert often < once - 0.03
