"""What J_f⁻ᵀ v comes down to for a full-rank generator: products, and a system as small as the noise."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.ensemble.particles.jacobian import Jacobian

__all__ = ["InverseJacobian", "Solver"]


class InverseJacobian(nn.Module):
    """Auxiliary network y(z, r) ≈ A(z)⁻¹ r, exactly homogeneous in r: y(z, r) = ‖r‖ · net(z, r / ‖r‖).

    Args:
        noise: Length of z and of r.
        hidden: Width of the hidden layers.
        depth: Number of hidden layers.

    Example:
        >>> inverse, z, r = InverseJacobian(4, hidden=8), torch.ones(2, 4), torch.eye(2, 4)
        >>> torch.allclose(inverse(z, 3 * r), 3 * inverse(z, r))
        True
    """

    def __init__(self, noise: int, hidden: int = 512, depth: int = 3) -> None:
        super().__init__()
        widths = [2 * noise, *[hidden] * depth]
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], noise))

    def forward(self, noise: Float[Tensor, "batch noise"], vectors: Float[Tensor, "batch noise"]) -> Tensor:
        """y(z, r), row by row."""
        lengths, units = _lengths_and_units(vectors)
        return lengths * self.net(torch.cat([noise, units], dim=1))


class Solver:
    """J_f(z)⁻ᵀ v for the full-rank f of `GPVI`, one row each, keeping the residuals that train the auxiliary network.

    Args:
        jacobian: That of g at the noise.
        scale: λ.
        network: Auxiliary network; None forms A by S vector-Jacobian products and solves exactly.
        rounds: Calls that train the network; None is all.
    """

    def __init__(
        self, jacobian: Jacobian, scale: Tensor, network: InverseJacobian | None = None, rounds: int | None = None
    ) -> None:
        self.jacobian, self.network, self.rounds = jacobian, network, rounds
        self.noise = jacobian.noise.detach()
        self.scale = scale.detach().to(self.noise)
        self.losses: list[Tensor] = []
        if network is None:
            identity = torch.eye(self.noise.shape[1]).to(self.noise)
            self.factors = torch.linalg.lu_factor(jacobian.head() + self.scale * identity)

    def __call__(self, vectors: Tensor) -> Tensor:
        """J_f(z_j)⁻ᵀ v_j, (member, size)."""
        width = self.noise.shape[1]
        rest = vectors[:, width:] / self.scale
        right = vectors[:, :width] - self.jacobian.transposed(torch.cat([torch.zeros_like(self.noise), rest], dim=1))
        return torch.cat([self._solve(right), rest], dim=1)

    def loss(self) -> Tensor:
        """Mean ‖A y − r‖² over the calls that train, every r of length one."""
        return torch.stack(self.losses).mean() if self.losses else self.noise.new_zeros(())

    def _solve(self, right: Tensor) -> Tensor:
        if self.network is None:
            return torch.linalg.lu_solve(*self.factors, right[:, :, None])[:, :, 0]
        lengths, units = _lengths_and_units(right)
        trains = self.rounds is None or len(self.losses) < self.rounds
        with torch.set_grad_enabled(trains):
            found = self.network.net(torch.cat([self.noise, units], dim=1))
        product = self._times(found.detach())
        if trains:
            self.losses.append(self._loss(found, product - units))
        # The best multiple of what was found: a network that lags behind the generator is then no worse than y = 0.
        best = (product * units).sum(dim=1, keepdim=True) / product.square().sum(dim=1, keepdim=True).clamp(min=1e-30)
        return lengths * best * found.detach()

    def _times(self, head: Tensor) -> Tensor:
        """A y."""
        padded = nn.functional.pad(head, (0, self.jacobian.outputs.shape[1] - head.shape[1]))
        return self.scale * head + self.jacobian.transposed(padded)

    def _loss(self, found: Tensor, residual: Tensor) -> Tensor:
        """Mean ‖A y − r‖², its gradient 2 Aᵀ (A y − r) given to y by hand: autograd would reach the generator."""
        gradient = 2 * (self.scale * residual + self.jacobian.forward(residual)[:, : residual.shape[1]])
        with torch.enable_grad():
            carrier = (gradient * found).sum(dim=1)
            return (residual.square().sum(dim=1) + carrier - carrier.detach()).mean()


def _lengths_and_units(vectors: Tensor) -> tuple[Tensor, Tensor]:
    lengths = vectors.norm(dim=1, keepdim=True)
    return lengths, vectors / lengths.clamp(min=torch.finfo(vectors.dtype).tiny)
