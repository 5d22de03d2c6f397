"""`Members`: networks of one architecture as one module over stacked weights, trained together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pluriform.graph.parameters import StackedWeights, call_stacked, stack

__all__ = ["Members"]


class Members(nn.Module):
    """Maps inputs `(member, batch, *features)` to outputs `(member, batch, outputs)`, each member its own.

    Every parameter and buffer has a leading member axis, so one optimiser trains all members, each as if alone.

    Args:
        modules: The members, on one device; they keep their weights until `unstack`.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self._modules_outside = tuple(modules)  # In a tuple they are no submodules.
        stacked = stack(modules)
        parameters = {name: nn.Parameter(t, requires_grad=t.requires_grad) for name, t in stacked.parameters.items()}
        for name, parameter in parameters.items():
            self.register_parameter(_key(name), parameter)
        for name, buffer in stacked.buffers.items():
            self.register_buffer(_key(name), buffer)
        self._stacked = StackedWeights({**parameters}, stacked.buffers)

    def train(self, mode: bool = True) -> "Members":
        """Set the mode of the members."""
        self._modules_outside[0].train(mode)
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of all members."""
        return call_stacked(self._modules_outside[0], self._stacked, inputs, shared_inputs=False)

    @torch.no_grad()
    def unstack(self) -> None:
        """Copy the weights into the members that it was made of."""
        for position, module in enumerate(self._modules_outside):
            weights = self._stacked.member(position)
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                tensor.copy_(weights[name])


def _key(name: str) -> str:
    return name.replace(".", "/")
