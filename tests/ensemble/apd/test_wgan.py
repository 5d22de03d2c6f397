import pytest
import torch
from torch import nn

from pluriform.ensemble.apd.wgan import WGAN, Coordinates, gradient_penalty, perceptron
from pluriform.errors import GraphError


@pytest.fixture
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("count", [7, 40], ids=["fewer than entries", "more than entries"])
def test_coordinates_lose_nothing(seeded, count):
    vectors = torch.randn(count, 12, dtype=torch.float64) * torch.linspace(0.1, 3, 12) + 5
    found = Coordinates.of(vectors)
    assert found.basis.shape == (min(count - 1, 12), 12)
    assert torch.allclose(found.basis @ found.basis.T, torch.eye(len(found.basis), dtype=torch.float64), atol=1e-10)
    assert torch.allclose(found.mean + found.scale * found.vectors @ found.basis, vectors, atol=1e-10)
    assert torch.allclose(vectors.T.cov().trace(), found.scale**2 * found.vectors.T.cov().trace())
    spreads = found.vectors.var(0)
    assert (spreads.diff() <= 1e-12).all()
    assert abs(found.vectors[:, 0].square().mean() - 100) < 1e-8


def test_an_unfolded_generator_gives_the_whole_vectors(seeded):
    found = Coordinates.of(torch.randn(9, 30))
    generator = perceptron(4, 10, 8)
    whole = found.unfold(generator)
    z = torch.randn(5, 4)
    assert whole(z).shape == (5, 30)
    assert torch.allclose(whole(z), found.mean + found.scale * generator(z) @ found.basis, atol=1e-5)
    assert [type(layer) for layer in whole] == [type(layer) for layer in generator]
    with pytest.raises(GraphError, match="ends in a linear layer"):
        found.unfold(nn.Sequential(nn.ReLU()))


def test_gradient_penalty_of_a_linear_critic(seeded):
    critic = nn.Linear(3, 1, bias=False)
    real, fake = torch.randn(10, 3), torch.randn(10, 3)
    penalty = gradient_penalty(critic, real, fake)
    assert torch.allclose(penalty, (critic.weight.norm() - 1) ** 2)
    penalty.backward()
    expected = 2 * (critic.weight.norm() - 1) * critic.weight / critic.weight.norm()
    assert torch.allclose(critic.weight.grad, expected)


def test_gradient_penalty_lies_between_the_pairs(seeded):
    class Recorder(nn.Module):
        def forward(self, x):
            self.seen = x.detach()
            return x.square().sum(1, keepdim=True)

    critic, real, fake = Recorder(), torch.zeros(50, 1), torch.ones(50, 1) + torch.arange(50.0)[:, None]
    gradient_penalty(critic, real, fake)
    share = critic.seen / fake
    assert ((share > 0) & (share < 1)).all()
    assert share.std() > 0.2


def test_a_step_of_one_player_leaves_the_other(seeded):
    game = WGAN(torch.randn(20, 3), 4, 10, 100)
    before = {name: tensor.detach().clone() for name, tensor in game.state.items()}
    game._critic_step()
    moved = {name for name, tensor in game.state.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("critic/") for name in moved)
    before = {name: tensor.detach().clone() for name, tensor in game.state.items()}
    with torch.no_grad():
        z = torch.randn(500, 4)
        scores = game.critic(game.generator(z)).mean()
    game._descend(0, -game.critic(game.fake()).mean())
    moved = {name for name, tensor in game.state.items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith("generator/") for name in moved)
    with torch.no_grad():
        assert game.critic(game.generator(z)).mean() > scores


def test_moments_of_the_generator_are_those_of_the_vectors(seeded):
    factor = torch.tensor([[2.0, 0.0, 0.0, 0.0], [1.5, 1.0, 0.0, 0.0], [0.0, 0.3, 0.7, 0.0], [-1.0, 0.0, 0.0, 0.5]])
    vectors = torch.randn(500, 4) @ factor.T + torch.tensor([10.0, -3.0, 0.0, 1.0])
    coordinates = Coordinates.of(vectors)
    game = WGAN(coordinates.vectors, 8, 40, 600, rate=1e-3)
    first = [game.step(number)["wasserstein"] for number in range(600)]
    drawn = coordinates.unfold(game.generator)(torch.randn(5000, 8)).detach()
    covariance = vectors.T.cov()
    assert ((drawn.mean(0) - vectors.mean(0)).abs() < 0.15 * vectors.std(0)).all()
    assert (drawn.T.cov() - covariance).norm() < 0.2 * covariance.norm()
    assert sum(first[-100:]) < 0.5 * max(sum(first[n : n + 100]) for n in range(0, 300, 100))
    assert game.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 600)
