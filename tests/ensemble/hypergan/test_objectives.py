"""What a step of each kind of diversity minimises, and whom its gradients reach."""

import dataclasses

import pytest
import torch
from torch import nn

from pluriform.ensemble.calling import Calling
from pluriform.ensemble.heads.choice import make_head
from pluriform.ensemble.heads.initialisation import deviations_of
from pluriform.ensemble.hypergan.discriminator import Discriminator
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.mixer import Mixer
from pluriform.ensemble.hypergan.objectives import (
    SVGD,
    FunctionalGradient,
    FunctionSVGD,
    LatentGAN,
    Setting,
    TaskOnly,
)
from pluriform.ensemble.particles.gpvi import GPVI
from pluriform.ensemble.target import layers_of
from pluriform.graph.parameters import call
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

NETWORKS = 4


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.first(x).tanh())


def mlp():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def norms():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def setting(make=mlp, which="all", jitter=False):
    torch.manual_seed(0)
    network = make()
    layers = layers_of(network, which)
    own = dict(network.named_parameters())
    base = {entry.name: own[entry.name] for layer in layers for entry in layer.entries}
    size = sum(p.numel() for p in base.values())
    head = make_head("full", layers, 5, 12, deviations_of(layers))
    noise = GPVI(8, size, 0.1, hidden=8) if jitter else None
    generator = WeightGenerator(Mixer(8, len(layers), 5, 12), head, base, noise)
    with torch.no_grad():
        for part in generator.head.parameters():
            part += 0.05 * torch.randn_like(part)
    cpu = torch.device("cpu")
    return Setting(
        network, generator, Loss("classification"), Calling("vmap", NETWORKS), False, NETWORKS, 50, None, cpu
    )


def batch():
    draws = torch.Generator().manual_seed(1)
    return Batch(torch.randn(10, 6, generator=draws), torch.randint(3, (10,), generator=draws))


def objective(kind, given, repulsion=0.1):
    if kind == "gpvi":
        return FunctionalGradient(given.generator.jitter, repulsion)
    if kind == "latent-gan":
        return LatentGAN(Discriminator(5, 12), repulsion)
    return {"svgd": SVGD(repulsion), "function-svgd": FunctionSVGD(repulsion), "none": TaskOnly()}[kind]


KINDS = ["latent-gan", "svgd", "function-svgd", "gpvi", "none"]


def grads(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def stepped(part, given, seed=3):
    part.zero_grad()
    given.generator.zero_grad()
    given.template.zero_grad()
    torch.manual_seed(seed)
    figures = part(given, batch())
    figures["loss"].backward()
    return figures


def straight(given, seed=3):
    """The mean task loss of the networks that a step draws, through ordinary calls, nothing detached."""
    torch.manual_seed(seed)
    weights = given.generator.draws(given.noise(NETWORKS)).weights
    losses = []
    for i in range(NETWORKS):
        outputs = call(given.template, {name: tensor[i] for name, tensor in weights.items()}, batch().inputs)
        losses.append(nn.functional.cross_entropy(outputs, batch().targets))
    return torch.stack(losses)


@pytest.mark.parametrize("which", ["all", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_a_step_are_those_of_the_drawn_networks(kind, which):
    given = setting(which=which, jitter=kind == "gpvi")
    figures = stepped(objective(kind, given), given)
    torch.testing.assert_close(figures["task_loss"], straight(given).detach(), rtol=1e-5, atol=1e-6)
    assert not figures["task_loss"].requires_grad
    assert all(figure.isfinite().all() for figure in figures.values())


@pytest.mark.parametrize("which", ["all", "last"])
def test_the_task_alone_is_direct_backpropagation(which):
    given = setting(which=which)
    figures = stepped(TaskOnly(), given)
    trained = [*given.generator.parameters()]
    if which == "last":
        trained += given.template[0].parameters()
    found = [p.grad for p in trained]
    expected = straight(given).mean()
    torch.testing.assert_close(figures["loss"], expected)
    for grad, slope in zip(found, torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(grad, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["svgd", "function-svgd", "gpvi"])
def test_weights_that_all_networks_share_get_the_gradient_of_the_mean_loss(kind):
    """One network is no ensemble to repel; several move the shared layers by the task where nothing else does."""
    given = setting(which="last", jitter=kind == "gpvi")
    stepped(objective(kind, given), given)
    found = [p.grad for p in given.template[0].parameters()]
    expected = torch.autograd.grad(straight(given).mean(), [*given.template[0].parameters()])
    if kind == "function-svgd":
        assert all(grad.abs().sum() > 0 for grad in found)
        return
    for grad, slope in zip(found, expected, strict=True):
        torch.testing.assert_close(grad, slope, rtol=1e-4, atol=1e-6)


def test_without_beta_the_generator_gets_the_gradient_of_the_task():
    given = setting()
    stepped(TaskOnly(), given)
    expected = grads(given.generator)
    game = LatentGAN(Discriminator(5, 12), 0.0)
    stepped(game, given)
    for found, grad in zip(grads(given.generator), expected, strict=True):
        torch.testing.assert_close(found, grad, rtol=1e-5, atol=1e-7)
    assert all(grad is not None for grad in grads(game.discriminator))


def test_the_game_reaches_the_mixer_not_the_heads():
    """What beta adds is a gradient of the mixer alone, and of the discriminator nothing."""
    given, game = setting(), LatentGAN(Discriminator(5, 12), 0.0)
    found = {}
    for beta in (0.0, 1.0):
        game.beta = beta
        stepped(game, given)
        found[beta] = [grads(part) for part in (given.generator.head, given.generator.mixer, game.discriminator)]
    for without, with_it in zip(found[0.0][0], found[1.0][0], strict=True):
        torch.testing.assert_close(without, with_it)
    assert any(not torch.allclose(a, b) for a, b in zip(found[0.0][1], found[1.0][1], strict=True))
    for without, with_it in zip(found[0.0][2], found[1.0][2], strict=True):
        torch.testing.assert_close(without, with_it)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_template_that_is_drawn_is_trained(kind):
    given = setting(jitter=kind == "gpvi")
    before = [p.detach().clone() for p in given.template.parameters()]
    stepped(objective(kind, given), given)
    assert all(p.grad is None for p in given.template.parameters())
    assert all(torch.equal(p, old) for p, old in zip(given.template.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_batch_statistics_are_kept_nowhere(kind):
    given = setting(norms, jitter=kind == "gpvi")
    given.template.train()
    before = {name: buffer.clone() for name, buffer in given.template.named_buffers()}
    stepped(objective(kind, given), given)
    assert all(torch.equal(buffer, before[name]) for name, buffer in given.template.named_buffers())


@pytest.mark.parametrize("kind", ["svgd", "function-svgd", "gpvi"])
def test_repulsion_drives_draws_apart(kind):
    """Some steps with and without it from the same start."""
    spreads = []
    for repulsion in (0.0, 1.0):
        given = setting(jitter=kind == "gpvi")
        part = objective(kind, given, repulsion)
        trained = {*given.generator.parameters(), *part.parameters()}
        optimizer = torch.optim.Adam(list(trained), lr=3e-3)
        for step in range(40):
            stepped(part, given, seed=step)
            optimizer.step()
        with torch.no_grad():
            weights = given.generator.draw(range(16))
            members = [{name: tensor[i] for name, tensor in weights.items()} for i in range(16)]
            outputs = torch.stack([call(given.template, own, batch().inputs) for own in members])
        spreads.append(float(outputs.std(0).mean()))
    assert spreads[1] > 1.1 * spreads[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_network_a_step(kind):
    given = dataclasses.replace(setting(jitter=kind == "gpvi"), networks=1, calling=Calling("loop", 1))
    figures = stepped(objective(kind, given), given)
    assert all(figure.isfinite().all() for figure in figures.values())
    assert all(grad is None or grad.isfinite().all() for grad in grads(given.generator))


def test_function_space_with_weights_that_no_output_depends_on():
    given = setting(Spare)
    stepped(FunctionSVGD(0.1), given)
    assert any(grad is not None and grad.abs().sum() > 0 for grad in grads(given.generator))


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_function_space_noise_lies_inside_the_bounds(bounds, monkeypatch):
    from pluriform.ensemble.hypergan import objectives as file

    seen, given = [], dataclasses.replace(setting(), bounds=bounds)
    real = file.call_members
    monkeypatch.setattr(file, "call_members", lambda m, w, x, c: (seen.append(x), real(m, w, x, c))[1])
    stepped(FunctionSVGD(0.1), given)
    assert [len(x) for x in seen] == [10, 2]
    low, high = bounds or (float(end) for end in batch().inputs.aminmax())
    assert low <= seen[1].min()
    assert seen[1].max() <= high
