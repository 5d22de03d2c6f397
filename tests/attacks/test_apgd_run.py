"""One run of APGD against a slow one-sample version in NumPy, with gradients by hand; its promises one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.attacks.apgd_run import Query, Summit, _Pace, checkpoints, climb
from pluriform.attacks.gradient import Ascent, Verdict, attack_mode
from pluriform.attacks.noise import edge
from pluriform.attacks.objective import cross_entropy, dlr
from pluriform.attacks.threat import Threat

LOSSES = {"ce": cross_entropy, "dlr": dlr}


def slow_loss(kind, z, y):
    """Loss and gradient in the logits."""
    if kind == "ce":
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        return -np.log(p[y]), p - np.eye(len(z))[y]
    first, second, third = np.argsort(-z)[:3]
    other = second if first == y else first
    top, gap = z[other] - z[y], z[first] - z[third] + 1e-12
    slope = (np.eye(len(z))[other] - np.eye(len(z))[y]) / gap
    return top / gap, slope - top / gap**2 * (np.eye(len(z))[first] - np.eye(len(z))[third])


def slow_projection(v, x, norm, eps):
    if norm == "linf":
        return np.clip(np.clip(v, x - eps, x + eps), 0, 1)
    return np.clip(x + (v - x) * min(1, eps / np.linalg.norm(v - x)), 0, 1)


def slow_apgd(weights, kind, x, y, start, norm, eps):
    """100 steps, as published; the loss before a step that begins at the best point is that of the best point."""
    (a, b), (c, d) = weights

    def look(v):
        hidden = np.maximum(a @ v + b, 0)
        z = c @ hidden + d
        loss, slope = slow_loss(kind, z, y)
        return loss, a.T @ ((c.T @ slope) * (hidden > 0)), z.argmax() != y

    points, (loss, gradient, wrong) = [start], look(start)
    best, best_loss, best_gradient, fallen = start, loss, gradient, start if wrong else None
    eta, before, rises, mark, was_halved, last_check = 2 * eps, loss, 0, loss, True, 0
    now, then = start, start
    for k in range(100):
        s = np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)
        z = slow_projection(now + eta * s, x, norm, eps)
        momentum = 0.75 if k else 1.0
        new = slow_projection(now + momentum * (z - now) + (1 - momentum) * (now - then), x, norm, eps)
        then, now = now, new
        points.append(now)
        loss, gradient, wrong = look(now)
        fallen = now if wrong else fallen
        rises += loss > before
        before = loss
        if loss > best_loss:
            best, best_loss, best_gradient = now, loss, gradient
        if k + 1 in (22, 41, 57, 70, 80, 87, 93, 99):
            halve = rises <= 0.75 * (k + 1 - last_check) or (not was_halved and best_loss <= mark)
            if halve:
                eta, now, gradient, before = eta / 2, best, best_gradient, best_loss
            was_halved, mark, rises, last_check = halve, best_loss, 0, k + 1
    return best, best_loss, fallen


@pytest.fixture
def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)).double()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.08), ("l2", 0.4)])
def test_runs_are_those_of_the_slow_version(small, kind, norm, eps):
    x = torch.rand(8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.tensor([*small(x[:6]).argmax(1), 0, 1])
    threat = Threat(norm, eps, (0, 1))
    start = edge(x, threat, 0)
    with attack_mode(small):
        found = climb(Query(small, y, LOSSES[kind]), x, start, threat, 100)
    weights = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in (small[0], small[2])]
    fell = 0
    for row in range(8):
        best, loss, fallen = slow_apgd(weights, kind, x[row].numpy(), int(y[row]), start[row].numpy(), norm, eps)
        assert found.loss[row].item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
        assert found.points[row].numpy() == pytest.approx(best, abs=1e-8)
        assert found.broken[row].item() == (fallen is not None)
        if fallen is not None:
            fell += 1
            assert found.fallen[row].numpy() == pytest.approx(fallen, abs=1e-8)
    assert 0 < fell < 8


def test_looks_back_at_the_published_steps():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(100)[41] == 19
    assert list(checkpoints(10)) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert list(checkpoints(1)) == [1]
    assert checkpoints(0) == {}


def test_a_steadily_rising_loss_keeps_its_step_and_a_flat_one_halves_it_every_time():
    """Samples: rising, flat."""
    loss = torch.zeros(2)
    pace = _Pace(torch.ones(2, 1), loss)
    for check, width in enumerate(checkpoints(100).values(), 1):
        loss = loss + torch.tensor([1.0, 0.0])
        pace.rises += torch.tensor([float(width), 0.0])
        assert pace.check(width, loss, 0.75).tolist() == [False, True]
        assert pace.step.flatten().tolist() == [1.0, 0.5**check]


def test_conditions_of_halving():
    """12, 13 and 16 rises of 16; the last two samples never improve on their start, so condition 2 meets them later."""
    pace = _Pace(torch.ones(3), torch.zeros(3))
    pace.rises += torch.tensor([12.0, 13.0, 16.0])
    assert pace.check(16, torch.zeros(3), 0.75).tolist() == [True, False, False]
    pace.rises += torch.tensor([16.0, 16.0, 16.0])
    assert pace.check(16, torch.tensor([0.0, 0.0, 1.0]), 0.75).tolist() == [False, True, False]
    pace.rises += torch.tensor([16.0, 16.0, 16.0])
    assert pace.check(16, torch.tensor([0.0, 0.0, 1.0]), 0.75).tolist() == [True, False, True]
    assert pace.step.tolist() == [0.25, 0.5, 0.5]


def test_the_summit_is_the_highest_and_the_fallen_point_the_latest():
    verdicts = [
        Verdict(torch.tensor([float(a), float(b)]), torch.tensor([c, d]))
        for a, b, c, d in [(1, 5, False, True), (3, 2, True, False), (2, 7, True, False), (0, 6, False, False)]
    ]
    points = [torch.full((2, 3), float(i)) for i in range(4)]
    summit = Summit(points[0], Ascent(verdicts[0], points[0] + 10))
    for point, verdict in zip(points[1:], verdicts[1:], strict=True):
        summit.learn(point, verdict, point + 10)
    assert summit.loss.tolist() == [3, 7]
    assert summit.points[:, 0].tolist() == [1, 2]
    assert summit.gradient[:, 0].tolist() == [11, 12]
    assert summit.fallen[:, 0].tolist() == [2, 0]
    assert summit.broken.tolist() == [True, True]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 2, 10, 30])
def test_every_point_is_legal_and_the_best_of_all_is_kept(net, samples, norm, steps):
    x, y = samples
    threat = Threat(norm, 0.2, (0, 1))
    seen = []

    class Watched(Query):
        def ascend(self, points):
            threat.check(points, x)
            found = super().ascend(points)
            seen.append(found.verdict)
            return found

        def judge(self, points):
            threat.check(points, x)
            seen.append(super().judge(points))
            return seen[-1]

    with attack_mode(net):
        found = climb(Watched(net, y, cross_entropy), x, edge(x, threat, 0), threat, steps)
        assert len(seen) == steps + 1
        assert torch.equal(found.loss, torch.stack([verdict.loss for verdict in seen]).amax(0))
        assert torch.equal(found.broken, torch.stack([verdict.broken for verdict in seen]).any(0))
        torch.testing.assert_close(cross_entropy(net(found.points), y), found.loss)
        assert (net(found.fallen).argmax(1) != y)[found.broken].all()


def test_a_step_costs_one_forward_and_one_backward_in_the_inputs(net, samples):
    x, y = samples
    calls = {"forward": 0, "backward": 0}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            calls["forward"] += 1
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            calls["backward"] += 1
            return slope

    class Shell(nn.Module):
        def forward(self, x):
            return net(Counted.apply(x))

    threat = Threat("linf", 0.1, (0, 1))
    with attack_mode(net):
        climb(Query(Shell(), y, dlr), x, edge(x, threat, 0), threat, 20)
    assert calls == {"forward": 21, "backward": 20}
