"""Deliberately masked networks are flagged, honest ones are not."""

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.attacks.masking import masking_flags
from pluriform.attacks.perturb import perturb
from pluriform.attacks.threat import Threat

LINF, L2 = Threat("linf", 0.1, (0.0, 1.0)), Threat("l2", 0.5, (0.0, 1.0))
SAMPLES = 100


class Rounded(nn.Module):
    """Sixteen levels of each input: gradients vanish."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x * 16).round() / 16 + 0 * x)


class Noisy(Rounded):
    """Another answer each time."""

    def forward(self, x):
        return self.network(x + 0.05 * torch.randn_like(x))


class Shattered(Rounded):
    """A ripple too fine for the eye sends gradients anywhere."""

    def forward(self, x):
        return self.network(x + 0.004 * torch.sin(3000 * x))


class Sharp(Rounded):
    """Logits so large that the cross-entropy is flat."""

    def forward(self, x):
        return 1000 * self.network(x)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x

    @staticmethod
    def backward(context, gradient):
        return -gradient


class Backwards(Rounded):
    """Gradients of the wrong sign."""

    def forward(self, x):
        return self.network(Straight.apply(x))


class Detached(Rounded):
    def forward(self, x):
        return self.network(x.detach())


class Torn(Rounded):
    """A term that is always zero, and whose gradient is NaN where an input is."""

    def forward(self, x):
        return self.network(x + 0 * torch.where(x > 0, x, -x).sqrt())


@pytest.fixture(scope="module")
def data():
    return pf.load("digits", seed=0)


@pytest.fixture(scope="module")
def batch(data):
    return data.test.batch(torch.arange(SAMPLES))


@pytest.fixture(scope="module")
def plain(data):
    return pf.Training(epochs=20, learning_rate=3e-3).fit(pf.nets.build("mlp", data), data, seed=0).module


@pytest.fixture(scope="module")
def convolutional(data):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    )
    net(data.test.inputs[:1])
    return pf.Training(epochs=20, learning_rate=3e-3).fit(net, data, seed=0).module


@pytest.fixture(scope="module")
def robust(data):
    method = pf.AdversarialTraining(threat=LINF, training=pf.Training(epochs=20, learning_rate=3e-3))
    return method.fit(pf.nets.build("mlp", data), data, seed=0).module


def kinds(network, batch, threat):
    return {flag.kind for flag in masking_flags(network, *batch, threat)}


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("name", ["plain", "convolutional", "robust"])
def test_honest_networks_are_not_flagged(name, threat, batch, request):
    network = request.getfixturevalue(name)
    assert masking_flags(network, *batch, threat) == ()
    assert kinds(nn.Sequential(network, nn.Dropout(0.5)).train(), batch, threat) == set()


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (Rounded, {"zero"}),
        (Noisy, {"random"}),
        (Shattered, {"shattered"}),
        (Sharp, {"saturated"}),
        (Backwards, {"unreachable", "blind"}),
        (Torn, {"not finite"}),
        (Detached, {"no gradient"}),
    ],
)
def test_masked_networks_are_flagged(wrapper, expected, threat, plain, batch):
    assert expected <= kinds(wrapper(plain), batch, threat)


def test_l1_threats_are_judged_alike(plain, batch):
    threat = Threat("l1", 2.0, (0.0, 1.0))
    assert masking_flags(plain, *batch, threat) == ()
    assert "unreachable" in kinds(Backwards(plain), batch, threat)


def test_attacks_that_come_over_from_another_network_are_flagged(plain, robust, batch):
    """The very network inside a masked one is the best surrogate; an honest network falls to its own attacks first."""
    masked = masking_flags(Backwards(plain), *batch, LINF, searched=False, surrogate=plain)
    (flag,) = [flag for flag in masked if flag.kind == "transfer"]
    assert flag.masked
    assert "attacks on another network break" in flag.words
    assert masking_flags(Backwards(plain), *batch, LINF, searched=False) == ()
    for honest in (plain, robust):
        assert masking_flags(honest, *batch, LINF, searched=False, surrogate=plain) == ()


def test_a_distribution_is_flagged(plain, batch):
    (flag,) = [f for f in masking_flags(nn.Sequential(plain, nn.Softmax(-1)), *batch, LINF) if f.kind == "distribution"]
    assert flag.masked
    assert "logits" in flag.words


def test_the_figure_that_is_masked_is_indeed_too_high(plain, batch):
    """The premise: PGD says that the masked network is more robust than the very network inside it."""
    x, y = batch

    def robust_accuracy(network, attacked):
        moved = perturb(attacked, x, y, LINF, "pgd", steps=20)
        return float((network(moved).argmax(1) == y).double().mean())

    assert robust_accuracy(Backwards(plain), Backwards(plain)) > robust_accuracy(plain, plain) + 0.2


def test_the_network_stays_as_it_is(plain, batch):
    network = nn.Sequential(plain, nn.Dropout(0.5)).train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.random.get_rng_state()
    masking_flags(network, *batch, LINF)
    assert network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.equal(generator, torch.random.get_rng_state())
