"""Gradients of a batch are those of its samples, and nothing but the inputs gets one."""

import torch
from torch import nn
from torch.nn import functional as F

from pluriform.attacks.gradient import ascend, attack_mode, judge
from pluriform.attacks.objective import dlr, margin


def test_gradients_are_those_of_each_sample_alone(net, samples):
    x, y = samples
    net.double().eval()
    found = ascend(net, x.double(), y)
    for row in range(5):
        point = x[row : row + 1].double().requires_grad_()
        F.cross_entropy(net(point), y[row : row + 1]).backward()
        torch.testing.assert_close(found.gradient[row : row + 1], point.grad)


def test_verdicts_agree_with_the_network(net, samples):
    x, y = samples
    wrong = y.clone()
    wrong[:7] = (wrong[:7] + 1) % 3
    verdict = judge(net, x, wrong)
    assert verdict.broken.tolist() == [True] * 7 + [False] * 33
    torch.testing.assert_close(ascend(net, x, wrong).verdict.loss, verdict.loss)
    torch.testing.assert_close(verdict.loss, F.cross_entropy(net(x), wrong, reduction="none"))


def test_weights_ask_for_no_gradient_inside_only(net):
    with attack_mode(net):
        assert not any(weight.requires_grad for weight in net.parameters())
        assert not any(part.training for part in net.modules())
    assert all(weight.requires_grad for weight in net.parameters())


def test_another_objective_is_climbed_and_judged_by_the_same_predictions(net, samples):
    x, y = samples
    net.double().eval()
    x, wrong = x.double(), torch.where(torch.arange(40) < 7, (y + 1) % 3, y)
    found, verdict = ascend(net, x, wrong, dlr), judge(net, x, wrong, dlr)
    assert verdict.broken.tolist() == [True] * 7 + [False] * 33
    assert torch.equal(found.verdict.broken, verdict.broken)
    torch.testing.assert_close(verdict.loss, dlr(net(x), wrong))
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    rise = judge(net, x + step, wrong, dlr).loss - judge(net, x - step, wrong, dlr).loss
    torch.testing.assert_close((found.gradient * step).flatten(1).sum(1) * 2, rise, rtol=1e-4, atol=1e-9)


def test_passes_are_averaged_and_a_tie_counts_as_broken():
    """Logits 0 and 1, 2, 3, 4 times the input in turn: mean gradient and mean loss by hand."""

    class Turning(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.cat([torch.zeros_like(x), x * self.calls * (1 if self.calls > 2 else -1)], 1)

    x, y = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([0])
    found = ascend(Turning(), x, y, margin, eot=4)
    assert found.gradient.item() == (-1 - 2 + 3 + 4) / 4
    assert found.verdict.loss.item() == 0.5
    assert found.verdict.broken.item()
    assert not judge(Turning(), x, y, margin, eot=3).broken.item()
