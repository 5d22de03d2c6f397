"""A Wasserstein GAN with gradient penalty over vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from pluriform.errors import GraphError, explain

__all__ = ["Coordinates", "WGAN", "gradient_penalty", "perceptron"]

LAYERS = 3
PENALTY = 10.0
CRITIC_STEPS = 5
BATCH = 100
RATE, BETAS = 3e-4, (0.5, 0.9)
WIDEST = 10.0  # Standard deviation of the widest coordinate: smaller ones let the game oscillate, larger ones slow it.


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three hidden layers with ReLU, He's initialisation, from torch's default generator."""
    sizes = [inputs, *[hidden] * LAYERS, outputs]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Mean (|grad D(x)| - 1)^2 at random points between pairs of rows; differentiable in the critic."""
    share = torch.rand(len(real), 1, device=real.device, dtype=real.dtype)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


@dataclass(frozen=True, eq=False)
class Coordinates:
    """An orthonormal basis of the span of centred vectors, and one scale.

    A generator whose last layer is linear reaches an affine subspace anyway, and lengths in the span are those in the
    whole space: so the game is the same as over the vectors themselves, at a fraction of the cost where they have more
    entries than there are vectors.

    Attributes:
        mean: `(entries,)`.
        basis: Orthonormal rows, `(rank, entries)`.
        scale: A tenth of the standard deviation of the widest coordinate.
        vectors: The vectors in these coordinates over `scale`, `(vectors, rank)`.
    """

    mean: Tensor
    basis: Tensor
    scale: float
    vectors: Tensor

    @staticmethod
    def of(vectors: Tensor) -> "Coordinates":
        """The coordinates of vectors `(vectors, entries)`, the widest first."""
        mean = vectors.mean(0)
        centred = (vectors - mean).double()
        if len(vectors) < vectors.shape[1]:
            squares, left = torch.linalg.eigh(centred @ centred.T)
            keep = squares > 1e-10 * squares.amax()
            basis = (left[:, keep] / squares[keep].sqrt()).T @ centred
        else:
            squares, right = torch.linalg.eigh(centred.T @ centred)
            basis = right[:, squares > 1e-10 * squares.amax()].T
        basis = basis.flip(0)
        found = centred @ basis.T
        scale = float(found[:, 0].square().mean().sqrt()) / WIDEST
        return Coordinates(mean, basis.to(vectors), scale, (found / scale).to(vectors))

    @torch.no_grad()
    def unfold(self, generator: nn.Sequential) -> nn.Sequential:
        """The generator with its last layer continued to the whole vectors: one linear layer, as before."""
        before, last = list(generator)[:-1], generator[-1]
        if not isinstance(last, nn.Linear):
            raise GraphError(
                explain("a generator that ends in a linear layer", type(last).__name__, "unfold", "add one")
            )
        whole: Any = nn.utils.skip_init(nn.Linear, last.in_features, len(self.mean), device=self.mean.device)
        whole.weight.copy_(self.scale * self.basis.T @ last.weight)
        whole.bias.copy_(self.mean + self.scale * self.basis.T @ last.bias)
        return nn.Sequential(*before, whole)


class WGAN:
    """The game over rows of `vectors`: 5 critic steps a step of the generator, penalty 10, Adam (0.5, 0.9).

    Critic: mean D(fake) - mean D(real) + 10 penalty; generator: - mean D(fake). Without the falling learning rate the
    mean of the generator keeps circling around that of the vectors.

    Args:
        vectors: What the generator shall imitate, `(vectors, entries)`.
        noise: Length of the generator's noise.
        hidden: Width of the three hidden layers of both.
        steps: Steps that will be done; the learning rate falls to 0 over them in a line.
        rate: Learning rate of both at the start.

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028.
    """

    def __init__(self, vectors: Tensor, noise: int, hidden: int, steps: int, rate: float = RATE) -> None:
        self.vectors, self.noise, self.steps, self.rate = vectors, noise, steps, rate
        self.generator = perceptron(noise, hidden, vectors.shape[1]).to(vectors)
        self.critic = perceptron(vectors.shape[1], hidden, 1).to(vectors)
        self.optimizers = [
            Adam(network.parameters(), lr=rate, betas=BETAS, fused=True) for network in (self.generator, self.critic)
        ]

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that a step changes, beside the optimisers."""
        own = {"generator": self.generator, "critic": self.critic}
        return {
            f"{name}/{part}": tensor for name, network in own.items() for part, tensor in network.named_parameters()
        }

    def fake(self) -> Tensor:
        """A batch of the generator."""
        like = self.vectors
        return self.generator(torch.randn(BATCH, self.noise, device=like.device, dtype=like.dtype))

    def step(self, number: int) -> Mapping[str, float]:
        """Five steps of the critic and one of the generator; the estimated Wasserstein distance."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate * (1 - number / self.steps)
        distance = sum(self._critic_step() for _ in range(CRITIC_STEPS)) / CRITIC_STEPS
        self._descend(0, -self.critic(self.fake()).mean())
        return {"wasserstein": distance}

    def _critic_step(self) -> float:
        rows = torch.randint(len(self.vectors), (BATCH,)).to(self.vectors.device)
        real = self.vectors[rows]
        with torch.no_grad():
            fake = self.fake()
        distance = self.critic(real).mean() - self.critic(fake).mean()
        self._descend(1, PENALTY * gradient_penalty(self.critic, real, fake) - distance)
        return distance.item()

    def _descend(self, player: int, loss: Tensor) -> None:
        """A step of one player; the gradient of the other is not computed."""
        optimizer = self.optimizers[player]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
