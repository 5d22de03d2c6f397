"""APGD in L1 against a slow one-sample version in NumPy that projects by bisection."""

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.attacks.apgd_l1 import climb_l1
from pluriform.attacks.apgd_run import Query
from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.noise import edge
from pluriform.attacks.objective import cross_entropy
from pluriform.attacks.threat import Threat


def slow_projection(v, x, eps):
    size, room = np.abs(v - x), np.where(v > x, 1 - x, x)
    low, high = 0.0, size.max()
    if np.minimum(size, room).sum() > eps:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.clip(size - middle, 0, room).sum() > eps else (low, middle)
    else:
        high = 0.0
    return x + np.sign(v - x) * np.clip(size - high, 0, room)


def slow_stage(look, x, now, eps, steps):
    loss, gradient, wrong = look(now)
    best, best_loss, best_gradient, fallen = now, loss, gradient, now if wrong else None
    before = changed = int((now != x).sum())
    eta = eps
    for k in range(steps):
        count = max(int(changed / 1.5), 1)
        chosen = np.abs(gradient) >= np.sort(np.abs(gradient))[-count]
        now = slow_projection(now + eta * np.sign(gradient) * chosen / chosen.sum(), x, eps)
        loss, gradient, wrong = look(now)
        fallen = now if wrong else fallen
        if loss > best_loss:
            best, best_loss, best_gradient = now, loss, gradient
        if (k + 1) % max(steps // 25, 1) == 0:
            changed = int((best != x).sum())
            if changed / before < 0.95:
                eta, now, gradient = eps, best, best_gradient
            else:
                eta = max(eta / 1.5, eps / 10)
            before = changed
    return best, best_loss, fallen


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_runs_are_those_of_the_slow_version(steps):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, 4)).double()
    x = torch.rand(6, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = net(x).argmax(1)
    threat = Threat("l1", 2.0, (0, 1))
    start = edge(x, threat.scaled(3), 0)
    with attack_mode(net):
        found = climb_l1(Query(net, y, cross_entropy), x, start, threat, steps)

    def look(v, label):
        point = torch.tensor(v, requires_grad=True)
        logits = net(point[None])
        loss = -logits.log_softmax(1)[0, label]
        return loss.item(), torch.autograd.grad(loss, point)[0].numpy(), logits.argmax().item() != label

    early = 3 * steps // 10
    for row in range(6):
        center, now = x[row].numpy(), start[row].numpy()
        for radius, count in ((6.0, early), (4.0, early), (2.0, steps - 2 * early)):
            if count:
                now = slow_projection(now, center, radius)
                now, loss, fallen = slow_stage(lambda v: look(v, int(y[row])), center, now, radius, count)  # noqa: B023
        assert found.loss[row].item() == pytest.approx(loss, rel=1e-6)
        assert found.points[row].numpy() == pytest.approx(now, abs=1e-6)
        assert found.broken[row].item() == (fallen is not None)
        if fallen is not None:
            assert found.fallen[row].numpy() == pytest.approx(fallen, abs=1e-6)
    threat.check(found.points, x)
    threat.check(found.fallen, x)
