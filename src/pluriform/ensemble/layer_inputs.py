"""What the layers of a network are called with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs

__all__ = ["layer_inputs"]


@torch.no_grad()
def layer_inputs(network: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, list[Tensor]]:
    """First arguments of every call of some layers in one pass.

    Args:
        network: In the mode it is to be looked at.
        layers: Layers of it by name.
        inputs: Shape `(batch, *features)`.

    Returns:
        By name, in the order of the first calls; layers that are not called are left out.
    """
    calls: dict[str, list[Tensor]] = {}

    def listen(name: str) -> Any:
        return lambda _, args: calls.setdefault(name, []).append(args[0])

    handles = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls
