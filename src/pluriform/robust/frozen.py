"""Weights and modes that stay as they are while the rest of a network trains."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pluriform.errors import ConfigError, explain
from pluriform.graph.blocks import blocks
from pluriform.graph.graph import Graph
from pluriform.graph.ops import Op

__all__ = ["Frozen", "TrainedPart", "only_trained", "trained_part"]


@dataclass(frozen=True)
class TrainedPart:
    """What of a network trains.

    Attributes:
        parameters: Names of parameters.
        modules: Dotted paths of modules that are in training mode then: dropout drops, batch norms use their batch.
    """

    parameters: frozenset[str]
    modules: frozenset[str]


class Frozen(nn.Module):
    """A network of which only a part ever enters training mode.

    `train()` leaves all other modules in evaluation mode: their dropout is off and batch statistics are not used. With
    `adapt`, their batch norms alone work on batches and let running statistics follow, their scales and shifts fixed.

    Args:
        network: Of the user's own class.
        part: What trains.
        adapt: Whether statistics of frozen batch norms follow the inputs.
    """

    def __init__(self, network: nn.Module, part: TrainedPart, adapt: bool) -> None:
        super().__init__()
        self.network = network
        named = dict(network.named_modules())
        self._still = [module for path, module in named.items() if path not in part.modules]
        self._following = [m for m in self._still if adapt and isinstance(m, _NormBase) and m.track_running_stats]
        self.train(self.training)

    def train(self, mode: bool = True) -> "Frozen":
        """Put the trained part in that mode, the rest in evaluation mode."""
        super().train(mode)
        for module in self._still:
            module.training = False
        for module in self._following:
            module.training = mode
        return self

    def forward(self, inputs: Any) -> Any:
        """Outputs of the network."""
        return self.network(inputs)


@contextmanager
def only_trained(network: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Gradients for the named parameters alone inside; every flag comes back."""
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def trained_part(network: nn.Module, graph: Graph, head: str, count: int | None) -> TrainedPart:
    """The head, the last blocks before it, and what follows.

    Layers that the frozen part calls too stay frozen.

    Args:
        network: The network.
        graph: Of it; needed for blocks only.
        head: Dotted path of the head.
        count: Blocks before the head that train too; `None` for the whole network.

    Raises:
        ConfigError: There are fewer blocks before the head.
    """
    if count is None:
        every = frozenset(name for name, _ in network.named_parameters())
        return TrainedPart(every, frozenset(path for path, _ in network.named_modules()))
    behind = _from(graph, head, count)
    parameters = {name for name, _ in network.named_parameters() if _below(name, head)}
    modules = {path for path, _ in network.named_modules() if _below(path, head)}
    called = {node.module for node in graph.nodes if node.module and node.name in behind}
    called -= {node.module for node in graph.nodes if node.module and node.name not in behind}
    for path in called:
        parameters |= {name for name, _ in network.named_parameters() if _below(name, str(path))}
        modules |= {name for name, _ in network.named_modules() if _below(name, str(path))}
    parameters |= {
        str(node.attributes["path"])
        for node in graph.nodes
        if node.op is Op.PARAMETER and all(reader.name in behind for reader in graph.consumers(node.name))
    } & {name for name, _ in network.named_parameters()}
    modules |= {
        path
        for path, module in network.named_modules()
        if (own := [f"{path}.{name}" if path else name for name, _ in module.named_parameters()])
        and parameters.issuperset(own)
    }
    return TrainedPart(frozenset(parameters), frozenset(modules))


def _below(name: str, path: str) -> bool:
    return f"{name}.".startswith(f"{path}.")


def _from(graph: Graph, head: str, count: int) -> set[str]:
    """Names of the nodes from the start of the `count`-th block before the head on."""
    order = [node.name for node in graph.nodes]
    if count == 0:
        return set(order[order.index(head) :]) if head in graph else set()
    found = blocks(graph)
    place = next((place for place, block in enumerate(found) if head in block.nodes), 0)
    if count > place:
        raise ConfigError(
            explain(
                f"at most {place} blocks with weights before the head {head!r}",
                f"{count}",
                f"last-n of {type(graph.root).__name__}",
                "set blocks to less, or mode='full-network'",
            )
        )
    return set(order[order.index(found[place - count].nodes[0]) :])
