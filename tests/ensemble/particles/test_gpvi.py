"""GPVI against dense Jacobians, exact solves and a Gaussian with known covariance."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pluriform.ensemble.particles.gpvi import GPVI, gpvi_direction
from pluriform.ensemble.particles.inverse_jacobian import InverseJacobian
from pluriform.ensemble.particles.jacobian import Jacobian
from pluriform.errors import ConfigError, ShapeError

MEAN = torch.tensor([1.0, -2.0])
COVARIANCE = torch.tensor([[2.0, 1.2], [1.2, 1.0]])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mlp(noise: int, size: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(noise, 16), nn.Tanh(), nn.Linear(16, size)).double()


def dense(gpvi: GPVI, generator: nn.Module, full_noise: Tensor) -> Tensor:
    """J_f at each row, (member, P, P), by reverse mode on the whole of f."""
    return vmap(jacrev(lambda z: generator(z[: gpvi.noise]) + gpvi.scale.detach() * z))(full_noise).detach()


def brute_force(full_noise: Tensor, scores: Tensor, jacobians: Tensor, h: float) -> Tensor:
    place = full_noise.clone()
    total = torch.zeros_like(scores)
    for i in range(len(place)):
        for j in range(len(place)):
            free = full_noise[j].clone().requires_grad_()
            value = torch.exp(-((free - place[i]) ** 2).sum() / h)
            gradient = torch.autograd.grad(value, free)[0]
            total[i] += value.detach() * scores[j] + torch.linalg.solve(jacobians[j].T, gradient)
    return total / len(place)


def test_products_are_those_of_the_dense_jacobian():
    generator, noise = mlp(3, 7), normal(5, 3)
    jacobian, full = Jacobian(generator, noise), vmap(jacrev(generator))(noise)
    left, right = normal(5, 7, seed=1), normal(5, 3, seed=2)
    torch.testing.assert_close(jacobian.transposed(left), torch.einsum("jps,jp->js", full, left))
    for vectors in (right, -2 * right):
        torch.testing.assert_close(jacobian.forward(vectors), torch.einsum("jps,js->jp", full, vectors))
    torch.testing.assert_close(jacobian.head(), full[:, :3].transpose(1, 2))
    assert all(parameter.grad is None for parameter in generator.parameters())


@pytest.mark.parametrize("noise", [1, 3, 7])
def test_exact_inverse_gives_the_gradients_of_a_dense_solve(noise: int):
    gpvi, generator = GPVI(noise, 7, scale=0.5, inverse="exact", bandwidth=4.0).double(), mlp(noise, 7)
    full_noise, scores = normal(5, 7), normal(5, 7, seed=1)
    losses = gpvi.losses(generator, full_noise[:, :noise], full_noise, scores)
    wanted = [*generator.parameters(), gpvi.log_scale]
    found = torch.autograd.grad(losses.generator_surrogate, wanted)
    direction = brute_force(full_noise, scores, dense(gpvi, generator, full_noise), 4.0)
    theta = generator(full_noise[:, :noise]) + gpvi.log_scale.exp() * full_noise
    torch.testing.assert_close(found, torch.autograd.grad(-(theta * direction).sum() / 5, wanted))


def test_auxiliary_network_learns_the_inverse_product():
    gpvi, generator = GPVI(2, 6, scale=0.5, hidden=64), mlp(2, 6).float()
    optimiser = torch.optim.Adam(gpvi.inverse.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    random = torch.Generator().manual_seed(0)
    for _ in range(300):
        full_noise = torch.randn(12, 6, generator=random)
        loss = gpvi.losses(generator, full_noise[:, :2], full_noise, torch.zeros(12, 6)).auxiliary
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    full_noise, vectors = torch.randn(500, 6, generator=random), torch.randn(500, 6, generator=random)
    jacobians = dense(gpvi, generator, full_noise)
    right = vectors[:, :2] - torch.einsum("jps,jp->js", jacobians[:, 2:, :2], vectors[:, 2:] / 0.5)
    exact = torch.linalg.solve(jacobians.transpose(1, 2), vectors)
    torch.testing.assert_close(vectors[:, 2:] / 0.5, exact[:, 2:])
    found = gpvi.inverse(full_noise[:, :2], right).detach()
    errors = (found - exact[:, :2]).norm(dim=1) / exact[:, :2].norm(dim=1)
    assert errors.median() < 0.06
    assert errors.quantile(0.9) < 0.2


def test_losses_reach_their_own_parameters_only():
    gpvi, generator = GPVI(3, 7, hidden=16).double(), mlp(3, 7)
    full_noise, scores = normal(5, 7), normal(5, 7, seed=1)
    losses = gpvi.losses(generator, full_noise[:, :3], full_noise, scores)
    network, others = list(gpvi.inverse.parameters()), [*generator.parameters(), gpvi.log_scale]
    for loss, reached, spared in (
        (losses.auxiliary, network, others),
        (losses.generator_surrogate, others, network),
    ):
        gradients = torch.autograd.grad(loss, [*reached, *spared], allow_unused=True, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients[: len(reached)])
        assert all(gradient is None for gradient in gradients[len(reached) :])


def test_auxiliary_loss_and_its_gradient_are_those_of_the_dense_residual():
    gpvi, generator = GPVI(3, 7, scale=0.3, hidden=16, bandwidth=5.0).double(), mlp(3, 7)
    z = normal(4, 7)
    jacobians, residuals = dense(gpvi, generator, z), []
    for i in range(4):
        for j in set(range(4)) - {i}:
            v = -2 / 5 * torch.exp(-((z[j] - z[i]) ** 2).sum() / 5) * (z[j] - z[i])
            full = jacobians[j].T
            r = v[:3] - full[:3, 3:] @ v[3:] / full[3, 3]
            head = gpvi.inverse(z[j : j + 1, :3], r[None])[0]
            residuals.append((full @ torch.cat([head, v[3:] / full[3, 3]]) - v).square().sum() / r.square().sum())
    expected = torch.stack(residuals).mean()
    losses = gpvi.losses(generator, z[:, :3], z, torch.zeros(4, 7).double())
    torch.testing.assert_close(losses.auxiliary, expected)
    network = list(gpvi.inverse.parameters())
    torch.testing.assert_close(torch.autograd.grad(losses.auxiliary, network), torch.autograd.grad(expected, network))


@pytest.mark.parametrize(("inverse", "noise"), [("exact", 1), ("network", 2)])
def test_recovers_a_correlated_gaussian(inverse: str, noise: int):
    # With noise of length one the second variance comes from λ alone. Own pairs would halve the covariance.
    torch.manual_seed(0)
    generator, steps = nn.Linear(noise, 2), 400
    gpvi = GPVI(noise, 2, 0.3, inverse, hidden=32, depth=2, own=False)
    optimiser = torch.optim.Adam([*generator.parameters(), gpvi.log_scale], lr=0.05)
    if gpvi.inverse is not None:
        optimiser.add_param_group({"params": gpvi.inverse.parameters(), "lr": 5e-3})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        full_noise = torch.randn(20, 2)
        with torch.no_grad():
            particles = gpvi.perturb(generator(full_noise[:, :noise]), full_noise)
            scores = -torch.linalg.solve(COVARIANCE, (particles - MEAN).T).T
        losses = gpvi.losses(generator, full_noise[:, :noise], full_noise, scores)
        optimiser.zero_grad()
        (losses.generator_surrogate + losses.auxiliary).backward()
        optimiser.step()
        schedule.step()
    root = torch.cat([generator.weight, torch.zeros(2, 2 - noise)], dim=1) + gpvi.scale * torch.eye(2)
    covariance = (root @ root.T).detach()
    torch.testing.assert_close(generator.bias.detach(), MEAN, atol=0.25, rtol=0)
    torch.testing.assert_close(covariance, COVARIANCE, atol=0, rtol=0.15)


@pytest.mark.parametrize("own", [True, False])
def test_order_of_the_particles_does_not_matter(own: bool):
    z, scores, order = normal(6, 4), normal(6, 4, seed=1), torch.tensor([3, 1, 5, 0, 2, 4])
    matrices = normal(6, 4, 4, seed=2)

    def inverse(jacobians: Tensor):
        return lambda vectors: torch.linalg.solve(jacobians.transpose(1, 2), vectors)

    straight = gpvi_direction(z, scores, inverse(matrices), own=own)
    mixed = gpvi_direction(z[order], scores[order], inverse(matrices[order]), own=own)
    torch.testing.assert_close(mixed, straight[order])


def test_one_particle_climbs_the_density():
    gpvi, generator, z, scores = GPVI(3, 7, hidden=8).double(), mlp(3, 7), normal(1, 7), normal(1, 7, seed=1)
    losses = gpvi.losses(generator, z[:, :3], z, scores)
    torch.testing.assert_close(torch.autograd.grad(losses.generator_surrogate, generator[2].bias)[0], -scores[0])
    assert losses.auxiliary.item() == 0


def test_fewer_rounds_train_on_fewer_pairs_but_move_alike():
    generator, z, scores = mlp(3, 7), normal(5, 7), normal(5, 7, seed=1)
    found = []
    for rounds in (None, 4, 1):
        torch.manual_seed(0)
        found.append(GPVI(3, 7, hidden=8, rounds=rounds).double().losses(generator, z[:, :3], z, scores))
    assert found[0].generator_surrogate == found[1].generator_surrogate == found[2].generator_surrogate
    assert found[0].auxiliary == found[1].auxiliary != found[2].auxiliary


@pytest.mark.parametrize(("inverse", "transposed", "forward"), [("network", 2 * 5, 2), ("exact", 5 + 3, 0)])
def test_cost_is_as_stated(monkeypatch: pytest.MonkeyPatch, inverse: str, transposed: int, forward: int):
    calls = {"transposed": 0, "forward": 0}

    def counted(name: str):
        original = getattr(Jacobian, name)

        def call(self: Jacobian, vectors: Tensor) -> Tensor:
            calls[name] += 1
            return original(self, vectors)

        return call

    for name in calls:
        monkeypatch.setattr(Jacobian, name, counted(name))
    runs, generator, z = [], mlp(3, 7), normal(6, 7)
    generator.register_forward_hook(lambda *_: runs.append(1))
    GPVI(3, 7, inverse=inverse, hidden=8, rounds=2).double().losses(generator, z[:, :3], z, normal(6, 7, seed=1))
    assert (len(runs), calls) == (1, {"transposed": transposed, "forward": forward})


def test_homogeneous_and_finite_at_nothing():
    inverse, z, r = InverseJacobian(3, hidden=8), torch.ones(2, 3), torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    torch.testing.assert_close(inverse(z, 1e-20 * r), 1e-20 * inverse(z, r), atol=0, rtol=1e-5)
    assert inverse(z, r)[1].abs().max() == 0


def test_refusals():
    with pytest.raises(ConfigError, match=r"noise of length 1 to 4.*got 5"):
        GPVI(5, 4)
    with pytest.raises(ConfigError, match="positive scale"):
        GPVI(2, 4, scale=0)
    with pytest.raises(ConfigError, match="'network' or 'exact'; got 'guess'"):
        GPVI(2, 4, inverse="guess")
    with pytest.raises(ConfigError, match="one round or more"):
        GPVI(2, 4, rounds=0)
    with pytest.raises(ShapeError, match="first 2 columns"):
        GPVI(2, 4).losses(nn.Linear(2, 4), torch.ones(3, 2), torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(ConfigError, match="two particles or more"):
        GPVI(2, 4, own=False).losses(nn.Linear(2, 4), torch.zeros(1, 2), torch.zeros(1, 4), torch.zeros(1, 4))
