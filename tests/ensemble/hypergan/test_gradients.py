"""Losses and gradients of drawn networks, part by part, against autograd straight through everything."""

import copy

import pytest
import torch
from torch import nn

from pluriform.ensemble.calling import Calling
from pluriform.ensemble.hypergan.gradients import gradients_of, measured_calling, surrogate
from pluriform.errors import GraphError
from pluriform.graph.parameters import call
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

MEMBERS = 5
CALLINGS = {
    "vmap": Calling("vmap", MEMBERS),
    "chunk": Calling("chunk", 2),
    "loop": Calling("loop", 1),
    "channels-last": Calling("loop", 1, True),
}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(36, 3)
        self.outside = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)
        self.last.weight = self.outside.weight

    def forward(self, x):
        return self.last(self.outside(self.inside(x.flatten(1)).tanh()).tanh())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.lstm(x.reshape(len(x), 6, 6))[0][:, -1])


class Spare(nn.Module):
    """Some parameters that no output depends on."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(36, 4), nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).tanh())


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3))


def norms():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(18, 3)
    )


NETWORKS = {"mlp": mlp, "norms": norms, "tied": Tied}


class Maker(nn.Module):
    """A linear generator of all weights, or of the last layer's, of a network."""

    def __init__(self, network, only=""):
        super().__init__()
        own = {name: p for name, p in network.named_parameters() if name.startswith(only)}
        self.shapes = {name: p.shape for name, p in own.items()}
        self.maps = nn.ModuleList([nn.Linear(4, p.numel()) for p in own.values()])

    def forward(self, noise):
        pairs = zip(self.shapes.items(), self.maps, strict=True)
        return {name: linear(noise).view(-1, *shape) for (name, shape), linear in pairs}


def problem(make, only="", own_batches=False):
    torch.manual_seed(0)
    network = make().double()
    maker = Maker(network, only).double()
    lead = (MEMBERS,) if own_batches else ()
    batch = Batch(torch.randn(*lead, 8, 1, 6, 6, dtype=torch.float64), torch.randint(3, (*lead, 8)))
    return network, maker, torch.randn(MEMBERS, 4, dtype=torch.float64), batch


def straight(network, weights, batch, own_batches):
    """Mean loss by ordinary calls of a copy of the network in its mode, nothing detached."""
    losses = []
    for i in range(MEMBERS):
        inputs = batch.inputs[i] if own_batches else batch.inputs
        targets = batch.targets[i] if own_batches else batch.targets
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        outputs = call(network, {name: tensor[i] for name, tensor in weights.items()} | buffers, inputs)
        losses.append(nn.functional.cross_entropy(outputs, targets))
    return torch.stack(losses)


@pytest.mark.parametrize("calling", CALLINGS)
@pytest.mark.parametrize("own_batches", [False, True])
@pytest.mark.parametrize(("name", "only"), [("mlp", ""), ("mlp", "3"), ("norms", ""), ("norms", "5"), ("tied", "")])
def test_the_surrogate_is_the_mean_loss_differentiated_through_everything(name, only, own_batches, calling):
    """Value, gradient of what made the weights, and of the weights that all networks share."""
    network, maker, noise, batch = problem(NETWORKS[name], only, own_batches)
    network.train()
    before = copy.deepcopy(dict(network.named_buffers()))
    trained = [*maker.parameters(), *(p for n, p in network.named_parameters() if n not in maker.shapes)]
    expected = straight(network, maker(noise), batch, own_batches)
    slopes = torch.autograd.grad(expected.mean(), trained)
    weights = maker(noise)
    gradients = gradients_of(network, weights, batch, Loss("classification"), CALLINGS[calling], own_batches)
    torch.testing.assert_close(gradients.losses, expected.detach(), rtol=1e-10, atol=1e-10)
    assert not gradients.losses.requires_grad
    number = surrogate(network, weights, gradients)
    torch.testing.assert_close(number, expected.mean(), rtol=1e-10, atol=1e-10)
    for found, slope in zip(torch.autograd.grad(number, trained), slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-10)
    assert all(torch.equal(buffer, before[own]) for own, buffer in network.named_buffers())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("calling", ["vmap", "chunk", "loop"])
def test_frozen_weights_get_no_gradient(calling):
    network, maker, noise, batch = problem(mlp, "3")
    network[1].weight.requires_grad_(False)
    gradients = gradients_of(network, maker(noise), batch, Loss("classification"), CALLINGS[calling], False)
    assert set(gradients.shared) == {"1.bias"}
    assert set(gradients.drawn) == {"3.weight", "3.bias"}


@pytest.mark.parametrize("calling", ["vmap", "chunk", "loop"])
def test_weights_that_no_output_depends_on_get_zero(calling):
    network, maker, noise, batch = problem(Spare)
    gradients = gradients_of(network, maker(noise), batch, Loss("classification"), CALLINGS[calling], False)
    assert float(gradients.drawn["unused.weight"].abs().sum()) == 0
    assert float(gradients.drawn["first.weight"].abs().sum()) > 0
    network, maker, noise, batch = problem(Spare, "last")
    gradients = gradients_of(network, maker(noise), batch, Loss("classification"), CALLINGS[calling], False)
    assert float(gradients.shared["unused.weight"].abs().sum()) == 0


def test_the_loop_serves_an_lstm_and_measuring_finds_it():
    network, maker, noise, batch = problem(Recurrent)
    weights = maker(noise)
    calling = measured_calling(network, weights, batch, Loss("classification"), False)
    assert calling.way == "loop"
    gradients = gradients_of(network, weights, batch, Loss("classification"), calling, False)
    expected = straight(network, maker(noise), batch, False)
    torch.testing.assert_close(gradients.losses, expected.detach(), rtol=1e-10, atol=1e-10)


def test_measuring_is_on_record_and_draws_no_random_number():
    network, maker, noise, batch = problem(norms, own_batches=True)
    network.train()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    calling = measured_calling(network, maker(noise), batch, Loss("classification"), True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())
    assert "ms" in calling.reason
    assert "loop" in calling.reason
    assert "vmap" in calling.reason


def test_regression_losses():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    maker, noise = Maker(network).double(), torch.randn(MEMBERS, 4, dtype=torch.float64)
    batch = Batch(torch.randn(8, 1, 6, 6, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64))
    gradients = gradients_of(network, maker(noise), batch, Loss("regression"), CALLINGS["chunk"], False)
    for i, loss in enumerate(gradients.losses):
        outputs = call(network, {name: tensor[i] for name, tensor in maker(noise).items()}, batch.inputs)
        torch.testing.assert_close(loss, (outputs - batch.targets).square().mean().detach())


FUSED = Calling("fused", 2)


def single(make, own_batches):
    """The same problem in float32."""
    network, maker, noise, batch = problem(make, "", own_batches)
    return network.float(), maker.float(), noise.float(), Batch(batch.inputs.float(), batch.targets)


@pytest.mark.parametrize("own_batches", [False, True])
def test_fused_gradients_are_those_of_the_loop(own_batches):
    network, maker, noise, batch = single(mlp, own_batches)
    found = gradients_of(network, maker(noise), batch, Loss("classification"), FUSED, own_batches)
    known = gradients_of(network, maker(noise), batch, Loss("classification"), CALLINGS["loop"], own_batches)
    torch.testing.assert_close(found.losses, known.losses, rtol=1e-6, atol=1e-6)
    assert list(found.drawn) == list(known.drawn)
    assert found.shared == {}
    for name, gradient in known.drawn.items():
        torch.testing.assert_close(found.drawn[name], gradient, rtol=1e-5, atol=1e-6)
    slopes = [
        torch.autograd.grad(surrogate(network, maker(noise), g), list(maker.parameters())) for g in (found, known)
    ]
    for one, two in zip(*slopes, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_measuring_times_the_fused_kernels_of_a_chain():
    network, maker, noise, batch = single(mlp, False)
    calling = measured_calling(network, maker(noise), batch, Loss("classification"), False)
    assert "fused" in calling.reason
    smooth = measured_calling(network, maker(noise), batch, Loss("classification", 0.1), False)
    assert "fused" not in smooth.reason


def test_what_the_fused_kernels_do_not_compute_is_refused():
    network, maker, noise, batch = single(mlp, False)
    with pytest.raises(GraphError, match="neither plain cross-entropy nor"):
        gradients_of(network, maker(noise), batch, Loss("classification", 0.1), FUSED, False)
    network.register_parameter("scale", nn.Parameter(torch.ones(())))
    with pytest.raises(GraphError, match="scale is trained and not drawn"):
        gradients_of(network, maker(noise), batch, Loss("classification"), FUSED, False)
    network, maker, noise, batch = single(norms, False)
    with pytest.raises(GraphError, match=r"batch_norm.*is not in this engine"):
        gradients_of(network, maker(noise), batch, Loss("classification"), FUSED, False)
