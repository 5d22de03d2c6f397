"""Products with the Jacobian of a generator, row by row, without forming it and without gradients to its weights."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Jacobian"]


class Jacobian:
    """G_j = ∂g/∂z at each row z_j of the noise, from one run of the generator.

    Args:
        generator: g, maps (member, noise) to (member, size), each row by itself.
        noise: z.

    Attributes:
        outputs: g(z), with its graph to the generator's weights.

    Example:
        >>> generator = torch.nn.Linear(2, 3)
        >>> jacobian = Jacobian(generator, torch.zeros(5, 2))
        >>> torch.equal(jacobian.forward(torch.ones(5, 2))[0], generator.weight.sum(1))
        True
    """

    def __init__(self, generator: Callable[[Tensor], Tensor], noise: Tensor) -> None:
        with torch.enable_grad():
            self.noise = noise.detach().clone().requires_grad_()
            self.outputs = generator(self.noise)
        self._doubled: tuple[Tensor, Tensor] | None = None

    def transposed(self, vectors: Tensor) -> Tensor:
        """G_jᵀ v_j, (member, noise): one vector-Jacobian product."""
        return torch.autograd.grad(self.outputs, self.noise, vectors, retain_graph=True)[0]

    def forward(self, vectors: Tensor) -> Tensor:
        """G_j v_j, (member, size): the transposed product differentiated by its vector, which needs no forward mode."""
        if self._doubled is None:
            with torch.enable_grad():
                free = torch.zeros_like(self.outputs).requires_grad_()
                product = torch.autograd.grad(self.outputs, self.noise, free, retain_graph=True, create_graph=True)[0]
            self._doubled = free, product
        free, product = self._doubled
        return torch.autograd.grad(product, free, vectors, retain_graph=True)[0]

    def head(self) -> Tensor:
        """Transposed Jacobian of the first outputs, as many as the noise is long: (member, noise, noise)."""
        width = self.noise.shape[1]
        columns = torch.zeros_like(self.outputs)
        products = []
        for column in range(width):
            columns.zero_()[:, column] = 1
            products.append(self.transposed(columns))
        return torch.stack(products, dim=2)
