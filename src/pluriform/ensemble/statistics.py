"""Running statistics of normalisation layers for weights that they were not collected with."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.axes import Inputs
from pluriform.data.data import Data
from pluriform.graph.parameters import weights_of
from pluriform.training.feed import take

__all__ = ["calibration_inputs", "has_statistics", "recalibrated", "statistics_copies"]

SAMPLES = 1024
BATCH = 128


def has_statistics(module: nn.Module) -> bool:
    """Whether the network has normalisation layers that keep running statistics."""
    return any(_keeps(layer) for layer in module.modules())


def calibration_inputs(module: nn.Module, data: Data, seed: int) -> Tensor | None:
    """A random thousand of the training inputs where the network needs them, else `None`."""
    if not has_statistics(module):
        return None
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return take(data.train, order[:SAMPLES])[0]


@torch.no_grad()
def recalibrated(module: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
    """Running statistics for `weights`: the average over the batches of `inputs`, as in SWAG.

    Args:
        module: The network; left as it is.
        weights: Values of some or all of its weights, by name.
        inputs: Training inputs, at least two; on any device.

    Returns:
        The statistics by buffer name.

    References:
        Izmailov, Podoprikhin, Garipov, Vetrov, Wilson 2018, Averaging Weights Leads to Wider Optima, arXiv:1803.05407.
    """
    made = copy.deepcopy(module).eval()
    for name, tensor in weights_of(made).items():
        if name in weights:
            tensor.copy_(weights[name])
    for layer in made.modules():
        if _keeps(layer):
            layer.reset_running_stats()  # type: ignore[operator]
            layer.momentum = None  # type: ignore[assignment]
            layer.train()
    device = next((tensor.device for tensor in made.parameters()), inputs.device)
    parts = inputs.split(BATCH)
    for part in parts if len(parts[-1]) > 1 or len(parts) == 1 else parts[:-1]:
        made(part.to(device))
    return {name: buffer for name, buffer in made.named_buffers() if _is_statistic(made, name)}


def statistics_copies(module: nn.Module, members: int) -> dict[str, Tensor]:
    """Stacked copies of all buffers, with normalisation layers set to take statistics of their batch.

    A forward pass then updates the copies, which nobody reads, instead of the module. Empty without such layers.
    """
    if not has_statistics(module):
        return {}
    for layer in module.modules():
        if _keeps(layer):
            layer.train()
    return {name: buffer.expand(members, *buffer.shape).clone() for name, buffer in module.named_buffers()}


def _keeps(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None


def _is_statistic(module: nn.Module, name: str) -> bool:
    owner, _, _ = name.rpartition(".")
    return _keeps(module.get_submodule(owner))
