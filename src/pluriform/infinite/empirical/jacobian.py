"""Jacobian contraction: gradients of every output of every input, then their inner products."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev, vmap

from pluriform.infinite.empirical.contraction import Over, contract
from pluriform.infinite.empirical.subject import ALL, Subject

__all__ = ["JacobianContraction", "jacobian"]


def jacobian(subject: Subject, x: Tensor, names: Iterable[str] | None = None, block: slice = ALL) -> dict[str, Tensor]:
    """Gradients of every output with respect to some or all trainable parameters.

    Args:
        subject: The network.
        x: Inputs, `(n, *input_shape)`.
        names: Parameters; all trainable ones by default.
        block: Outputs.

    Returns:
        By name, `(n, outputs, *shape of the parameter)`.
    """
    chosen = {name: subject.parameters[name] for name in (subject.parameters if names is None else names)}

    def one(parameters: dict[str, Tensor], single: Tensor) -> Tensor:
        return subject.function(single[None], block)(parameters)[0]

    if any(node.attributes.get("function") == "prelu" for node in subject.graph.nodes):
        return _one_by_one(subject, x, chosen, block)  # torch 2.13 gives wrong numbers for it under vmap of jacrev
    try:
        return vmap(jacrev(one), (None, 0))(chosen, x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # no batching rule, in-place operations, Python that reads values
        return _one_by_one(subject, x, chosen, block)


def _one_by_one(subject: Subject, x: Tensor, chosen: dict[str, Tensor], block: slice) -> dict[str, Tensor]:
    """One backward pass for each input and output: slow, and possible wherever training is."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in chosen.items()}
    rows: list[Tensor] = []
    with torch.enable_grad():
        for single in x:
            for output in subject.function(single[None], block)(leaves)[0]:
                grads = torch.autograd.grad(
                    output, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
                )
                rows.append(torch.cat([grad.flatten() for grad in grads]))
    table = torch.stack(rows).reshape(len(x), -1, rows[0].numel())
    parts = table.split([weight.numel() for weight in chosen.values()], 2)
    return {name: part.unflatten(2, weight.shape) for part, (name, weight) in zip(parts, chosen.items(), strict=True)}


@dataclass(frozen=True, eq=False)
class JacobianContraction:
    """The NTK as `sum_p J_p(x1) J_p(x2)'`.

    Time `N O` backward passes and `N^2 O^2 P` multiplications (`N^2 O P` without cross terms of outputs), memory
    `N O P`, for N inputs, O outputs and P trainable parameters.

    Attributes:
        subject: The network.
        over: Pairs of outputs.
    """

    subject: Subject
    over: Over

    def prepare(self, x: Tensor) -> Tensor:
        """The batch itself."""
        return x

    def side(self, prepared: Tensor, block: slice) -> dict[str, Tensor]:
        """What one batch contributes: its Jacobian."""
        return {name: part.flatten(2) for name, part in jacobian(self.subject, prepared, None, block).items()}

    def kernel(self, left: dict[str, Tensor], right: dict[str, Tensor]) -> Float[Tensor, "n1 n2 *pairs"]:
        """The NTK of two batches."""
        parts = [contract(part, right[name], self.over) for name, part in left.items()]
        return sum(parts[1:], parts[0])
