"""Units of imitation by the fused kernels, where they are chains that these compute."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from pluriform.graph.parameters import modes_kept
from pluriform.narrow.unit import UnitNetwork
from pluriform.training.fused_chain import FusedChain, fused_chain
from pluriform.training.step import MOST_MULTIPLICATIONS

__all__ = ["fused_unit"]


def fused_unit(network: UnitNetwork, inputs: Tensor) -> FusedChain | None:
    """A unit with its maps as one chain, whose outputs are flat; `None` where the kernels do not compute it.

    Maps become 1x1 convolutions, or linear layers of vectors; the product of a lift before and a reducing map is one.

    Args:
        network: In training mode, channels along the first axis behind the batch.
        inputs: One at least.
    """
    if set(network.axes) != {1}:
        return None
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if network.reduce is not None:
        layers["reduce"] = _layer(inputs, len(network.reduce))
    layers["part"] = network.part
    if network.lift is not None:
        with modes_kept(network), torch.no_grad():  # One sample has no statistics of a batch.
            network.eval()
            features = network.thin(inputs[:1])
        layers["lift"] = _layer(features, len(network.lift))
    layers["flat"] = nn.Flatten()
    part = {f"part.{name}": weight for name, weight in network.part.named_parameters()}
    return fused_chain(nn.Sequential(layers).train(), inputs, MOST_MULTIPLICATIONS, lambda: part | _maps(network))


def _layer(features: Tensor, behind: int) -> nn.Module:
    """A map of images or of vectors; its weights come from the unit, so it draws none."""
    if features.dim() == 4:
        return skip_init(nn.Conv2d, features.shape[1], behind, 1, bias=False)
    return skip_init(nn.Linear, features.shape[1], behind, bias=False)


def _maps(network: UnitNetwork) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if network.reduce is not None:
        found["reduce.weight"] = network.reduce if network.before is None else network.reduce @ network.before
    if network.lift is not None:
        found["lift.weight"] = network.lift
    return found
