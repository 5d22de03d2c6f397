import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

import pluriform as pf
from pluriform.attacks.threat import Threat
from pluriform.data.data import Data, Split
from pluriform.energy.contrast import Adversary, Contrast, contrastive_samples, real_against
from pluriform.energy.curriculum import Curriculum
from pluriform.energy.langevin import Langevin
from pluriform.energy.space import Space
from pluriform.energy.start import UniformStart
from pluriform.energy.streams import Cycle
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch, Feed
from pluriform.training.loss import Loss

WIDE = Space(torch.tensor(127.5), torch.tensor(127.5), (0.0, 255.0))
CLIMB = Langevin(1, 0.2, 0.0, normalise=True)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(16, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.5), nn.Linear(32, 3)
    return nn.Sequential(*layers).to(dtype)


def seeds(count: int = 50, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def data() -> Data:
    return pf.load("digits")


def contrast(net: nn.Module, data: Data, threshold: float = 0.8, steps: int = 5, penalty: float = 0.0) -> Contrast:
    space = Space.of(data)
    cpu = torch.device("cpu")
    return Contrast(
        net,
        Adversary(Threat("l2", 0.5, data.bounds), 2, 0.1),
        CLIMB,
        Curriculum(threshold, steps, window=64),
        UniformStart(space, data.input_shape),
        Cycle(Feed(data, 32, 5, Augmentation(), cpu)),
        Loss("classification"),
        penalty,
    )


def first_batch(data: Data) -> Batch:
    return Batch(*data.train.batch(torch.arange(32)))


def test_no_steps_leave_the_seeds_untouched():
    x, labels = seeds(), torch.zeros(50, dtype=torch.int64)
    samples = contrastive_samples(network(), x, labels, replace(CLIMB, steps=0), Space.of(pf.load("digits")))
    assert torch.equal(samples, x)


def test_a_step_has_the_length_and_the_direction_of_the_gradient_of_its_class():
    net, labels = network(), torch.arange(50) % 3
    x = 100 + seeds(scale=50)  # Far from the bounds, so that nothing is clipped.
    samples = contrastive_samples(net, x, labels, CLIMB, WIDE)
    moved = samples - x
    assert torch.allclose(moved.flatten(1).norm(dim=1), torch.full((50,), 0.1 * 255), rtol=1e-4)
    for i in range(5):
        point = x[i : i + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net.eval()(point)[0, labels[i]], point)
        assert torch.cosine_similarity(gradient.flatten(), moved[i].flatten(), dim=0) > 0.9999


def test_steps_end_within_the_bounds_and_go_as_far_as_they_like():
    net, space = network(), Space(torch.tensor(0.5), torch.tensor(0.5), (0.0, 1.0))
    x, labels = seeds(), torch.arange(50) % 3
    samples = contrastive_samples(net, x, labels, replace(CLIMB, steps=30), space)
    assert samples.min() == 0
    assert samples.max() == 1
    assert (samples - x).flatten(1).norm(dim=1).max() > 1
    own = torch.arange(50), labels
    with torch.no_grad():
        assert (net.eval()(samples)[own] > net(x)[own]).all()


def test_a_flat_network_moves_nothing():
    net = network()
    nn.init.zeros_(net[-1].weight)
    x = seeds()
    samples = contrastive_samples(net, x, torch.zeros(50, dtype=torch.int64), replace(CLIMB, steps=3), WIDE)
    assert torch.equal(samples, x)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_gradients_are_normalised_alike(size):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0] * 16, [-1.0] * 16]) * size)
    x = 100 + seeds(4, scale=10)
    samples = contrastive_samples(net, x, torch.zeros(4, dtype=torch.int64), CLIMB, WIDE)
    assert torch.allclose(samples - x, torch.full_like(x, 25.5 / 4), rtol=1e-4)


def test_climbing_leaves_modes_flags_gradients_and_statistics():
    net, space = network(), Space(torch.tensor(0.5), torch.tensor(0.5), (0.0, 1.0))
    net.train()
    net[2].eval()
    net(seeds()).sum().backward()
    net[1].bias.requires_grad_(False)
    modes, flags = [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]
    gradients = [p.grad.clone() for p in net.parameters()]
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    samples = contrastive_samples(net, seeds(), torch.arange(50) % 3, replace(CLIMB, steps=4), space)
    assert not samples.requires_grad
    assert modes == [part.training for part in net.modules()]
    assert flags == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, net.parameters(), strict=True))
    assert all(torch.equal(tensors[name], value) for name, value in net.state_dict().items())


def test_the_contrast_is_binary_cross_entropy_of_both_kinds():
    real, samples = torch.tensor([2.0, -1.0, 300.0]), torch.tensor([0.5, -400.0])
    log_sigmoid = [-math.log1p(math.exp(-2)), -math.log1p(math.exp(1)), 0.0]
    log_other = [-math.log1p(math.exp(0.5)), 0.0]
    assert float(real_against(real, samples)) == pytest.approx(-sum(log_sigmoid) / 3 - sum(log_other) / 2, rel=1e-6)


def test_loss_and_its_parts_against_numpy(data):
    net = pf.nets.build("mlp", data)
    step = contrast(net, data)
    batch = first_batch(data)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        values = {name: value.item() for name, value in step(batch).items()}
        torch.manual_seed(3)
        real = Cycle(step.real.feed).at(0)
        noise = step.start.draw(real.targets)  # No steps yet.
    attacked = step.adversary(net, batch)
    with torch.no_grad():
        a, r, n = (net(x).double().numpy() for x in (attacked.inputs, real.inputs, noise))
    cross_entropy = np.mean(logsumexp(a, 1) - a[np.arange(32), batch.targets.numpy()])
    contrast_ = np.mean(np.log1p(np.exp(-logsumexp(r, 1)))) + np.mean(np.log1p(np.exp(logsumexp(n, 1))))
    assert values["cross_entropy"] == pytest.approx(cross_entropy, rel=1e-5)
    assert values["contrast"] == pytest.approx(contrast_, rel=1e-5)
    assert values["loss"] == pytest.approx(cross_entropy + contrast_, rel=1e-5)
    assert values["margin"] == pytest.approx(np.mean(logsumexp(r, 1)) - np.mean(logsumexp(n, 1)), abs=1e-5)
    assert torch.equal(step.curriculum.scores[0, :32], torch.tensor(r[np.arange(32), real.targets.numpy()]).float())


def test_the_penalty_is_half_the_squared_gradient_in_the_unit_range(data):
    data = replace(data, train=Split(3 * data.train.inputs, data.train.targets), bounds=(0.0, 3.0))
    net = pf.nets.build("mlp", data)
    both = []
    for penalty in (0.0, 3.0):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            step = contrast(net, data, penalty=penalty)
            both.append({name: value.item() for name, value in step(first_batch(data)).items()})
    real = Cycle(step.real.feed).at(0).inputs
    squares = []
    for x in real:
        jacobian = torch.autograd.functional.jacobian(lambda u: net(u[None]).logsumexp(-1).sum(), x)
        squares.append(9 * float(jacobian.square().sum()))
    assert both[1]["loss"] - both[0]["loss"] == pytest.approx(1.5 * np.mean(squares), rel=1e-3)
    assert both[1]["contrast"] == pytest.approx(both[0]["contrast"], rel=1e-6)


def test_samples_climb_as_far_as_the_curriculum_says(data):
    net = pf.nets.build("mlp", data)
    step = contrast(net, data, threshold=0.01, steps=2)
    with torch.random.fork_rng():
        lengths = [float(step(first_batch(data))["climbing_steps"]) for _ in range(8)]
    assert lengths == [0, 0, 1, 1, 2, 2, 2, 2]
    assert int(step.climbed) == sum(lengths)
    assert int(step.done) == 8


def test_batch_statistics_are_frozen_and_dropout_is_not(data):
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    )
    step = contrast(net, data, threshold=0.01)
    before = {name: value.clone() for name, value in net.named_buffers()}
    with torch.random.fork_rng():
        for _ in range(4):
            net.train()
            step(first_batch(data))["loss"].backward()
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())
    assert not net[2].training
    assert net[4].training
    assert net[2].weight.grad.abs().sum() > 0


def test_faults_are_named(data):
    step = contrast(pf.nets.build("mlp", data), data)
    fine, score = torch.tensor(1.0), torch.tensor(5.0)
    assert step.check({"loss": fine, "largest_score": score, "margin": torch.tensor(torch.nan)}) is None
    assert "loss is nan" in step.check({"loss": fine * torch.nan, "largest_score": score})
    assert "largest_score is 2e+04" in step.check({"loss": fine, "largest_score": torch.tensor(2e4)})
