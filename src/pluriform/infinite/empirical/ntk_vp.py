"""NTK-vector products: one pull-back and one push-forward for every input and output."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from pluriform.infinite.empirical.contraction import Over, over_outputs
from pluriform.infinite.empirical.push_forward import push_forward
from pluriform.infinite.empirical.subject import ALL, Subject

__all__ = ["Batch", "NtkVectorProducts", "ntk_vector_product"]


def ntk_vector_product(
    subject: Subject,
    x1: Tensor,
    x2: Tensor,
    vector: Float[Tensor, "n2 outputs2"],
    blocks: tuple[slice, slice] = (ALL, ALL),
) -> Float[Tensor, "n1 outputs1"]:
    """`Theta(x1, x2) v = J(x1) J(x2)' v`, matrix-free: one backward and one forward pass.

    Args:
        subject: The network.
        x1: First inputs.
        x2: Second inputs.
        vector: One number for each second input and output.
        blocks: Outputs of the first and of the second inputs.
    """
    pull = vjp(subject.function(x2, blocks[1]), subject.parameters)[1]
    (tangent,) = pull(vector)
    return push_forward(subject.function(x1, blocks[0]), (subject.parameters,), (tangent,))[1]


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, and the outputs that are looked at."""

    x: Tensor
    block: slice


@dataclass(frozen=True, eq=False)
class NtkVectorProducts:
    """The NTK column by column: `Theta e` for each second input and output.

    Time `N^2 O` forward passes, memory `vectors` times the parameters; gradients are never contracted, which pays for
    few inputs and very many outputs.

    Attributes:
        subject: The network.
        over: Pairs of outputs.
        vectors: Basis vectors computed at once.
    """

    subject: Subject
    over: Over
    vectors: int = 16

    def prepare(self, x: Tensor) -> Tensor:
        """The batch itself."""
        return x

    def side(self, prepared: Tensor, block: slice) -> Batch:
        """What one batch contributes: itself."""
        return Batch(prepared, block)

    def kernel(self, left: Batch, right: Batch) -> Float[Tensor, "n1 n2 *pairs"]:
        """The NTK of two batches."""
        outputs = len(range(*right.block.indices(self.subject.outputs)))
        basis = torch.eye(outputs, dtype=self.subject.dtype, device=right.x.device)

        def column(place: Tensor) -> Tensor:
            single, vector = right.x[place // outputs], basis[place % outputs]
            return ntk_vector_product(self.subject, left.x, single[None], vector[None], (left.block, right.block))

        places = torch.arange(len(right.x) * outputs, device=right.x.device)
        columns = vmap(column, chunk_size=self.vectors)(places)
        full = columns.reshape(len(right.x), outputs, len(left.x), -1).permute(2, 0, 3, 1)
        return over_outputs(full, self.over)
