import pytest
import torch
from torch.nn import functional as F

from pluriform.attacks.adversarial import adversarial_examples
from pluriform.attacks.threat import Threat

THREAT = Threat("l2", 0.3, (0, 1))


def losses(net, x, y):
    with torch.no_grad():
        return F.cross_entropy(net.eval()(x), y, reduction="none")


def test_every_sample_gets_a_higher_loss_inside_the_threat(net, samples):
    x, y = samples
    moved = adversarial_examples(net, x, y, THREAT, step_size=0.1)
    assert (losses(net, moved, y) > losses(net, x, y)).all()
    assert ((moved - x).flatten(1).norm(dim=1) <= 0.3 + 1e-6).all()
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not moved.requires_grad


def test_one_step_is_the_normalised_gradient(net, samples):
    x, y = samples
    moved = adversarial_examples(net, x, y, THREAT, steps=1, step_size=0.05)
    point = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(net.eval()(point), y, reduction="sum"), point)
    expected = (x + 0.05 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    assert torch.allclose(moved, expected, atol=1e-6)


def test_a_training_in_its_midst_notices_nothing(net, samples):
    x, y = samples
    net.train()
    net[2].eval()
    net(x).sum().backward()
    net[1].weight.requires_grad_(False)
    modes, flags = [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    states = torch.get_rng_state()
    adversarial_examples(net, x, y, THREAT, random_start=True)
    assert modes == [part.training for part in net.modules()]
    assert flags == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, net.parameters(), strict=True))
    assert all(torch.equal(tensors[name], value) for name, value in net.state_dict().items())
    assert torch.equal(states, torch.get_rng_state())


@pytest.mark.parametrize(("eps", "steps"), [(0.0, 10), (0.3, 0)])
def test_nothing_to_do_gives_copies(net, samples, eps, steps):
    x, y = samples
    moved = adversarial_examples(net, x, y, Threat("l2", eps, (0, 1)), steps=steps)
    assert torch.equal(moved, x)
    assert moved.data_ptr() != x.data_ptr()
