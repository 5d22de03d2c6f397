"""What a thin network and its wide partner cost to use, measured side by side."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.graph.parameters import modes_kept
from pluriform.metrics.latency import repeated
from pluriform.metrics.memory import peak_of
from pluriform.narrow.wide import macs_of
from pluriform.training.feed import take

__all__ = ["BATCHES", "NetworkCost", "network_costs"]

BATCHES = (1, 128)
SECONDS = 0.02  # Of one sitting of calls; networks take turns, so that a busy machine is busy for all.
SITTINGS = 3


@dataclass(frozen=True)
class NetworkCost:
    """Figures of one network in evaluation mode.

    Attributes:
        parameters: Weights, shared ones once.
        macs: Multiply-accumulates of matrix products and convolutions of one sample.
        latency: Median milliseconds of a call, by the number of samples.
        memory: The most MiB held at once during the call with the most samples, weights and inputs included.
        memory_bound: How memory was measured.
    """

    parameters: int
    macs: int
    latency: dict[int, float]
    memory: float
    memory_bound: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; the keys of `latency` become text."""
        return asdict(self) | {"latency": {str(size): value for size, value in self.latency.items()}}


@torch.no_grad()
def network_costs(networks: Mapping[str, nn.Module], data: Data, device: torch.device) -> dict[str, NetworkCost]:
    """Costs of several networks for the same training samples; their calls are timed in turns.

    Args:
        networks: On the device; modes and weights stay as they are.
        data: Gives the inputs, repeated where there are too few.
        device: Where.

    Example:
        >>> import pluriform as pf
        >>> from torch import nn
        >>> nets = {"thin": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}
        >>> found = network_costs(nets, pf.load("digits"), torch.device("cpu"))["thin"]
        >>> found.parameters, found.macs, sorted(found.latency)
        (650, 640, [1, 128])
    """
    inputs = {
        size: take(data.train, torch.arange(size) % len(data.train))[0].to(device) for size in BATCHES
    }  # fmt: skip
    times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCHES} for name in networks}
    for size, given in inputs.items():
        for _ in range(SITTINGS):
            for name, network in networks.items():
                with modes_kept(network):
                    network.eval()
                    times[name][size] += repeated(lambda used=network, x=given: used(x), device, SECONDS)
    return {name: _cost(network, inputs, times[name], device) for name, network in networks.items()}


def _cost(
    network: nn.Module, inputs: Mapping[int, torch.Tensor], times: Mapping[int, list[float]], device: torch.device
) -> NetworkCost:
    most = inputs[BATCHES[-1]]
    with modes_kept(network):
        network.eval()
        peak = peak_of(lambda: network(most), (*network.parameters(), *network.buffers(), most), device, "a call")
    return NetworkCost(
        sum(weight.numel() for weight in network.parameters()),
        macs_of(network, inputs[1]),
        {size: statistics.median(spent) for size, spent in times.items()},
        peak.mebibytes,
        peak.how,
    )
