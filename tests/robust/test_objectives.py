"""Each objective against its formula written out, and what it leaves as it was."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.attacks.fgsm import fgsm
from pluriform.attacks.noise import gaussian, start
from pluriform.attacks.threat import Threat
from pluriform.robust.attacked import Attacked
from pluriform.robust.free import Free
from pluriform.robust.grad_align import GradAlign, misalignment
from pluriform.robust.mart import MART, boosted_margin
from pluriform.robust.n_fgsm import NoisyFGSM
from pluriform.robust.objective import Setting, climb, cross_entropy_of
from pluriform.robust.schemes import SCHEMES, default_setting
from pluriform.robust.trades import TRADES, divergence
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

LOSS = Loss("classification")
LINF, L2 = Threat("linf", 0.1, (0, 1)), Threat("l2", 0.4, (0, 1))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.5), nn.Linear(32, 3)
    )


@pytest.fixture
def smooth() -> nn.Module:
    """Without layers that know modes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 3))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.rand(12, 1, 4, 4, generator=generator), torch.arange(12) % 3)


def objective(scheme: str, net: nn.Module):
    plain = lambda batch: LOSS(net(batch.inputs), batch.targets)  # noqa: E731
    return {
        "pgd": lambda: Attacked(net, plain),
        "fgsm-rs": lambda: Attacked(net, plain),
        "n-fgsm": lambda: NoisyFGSM(net, plain),
        "free": lambda: Free(net, LOSS, torch.zeros(12, 1, 4, 4)),
        "trades": lambda: TRADES(net, net, LOSS),
        "mart": lambda: MART(net, net, LOSS),
        "grad-align": lambda: GradAlign(net, plain),
    }[scheme]()


def gradient(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    point = inputs.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(point), labels, reduction="sum"), point)[0]


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_attacks_of_a_training_in_its_midst_leave_no_trace(scheme, threat, net, batch):
    """Before the backward pass: no gradient of a weight, no statistic of an attack, every mode and flag."""
    net.train()
    net[4].eval()
    net[1].weight.requires_grad_(False)
    net(batch.inputs).sum().backward()
    modes, flags = [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    tensors, states = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    counted = int(net[2].num_batches_tracked)
    objective(scheme, net)(batch, default_setting(scheme, threat, None, None, None))
    assert modes == [part.training for part in net.modules()]
    assert flags == [p.requires_grad for p in net.parameters()]
    for before, parameter in zip(gradients, net.parameters(), strict=True):
        assert before is None or torch.equal(before, parameter.grad)
    assert torch.equal(states, torch.get_rng_state())  # Dropout is off, and starts come from the samples.
    assert int(net[2].num_batches_tracked) - counted == (2 if scheme in ("trades", "mart") else 1)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(tensors[name], value)}
    assert changed == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_climb_is_projected_ascent(threat, smooth, batch):
    x, y = batch.inputs, batch.targets
    begin = start(x, threat, 5)
    found = climb(smooth, cross_entropy_of(y), begin, x, Setting(threat, 3, 0.07))
    point = begin
    for _ in range(3):
        g = gradient(smooth, point, y)
        if threat.norm == "linf":
            point = (point + 0.07 * g.sign()).clamp(x - threat.eps, x + threat.eps).clamp(0, 1)
        else:
            moved = point + 0.07 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - x
            length = moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            point = (x + moved * (threat.eps / length).clamp(max=1)).clamp(0, 1)
    assert torch.allclose(found, point, atol=1e-5)
    assert not found.requires_grad


def test_steps_without_length_are_training_with_noise(smooth, batch):
    setting = Setting(LINF, 1, 0.0, seed=3)
    noisy = start(batch.inputs, LINF, 3)
    assert torch.equal(objective("fgsm-rs", smooth)(batch, setting), LOSS(smooth(noisy), batch.targets))
    assert (noisy - batch.inputs).abs().max() > 0.09


def test_fgsm_of_wider_noise_leaves_the_threat_and_keeps_the_bounds(smooth, batch):
    seen = []
    method = NoisyFGSM(smooth, lambda given: seen.append(given.inputs) or LOSS(smooth(given.inputs), given.targets))
    method(batch, Setting(LINF, 1, 0.1, weight=2.0, seed=3))
    noisy = start(batch.inputs, Threat("linf", 0.2, (0, 1)), 3)
    expected = (noisy + 0.1 * gradient(smooth, noisy, batch.targets).sign()).clamp(0, 1)
    assert torch.allclose(seen[0], expected, atol=1e-6)
    assert 0.2 < (seen[0] - batch.inputs).abs().max() <= 0.3 + 1e-6


class TestTRADES:
    def test_without_the_second_term_it_is_clean_cross_entropy(self, net, batch):
        torch.manual_seed(4)
        found = TRADES(net, net, LOSS)(batch, Setting(LINF, 10, 0.02))
        torch.manual_seed(4)
        assert torch.equal(found, LOSS(net(batch.inputs), batch.targets))

    @pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
    def test_loss_and_ascent_by_hand(self, threat, smooth, batch):
        x, y = batch.inputs, batch.targets
        found = TRADES(smooth, smooth, LOSS)(batch, Setting(threat, 2, 0.05, weight=6.0, seed=7))
        p = smooth(x).softmax(-1).detach()
        moved = threat.project(x + 0.001 * gaussian(x, 7), x)
        for _ in range(2):
            point = moved.clone().requires_grad_()
            (g,) = torch.autograd.grad((p * (p.log() - smooth(point).softmax(-1).log())).sum(), point)
            moved = threat.project(moved + 0.05 * threat.steepest(g), x)
        p, q = smooth(x).softmax(-1), smooth(moved).softmax(-1)
        expected = -p[range(12), y].log().mean() + 6 * (p * (p / q).log()).sum(-1).mean()
        assert torch.allclose(found, expected, atol=1e-5)
        slopes = torch.autograd.grad(found, list(smooth.parameters()), retain_graph=True)
        for slope, other in zip(slopes, torch.autograd.grad(expected, list(smooth.parameters())), strict=True):
            assert torch.allclose(slope, other, atol=1e-4)  # Through both distributions.

    def test_the_clean_distribution_is_computed_once(self, smooth, batch):
        sizes = []
        smooth.register_forward_hook(lambda *_: sizes.append(1))
        TRADES(smooth, smooth, LOSS)(batch, Setting(LINF, 10, 0.025, weight=6.0))
        assert len(sizes) == 1 + 10 + 2

    def test_divergence_of_known_distributions(self):
        p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
        expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
        assert float(divergence(p.log(), q.log())) == pytest.approx(expected, abs=1e-6)


class TestMART:
    def test_three_classes_by_hand(self, smooth):
        clean = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
        moved = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.1, 0.7]])
        found = MART(smooth, smooth, LOSS).of(clean.log() + 3, moved.log() - 2, torch.tensor([0, 1]), 5.0)
        first = -math.log(0.5) - math.log(1 - 0.4 + 1e-4)
        first += 5 * (1 - 0.7) * sum(p * math.log(p / q) for p, q in ((0.7, 0.5), (0.2, 0.4), (0.1, 0.1)))
        second = -math.log(0.1) - math.log(1 - 0.7 + 1e-4)
        second += 5 * (1 - 0.3) * sum(p * math.log(p / q) for p, q in ((0.3, 0.2), (0.3, 0.1), (0.4, 0.7)))
        assert float(found) == pytest.approx((first + second) / 2, abs=1e-5)

    def test_a_lost_sample_has_a_finite_margin(self):
        margin = boosted_margin(torch.tensor([[0.0, 200.0, 0.0]]), torch.tensor([0]))
        assert float(margin) == pytest.approx(-math.log(1e-4), rel=1e-2)

    def test_the_attack_climbs_the_cross_entropy(self, smooth, batch):
        x, y = batch.inputs, batch.targets
        found = MART(smooth, smooth, LOSS)(batch, Setting(LINF, 2, 0.05, weight=5.0, seed=7))
        begin = LINF.project(x + 0.001 * gaussian(x, 7), x)
        moved = climb(smooth, cross_entropy_of(y), begin, x, Setting(LINF, 2, 0.05))
        expected = MART(smooth, smooth, LOSS).of(smooth(x), smooth(moved), y, 5.0)
        assert torch.allclose(found, expected, atol=1e-6)


class TestGradAlign:
    @pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
    def test_without_the_penalty_it_is_fgsm(self, threat, smooth, batch):
        found = objective("grad-align", smooth)(batch, Setting(threat, 1, 1.25 * threat.eps))
        moved = fgsm(smooth, batch.inputs, batch.targets, threat)
        assert torch.allclose(found, LOSS(smooth(moved), batch.targets), atol=1e-6)

    def test_more_steps_are_projected_ascent_from_the_inputs(self, smooth, batch):
        found = objective("grad-align", smooth)(batch, Setting(LINF, 3, 0.06))
        moved = climb(smooth, cross_entropy_of(batch.targets), batch.inputs, batch.inputs, Setting(LINF, 3, 0.06))
        assert torch.allclose(found, LOSS(smooth(moved), batch.targets), atol=1e-6)

    def test_penalty_and_its_slope_by_finite_differences(self, smooth, batch):
        smooth = smooth.double()
        batch = Batch(batch.inputs.double(), batch.targets)
        x, y, setting = batch.inputs, batch.targets, Setting(LINF, 1, 0.125, weight=0.7, seed=2)
        found = objective("grad-align", smooth)(batch, setting)
        here, moved = gradient(smooth, x, y), fgsm(smooth, x, y, LINF)

        def value() -> torch.Tensor:
            there = gradient(smooth, start(x, LINF, 2), y)
            cosine = (here * there).flatten(1).sum(1) / here.flatten(1).norm(dim=1) / there.flatten(1).norm(dim=1)
            return LOSS(smooth(moved), y) + 0.7 * (1 - cosine).mean()

        assert torch.allclose(found, value(), atol=1e-9)
        found.backward()
        weight = smooth[1].weight
        for place in ((0, 0), (3, 5), (31, 15)):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[place] += step
                values.append(float(value().detach()))
                with torch.no_grad():
                    weight[place] -= step
            assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-6)

    def test_samples_without_a_gradient_are_left_out(self):
        first = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
        second = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        assert float(misalignment(first, second)) == pytest.approx(0.5)
        assert float(misalignment(first[1:2], second[1:2])) == 0


class TestFree:
    def test_one_pass_gives_both_gradients(self, smooth, batch):
        passes, carried = [], torch.zeros(12, 1, 4, 4)
        other = copy.deepcopy(smooth)
        smooth.register_forward_hook(lambda *_: passes.append(1))
        free, setting = Free(smooth, LOSS, carried), Setting(LINF, 1, 0.06)
        expected = torch.zeros_like(carried)
        for turn in range(3):
            smooth.zero_grad()
            free(batch, setting).backward()
            assert len(passes) == turn + 1
            point = (batch.inputs + expected).clamp(0, 1)
            other.zero_grad()
            LOSS(other(point), batch.targets).backward()
            for own, like in zip(smooth.parameters(), other.parameters(), strict=True):
                assert torch.allclose(own.grad, like.grad, atol=1e-6)
            expected = (expected + 0.06 * gradient(other, point, batch.targets).sign()).clamp(-0.1, 0.1)
            assert torch.allclose(carried, expected, atol=1e-6)

    def test_a_shorter_batch_uses_the_first_perturbations(self, smooth, batch):
        carried = torch.full((12, 1, 4, 4), 0.5)
        free = Free(smooth, LOSS, carried)
        free(Batch(batch.inputs[:5], batch.targets[:5]), Setting(L2, 1, 0.1)).backward()
        assert torch.equal(carried[5:], torch.full((7, 1, 4, 4), 0.5))
        assert (carried[:5].flatten(1).norm(dim=1) <= 0.4 + 1e-6).all()


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("pgd", ""),
        ("trades", ""),
        ("fgsm-rs", "attacks of 2 steps of half the length"),
        ("n-fgsm", "noise of 3 eps"),
        ("free", "steps of half the length"),
        ("grad-align", "lambda 0.4, attacks of 2 steps of half the length"),
    ],
)
def test_what_is_gentler_after_a_roll_back(scheme, words, smooth):
    setting = default_setting(scheme, LINF, None, None, None)
    softer, said = objective(scheme, smooth).gentler(setting)
    assert said == words
    assert (softer == setting) == (words == "")
